package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"kbuild-run/gen/smb2"
)

// Requests of the kernel's SMB client (fs/smb/client/cifs_ioctl.h). Each sends a
// CHANGE_NOTIFY for a directory and waits for the answer; the second returns what
// is in it.
const (
	cifsIocNotify     = 0x4005cf09 // _IOW(0xcf, 9, struct smb3_notify)
	cifsIocNotifyInfo = 0xc009cf0b // _IOWR(0xcf, 11, struct smb3_notify_info)
)

// cifsNotify waits for a change in a directory of a mounted SMB share and prints
// the records that it is told of: action, then name.
func cifsNotify(args []string) error {
	f := flag.NewFlagSet("cifsnotify", flag.ContinueOnError)
	plain := f.Bool("plain", false, "use CIFS_IOC_NOTIFY, which tells no records")
	tree := f.Bool("tree", false, "watch the whole tree")
	filter := f.Uint("filter", 0x3, "`BITS` of FILE_NOTIFY_CHANGE_*")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("usage: cifsnotify [-plain] [-tree] [-filter BITS] FOLDER")
	}
	fd, err := unix.Open(f.Arg(0), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", f.Arg(0), err)
	}
	defer unix.Close(fd)

	// struct smb3_notify_info, packed: the filter, a byte for the tree, the
	// length of the data, the data. smb3_notify is its first two fields.
	const head, size = 9, 4096
	b := make([]byte, head+size)
	binary.LittleEndian.PutUint32(b, uint32(*filter))
	if *tree {
		b[4] = 1
	}
	binary.LittleEndian.PutUint32(b[5:], size)
	name, request := "CIFS_IOC_NOTIFY_INFO", uintptr(cifsIocNotifyInfo)
	if *plain {
		name, request = "CIFS_IOC_NOTIFY", cifsIocNotify
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return fmt.Errorf("%s on %s: %w", name, f.Arg(0), e)
	}
	if *plain {
		fmt.Println("returned")
		return nil
	}
	n := binary.LittleEndian.Uint32(b[5:])
	if n > size {
		return fmt.Errorf("%s on %s: %d bytes of records in a buffer of %d", name, f.Arg(0), n, size)
	}
	return printRecords(os.Stdout, b[head:head+n])
}

// printRecords prints FILE_NOTIFY_INFORMATION (MS-FSCC 2.7.1).
func printRecords(w io.Writer, b []byte) error {
	if len(b) == 0 {
		return errors.New("read records: 0 bytes, want 12")
	}
	records, err := smb2.Chain[smb2.FileNotifyInformation](b)
	for _, r := range records {
		fmt.Fprintf(w, "%d %s\n", uint32(r.Action), smb2.FromUTF16(r.FileName))
	}
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	return nil
}
