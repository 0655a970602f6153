package patches

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"kbuild-run/patches/cache"
	"kbuild-run/patches/job"
)

// client gives up soon on a host that does not answer: behind a firewall the
// next source is the one that works.
var client = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	DialContext:           (&net.Dialer{Timeout: 4 * time.Second}).DialContext,
	TLSHandshakeTimeout:   4 * time.Second,
	ResponseHeaderTimeout: 10 * time.Second,
}}

// unreachable remembers hosts that did not answer in this run.
var unreachable sync.Map // host -> error

// fromTarball unpacks a tarball that agrees with the sha256sums.asc beside it.
func (src source) fromTarball(ctx context.Context, s *job.Step, dir, tree string) (from string, err error) {
	name := path.Base(src.Tarball)
	file := filepath.Join(dir, name)
	if dry(ctx, fmt.Sprintf("curl -fo %s %s && curl -f %s | (cd %s && sha256sum -c --ignore-missing)",
		job.Quote(file), src.Tarball, sums(src.Tarball), job.Quote(dir))) {
		return name, untar(ctx, s, file, tree)
	}
	want, err := published(ctx, src.Tarball)
	if err != nil {
		return "", err
	}
	defer os.Remove(file)
	got, err := download(ctx, s, src.Tarball, file)
	if err != nil {
		return "", err
	}
	if got != want {
		return "", fmt.Errorf("check %s: sha256 is %s, sha256sums.asc says %s: the download is corrupt", name, got, want)
	}
	return name, untar(ctx, s, file, tree)
}

// sums is the address of the checksums that are published beside a tarball.
func sums(tarball string) string {
	return strings.TrimSuffix(tarball, path.Base(tarball)) + "sha256sums.asc"
}

// published returns the sha256 that the folder of a tarball publishes for it.
func published(ctx context.Context, tarball string) (string, error) {
	r, err := get(ctx, sums(tarball))
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 2 && f[1] == path.Base(tarball) {
			return f[0], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read %s: %w", sums(tarball), err)
	}
	return "", fmt.Errorf("read %s: %s is not in it", sums(tarball), path.Base(tarball))
}

// download writes what is at address to file and returns its sha256.
func download(ctx context.Context, s *job.Step, address, file string) (sum string, err error) {
	r, err := get(ctx, address)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	p := &progress{s: s, what: path.Base(address), of: r.ContentLength}
	if _, err := io.Copy(io.MultiWriter(f, h, p), r.Body); err != nil {
		return "", fmt.Errorf("download %s: %w", address, err)
	}
	return hex.EncodeToString(h.Sum(nil)), f.Close()
}

// get asks for an address.
func get(ctx context.Context, address string) (*http.Response, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if err, ok := unreachable.Load(u.Host); ok {
		return nil, err.(error)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	r, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		err = fmt.Errorf("download %s: %w", address, err)
		if ctx.Err() == nil {
			unreachable.Store(u.Host, err)
		}
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		r.Body.Close()
		return nil, fmt.Errorf("download %s: %s", address, r.Status)
	}
	return r, nil
}

// progress counts what is written to it.
type progress struct {
	s     *job.Step
	what  string
	n, of int64
}

func (p *progress) Write(b []byte) (int, error) {
	p.n += int64(len(b))
	if p.of > 0 {
		p.s.Progress("download %s: %s of %s", p.what, cache.Bytes(uint64(p.n)), cache.Bytes(uint64(p.of)))
	} else {
		p.s.Progress("download %s: %s", p.what, cache.Bytes(uint64(p.n)))
	}
	return len(b), nil
}
