package client_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"kbuild-run/gen/smb2"
	"kbuild-run/tests/client"
)

// A folder is entered and left as Windows Explorer does it, and what crossed the
// wire is printed.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, "192.0.2.1", client.Options{User: "user", Password: "password"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Drop()
	session, err := c.Login(ctx)
	if err != nil {
		log.Fatal(err)
	}
	tree, err := session.TreeConnect(ctx, "share")
	if err != nil {
		log.Fatal(err)
	}
	dir, watch, err := tree.CreateNotify(ctx, "folder", client.Create{
		Contexts: []smb2.CreateContext{client.MaximalAccess()},
	}, client.Watch{
		Filter: smb2.FILE_NOTIFY_CHANGE_FILE_NAME | smb2.FILE_NOTIFY_CHANGE_ATTRIBUTES | smb2.FILE_NOTIFY_CHANGE_LAST_WRITE,
		Size:   2048,
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := watch.Interim(ctx); err != nil {
		log.Fatal(err)
	}
	watch.Cancel()
	if _, err := watch.Final(ctx); err != nil { // STATUS_CANCELLED
		log.Fatal(err)
	}
	dir.Close(ctx)
	for _, line := range c.Lines() {
		fmt.Println(line)
	}
	for _, v := range c.Violations() {
		fmt.Println("the server is wrong:", v)
	}
}
