package patches

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

func TestLatest(t *testing.T) {
	names := []string{"linux-6.12.9.tar.xz", "linux-6.12.117.tar.xz", "linux-6.12.118.tar.gz", "linux-6.13.200.tar.xz", "linux-6.12.tar.xz", "patch-6.12.300.xz"}
	for _, test := range []struct{ own, want string }{
		{"linux-6.12.9.tar.xz", "linux-6.12.117.tar.xz"},
		{"linux-6.12.tar.xz", "linux-6.12.117.tar.xz"},
		{"linux-6.12.200.tar.xz", "linux-6.12.200.tar.xz"},
		{"linux-7.3.4.tar.xz", "linux-7.3.4.tar.xz"},
		{"linux-next-20261121.tar.xz", "linux-next-20261121.tar.xz"},
	} {
		if got := latest(test.own, names); got != test.want {
			t.Errorf("latest(%s) = %s, want %s", test.own, got, test.want)
		}
	}
}

func TestNewer(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"linux-6.12.118.tar.xz", "linux-source-6.12 6.12.117-1~deb12u1", true},
		{"linux-source-6.12 6.12.118-1~deb12u1", "linux-6.12.20.tar.xz", true},
		{"linux-6.12.117.tar.xz", "linux-source-6.12 6.12.117-1~deb12u1", false},
		{"linux-source-7.3 7.3.4-1~bpo13+1", "linux-7.3.10.tar.xz", false},
		{"linux-7.3.1.tar.xz", "linux-7.3.tar.xz", true},
	} {
		if got := newer(test.a, test.b); got != test.want {
			t.Errorf("newer(%s, %s) = %v", test.a, test.b, got)
		}
	}
}

// A base is what it was until there is a newer point release.
func TestUpdate(t *testing.T) {
	needGit(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := t.TempDir()
	publish := func(version, sublevel string) {
		src := filepath.Join(t.TempDir(), "linux-"+version)
		if err := os.Mkdir(src, 0o755); err != nil {
			t.Fatal(err)
		}
		makefile := "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = " + sublevel + "\n"
		if err := os.WriteFile(filepath.Join(src, "Makefile"), []byte(makefile), 0o644); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "linux-"+version+".tar.xz")
		if out, err := exec.Command("tar", "-C", filepath.Dir(src), "-cJf", name, filepath.Base(src)).CombinedOutput(); err != nil {
			t.Skipf("tar: %v: %s", err, out)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := path.Base(r.URL.Path)
		if name != "sha256sums.asc" {
			http.ServeFile(w, r, filepath.Join(dir, name))
			return
		}
		all, _ := filepath.Glob(filepath.Join(dir, "*.tar.xz"))
		for _, f := range all {
			text, _ := os.ReadFile(f)
			fmt.Fprintf(w, "%x  %s\n", sha256.Sum256(text), filepath.Base(f))
		}
	}))
	defer server.Close()
	base := Base{Name: "v6.12", Sources: []source{{Tarball: server.URL + "/linux-6.12.7.tar.xz"}}}
	update := func(wantFrom, wantTo string) {
		t.Helper()
		err := new(job.Job).Step("update", func(s *job.Step) error {
			from, to, err := base.update(t.Context(), s)
			if from != wantFrom || to != wantTo {
				t.Errorf("got %q, %q, want %q, %q", from, to, wantFrom, wantTo)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	version := func() (v string) {
		t.Helper()
		err := new(job.Job).Step("tree", func(s *job.Step) error {
			tree, _, err := base.tree(t.Context(), s, "", "")
			if err == nil {
				v = tree.Version
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	publish("6.12.7", "7")
	update("", "")
	if got, want := version(), "6.12.7"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	update("linux-6.12.7.tar.xz", "linux-6.12.7.tar.xz")
	publish("6.12.10", "10")
	update("linux-6.12.7.tar.xz", "linux-6.12.10.tar.xz")
	if got, want := version(), "6.12.10"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// While somebody works in it, it stays.
	publish("6.12.11", "11")
	at, err := cache.Path("bases", base.Name)
	if err != nil {
		t.Fatal(err)
	}
	leave, err := cache.Share(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	err = new(job.Job).Step("update", func(s *job.Step) error { _, _, err := base.update(t.Context(), s); return err })
	if err == nil || !strings.Contains(err.Error(), "update v6.12 to linux-6.12.11.tar.xz: remove ") {
		t.Errorf("got %v, want that it is in use", err)
	}
	if got, want := version(), "6.12.10"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
