package patches

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

func TestBases(t *testing.T) {
	defaults := 0
	for _, b := range Bases() {
		if b.Default {
			defaults++
		}
		if len(b.Sources) == 0 {
			t.Errorf("%s has no source", b.Name)
		}
		for _, s := range b.Sources {
			if (s.Tarball == "") == (s.Package == "") || (s.Package == "") != (s.Suite == "") {
				t.Errorf("%s: source %+v is neither a tarball nor a package with its suite", b.Name, s)
			}
		}
	}
	if defaults != 1 {
		t.Errorf("%d default bases, want 1", defaults)
	}
}

func TestBaseOf(t *testing.T) {
	for _, test := range []struct{ version, want string }{
		{"6.12.117", "v6.12"},
		{"6.1.0", "v6.12"},
		{"6.18.0-rc1", "v6.12"},
		{"7.2.9", "v6.12"},
		{"7.3.4", "v7.3"},
		{"7.10.0", "v7.3"},
		{"8.0.0", "v7.3"},
	} {
		if got := baseOf(test.version).Name; got != test.want {
			t.Errorf("baseOf(%s) = %s, want %s", test.version, got, test.want)
		}
	}
}

func TestPickMirror(t *testing.T) {
	const bookworm = `'http://mirror.example/debian/dists/bookworm/InRelease' a 0
'http://mirror.example/debian/dists/bookworm-updates/InRelease' b 0
'http://mirror.example/debian-security/dists/bookworm-security/InRelease' c 0
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' d 0
`
	const other = "'https://tools.example/apt/dists/stable/InRelease' a 0\n"
	for _, test := range []struct{ name, uris, suite, want string }{
		{"suite itself", bookworm, "bookworm-security", "http://mirror.example/debian-security"},
		{"other release", bookworm, "trixie-backports", "http://mirror.example/debian"},
		{"other security", bookworm, "trixie-security", "http://mirror.example/debian-security"},
		{"not first", other + bookworm, "trixie-backports", "http://mirror.example/debian"},
		{"no Debian", other, "trixie-backports", ""},
		{"nothing", "", "trixie-backports", ""},
	} {
		if got := pickMirror(test.uris, test.suite); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestAmount(t *testing.T) {
	for _, test := range []struct{ totals, want string }{
		{"R: 1448140800 (1.4GiB, 159MiB/s)", "1.4GiB"},
		{"something else", ""},
	} {
		if got := amount(test.totals); got != test.want {
			t.Errorf("amount(%q) = %q, want %q", test.totals, got, test.want)
		}
	}
}

func TestSubject(t *testing.T) {
	for _, test := range []struct{ mail, want string }{
		{"From 0\nSubject: [PATCH] one\n\nSubject: no\n", "one"},
		{"From 0\nSubject: [PATCH v2 3/9] a subject that\n is folded\nDate: x\n\n", "a subject that is folded"},
		{"From 0\n\n", ""},
	} {
		if got := (Mail{Text: []byte(test.mail)}).Subject(); got != test.want {
			t.Errorf("subject of %q is %q, want %q", test.mail, got, test.want)
		}
	}
}

// The series in the folder and those built in are the same and well-formed.
func TestEmbedded(t *testing.T) {
	list, err := List()
	if err != nil {
		t.Fatal(err)
	}
	for name, all := range list {
		for _, base := range all {
			if _, err := FindBase(base); err != nil {
				t.Errorf("%s/%s: %v", name, base, err)
			}
			s, err := FindSeries(name, base)
			if err != nil {
				t.Error(err)
				continue
			}
			files, _ := filepath.Glob(filepath.Join(s.Dir, "0*.patch"))
			var named []string
			for _, m := range s.Mails {
				named = append(named, filepath.Join(s.Dir, m.Name))
				built, err := embedded.ReadFile(name + "/" + base + "/" + m.Name)
				if err != nil || !bytes.Equal(built, m.Text) {
					t.Errorf("%s/%s/%s is not built in as it is on disk: %v", name, base, m.Name, err)
				}
			}
			if slices.Sort(named); !slices.Equal(named, files) {
				t.Errorf("%s/%s: series names %q, there are %q", name, base, named, files)
			}
			if s.Cover() == "" {
				t.Errorf("%s/%s has no cover text", name, base)
			}
		}
	}
}

// site serves files as kernel.org does.
type site struct {
	files map[string][]byte
	asked []string
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked = append(s.asked, r.URL.Path)
	b, ok := s.files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Write(b)
}

// tarball packs a small Linux tree under a top folder.
func tarball(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range []struct{ name, text string }{
		{"linux-6.12.9/Makefile", "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 9\nEXTRAVERSION =\n"},
		{"linux-6.12.9/.gitignore", "*.c\n"},
		{"linux-6.12.9/ignored.c", "int ignored;\n"},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.text))}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(f.text))
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// serve returns a base whose only source is a site with the tarball, described
// by sums.
func serve(t *testing.T, sums func(tarball []byte) string) (Base, *site) {
	t.Helper()
	needGit(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	b := tarball(t)
	s := &site{files: map[string][]byte{"/v6.x/linux-6.12.9.tar.gz": b}}
	if sums != nil {
		s.files["/v6.x/sha256sums.asc"] = []byte(sums(b))
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return Base{Name: "v6.12", Sources: []source{{Tarball: server.URL + "/v6.x/linux-6.12.9.tar.gz"}}}, s
}

// getBase makes the bare base.
func getBase(t *testing.T, ctx context.Context, b Base) (tree *Tree, cached bool, err error) {
	t.Helper()
	err = (&job.Job{}).Step("tree", func(s *job.Step) (err error) {
		tree, cached, err = b.tree(ctx, s, "", "")
		return err
	})
	return tree, cached, err
}

func right(b []byte) string {
	return fmt.Sprintf("-----BEGIN PGP SIGNED MESSAGE-----\n\n%x  linux-6.12.9.tar.gz\n", sha256.Sum256(b))
}

func TestTarball(t *testing.T) {
	b, s := serve(t, right)
	tree, cached, err := getBase(t, t.Context(), b)
	if err != nil || cached {
		t.Fatalf("got cached %v, error %v", cached, err)
	}
	if tree.Version != "6.12.9" || tree.Source != "linux-6.12.9.tar.gz" {
		t.Errorf("got version %q, source %q", tree.Version, tree.Source)
	}
	// The same on every machine: whoever changes how the first commit is
	// made makes everybody unpack again.
	if want := "53e0fc86d56731b3f0addf066e740a29d74c2fa0"; tree.Commit != want {
		t.Errorf("the first commit is %s, want %s", tree.Commit, want)
	}
	files, err := look(t.Context(), git(tree.Repository(), "ls-files"))
	if want := ".gitignore\nMakefile\nignored.c"; err != nil || files != want {
		t.Errorf("got files %q, want %q (%v)", files, want, err)
	}
	asked := len(s.asked)
	again, cached, err := getBase(t, t.Context(), b)
	if err != nil || !cached || again.Commit != tree.Commit || again.Source != tree.Source {
		t.Errorf("second time: cached %v, %+v, %v", cached, again, err)
	}
	if len(s.asked) != asked {
		t.Errorf("the second time asked for %q", s.asked[asked:])
	}
	if left, _ := filepath.Glob(filepath.Join(tree.entry, "*.tar*")); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

func TestTarballWrong(t *testing.T) {
	for _, test := range []struct {
		name, want string
		sums       func([]byte) string
	}{
		{"corrupt", "the download is corrupt", func([]byte) string { return right([]byte("something else")) }},
		{"not published", "linux-6.12.9.tar.gz is not in it", func([]byte) string { return "\n" }},
		{"no sums", "sha256sums.asc: 404 Not Found", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, _ := serve(t, test.sums)
			_, _, err := getBase(t, t.Context(), b)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "--tree DIR") {
				t.Errorf("got %v, want %q and --tree", err, test.want)
			}
			if job.Code(err) != job.ExitCannotRun {
				t.Errorf("exit code %d", job.Code(err))
			}
			noEntries(t)
		})
	}
}

// A host that does not answer is asked once.
func TestUnreachable(t *testing.T) {
	b, _ := serve(t, right)
	server := httptest.NewServer(http.NotFoundHandler())
	dead := source{Tarball: server.URL + "/linux-6.12.9.tar.gz"}
	server.Close()
	b.Sources = append([]source{dead, dead}, b.Sources...)
	if _, _, err := getBase(t, t.Context(), b); err != nil {
		t.Fatal(err)
	}
	b.Sources = []source{dead, dead}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, _, err := getBase(t, t.Context(), b)
	if err == nil || strings.Count(err.Error(), "connection refused") != 2 {
		t.Errorf("got %v, want both reasons", err)
	}
}

func TestInterrupted(t *testing.T) {
	b, _ := serve(t, right)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := getBase(t, ctx, b); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	noEntries(t)
}

// noEntries checks that nothing half-made is left.
func noEntries(t *testing.T) {
	t.Helper()
	dir, err := cache.Dir()
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "bases", "v6.12*")); len(left) > 1 || len(left) == 1 && !strings.HasSuffix(left[0], ".lock") {
		t.Errorf("left in the cache: %q", left)
	}
}

// demo fits the base of serve.
var demo = &Series{Name: "demo", Base: "v6.12", Mails: []Mail{{"0001-x.patch", []byte(`From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A U Thor <author@example.com>
Date: Fri, 2 Jan 2026 03:04:05 +0000
Subject: [PATCH] one more

---
diff --git a/ignored.c b/ignored.c
--- a/ignored.c
+++ b/ignored.c
@@ -1 +1,2 @@
 int ignored;
+int more;
`)}}}

// Checkout writes only what differs, and puts right what it finds changed.
func TestCheckout(t *testing.T) {
	b, _ := serve(t, right)
	tree, _, err := getBase(t, t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	patched := *tree
	err = (&job.Job{}).Step("apply", func(s *job.Step) error {
		_, err := patched.apply(t.Context(), s, demo)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(tr *Tree, want string) os.FileInfo {
		t.Helper()
		dir, done, err := tr.Checkout(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		if got, err := os.ReadFile(filepath.Join(dir, "ignored.c")); err != nil || string(got) != want {
			t.Errorf("got %q (%v), want %q", got, err, want)
		}
		fi, err := os.Stat(filepath.Join(dir, "Makefile"))
		if err != nil {
			t.Fatal(err)
		}
		return fi
	}
	before := read(tree, "int ignored;\n")
	after := read(&patched, "int ignored;\nint more;\n")
	if !os.SameFile(before, after) || before.ModTime() != after.ModTime() {
		t.Errorf("a file that does not differ was written")
	}

	for _, test := range []struct {
		commit, path string
		want         bool
	}{
		{tree.Commit, "Makefile", true},
		{tree.Commit, "*.c", false},
		{patched.Commit, ".", true},
		{"0123456789012345678901234567890123456789", "Makefile", false},
	} {
		if got := patched.Same(t.Context(), test.commit, test.path); got != test.want {
			t.Errorf("Same(%s, %s) = %v", test.commit, test.path, got)
		}
	}

	dir := tree.Repository()
	for name, text := range map[string]string{
		filepath.Join(dir, "ignored.c"):                  "half a fi",
		filepath.Join(dir, "stray.c"):                    "",
		filepath.Join(dir, ".git/index.lock"):            "",
		filepath.Join(tree.entry, "checkout-unfinished"): "",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read(&patched, "int ignored;\nint more;\n")
	if _, err := os.Stat(filepath.Join(dir, "stray.c")); err == nil {
		t.Errorf("a file of an interrupted checkout is still there")
	}
}

// A worktree in use is that of all who want its tree and of nobody else, and its base
// is not pruned.
func TestCheckoutShared(t *testing.T) {
	b, _ := serve(t, right)
	tree, _, err := getBase(t, t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	other := *tree
	err = (&job.Job{}).Step("apply", func(s *job.Step) error {
		_, err := other.apply(t.Context(), s, demo)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, done, err := tree.Checkout(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, leave, err := tree.Checkout(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leave()
	ctx, cancel := context.WithCancel(t.Context())
	defer func(w func(string)) { cache.Waiting = w }(cache.Waiting)
	cache.Waiting = func(string) { cancel() }
	if _, _, err := other.Checkout(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a checkout of another tree got %v, want %v", err, context.Canceled)
	}
	all, err := cache.List()
	if err != nil || len(all) != 1 {
		t.Fatalf("got %v, %v, want one entry", all, err)
	}
	if err := all[0].Remove(t.Context()); err == nil {
		t.Error("a base in use was removed")
	}
	done()
	if err := all[0].Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// The lines that a diff adds are those of the new file; one that only removes adds none.
func TestAdded(t *testing.T) {
	got := added(`diff --git a/fs/a.c b/fs/a.c
--- a/fs/a.c
+++ b/fs/a.c
@@ -3 +3,2 @@ int f(void)
-old
+new
+newer
@@ -10,2 +11,0 @@
-gone
-gone
@@ -20,0 +20 @@
+one
diff --git a/fs/b.c b/fs/b.c
new file mode 100644
--- /dev/null
+++ b/fs/b.c
@@ -0,0 +1,3 @@
+1
+2
+3
`)
	want := map[string][]int{"fs/a.c": {3, 4, 20}, "fs/b.c": {1, 2, 3}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
