package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// churn changes a tree at random: churn DIR OUT COUNT SEED makes COUNT changes in
// DIR, and moves to and from OUT. What fails because of what others do at the
// same time is left out.
//
// Whoever follows the records of CHANGE_NOTIFY knows the tree: no folder with
// something in it comes into DIR or goes from one folder of it to another, since
// records do not say what is in it. For the same reason no two names are
// exchanged.
func churn(args []string) int {
	if len(args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: churn DIR OUT COUNT SEED")
		return 2
	}
	n, err := strconv.Atoi(args[2])
	seed, err2 := strconv.ParseUint(args[3], 10, 64)
	if err != nil || err2 != nil {
		fmt.Fprintf(os.Stderr, "churn: numbers %q and %q wanted\n", args[2], args[3])
		return 2
	}
	r := rand.New(rand.NewPCG(seed, seed))
	for range n {
		change(r, args[0], args[1])
	}
	return 0
}

// entry is a random name in the folder, or one or two folders further down.
func entry(r *rand.Rand, dir string) string {
	p := dir
	for range 1 + r.IntN(3) {
		p = filepath.Join(p, string(rune('a'+r.IntN(6))))
	}
	return p
}

func change(r *rand.Rand, dir, out string) {
	p := entry(r, dir)
	switch r.IntN(14) {
	case 0, 1:
		os.Mkdir(p, 0o777)
	case 2, 3:
		os.WriteFile(p, []byte("text"), 0o666)
	case 4:
		os.Remove(p)
	case 5:
		os.RemoveAll(p)
	case 6, 7: // in its folder
		os.Rename(p, filepath.Join(filepath.Dir(p), string(rune('a'+r.IntN(6)))))
	case 8: // anywhere
		if list, err := os.ReadDir(p); err != nil || len(list) == 0 {
			os.Rename(p, entry(r, dir))
		}
	case 9: // out of the tree
		gone := filepath.Join(out, strconv.Itoa(r.Int()))
		os.Rename(p, gone)
		os.RemoveAll(gone)
	case 10: // into the tree
		come := filepath.Join(out, strconv.Itoa(r.Int()))
		if os.WriteFile(come, nil, 0o666) == nil && os.Rename(come, p) != nil {
			os.Remove(come)
		}
	case 11: // what tar does
		if os.Mkdir(p, 0o755) != nil {
			return
		}
		for i := range 4 {
			f := filepath.Join(p, string(rune('a'+i)))
			os.WriteFile(f, make([]byte, 1<<i), 0o644)
			os.Chmod(f, 0o644)
			os.Chtimes(f, time.Unix(1e9, 0), time.Unix(1e9, 0))
		}
		os.Chmod(p, 0o777)
	case 12:
		os.Symlink("nowhere", p)
		os.Link(entry(r, dir), entry(r, dir))
	case 13:
		os.Truncate(p, int64(r.IntN(5000)))
		unix.Setxattr(p, "user.churn", []byte{byte(r.IntN(256))}, 0)
		os.Chmod(p, 0o777)
	}
}
