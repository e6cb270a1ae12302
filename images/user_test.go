package images

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"aios.dev/aios/errdefs"
)

func TestResolveUser(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "usr/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:33:34:Web:/srv/web:/bin/sh\nbad:x:minus:1:::\n7:x:70:71::/seven:\nnohome:x:8:8:::\n")
	write(t, filepath.Join(dir, "etc/group"), "root:x:0:\nweb:x:34:\nlog:x:40:other,web\nadm:x:41:web\nbroken\n")
	must(t, os.Symlink("../usr/etc/passwd", filepath.Join(dir, "etc/passwd")))
	mustImport(t, s, "x", dir, ImportOptions{})
	mustImport(t, s, "empty", smallDir(t, "no users here"), ImportOptions{})
	for _, tc := range []struct {
		image, spec, want string
	}{
		{"x", "", "{0 0 [] /root}"},
		{"x", "web", "{33 34 [40 41] /srv/web}"},
		{"x", "33", "{33 34 [40 41] /srv/web}"},
		{"x", "web:log", "{33 40 [] /srv/web}"},
		{"x", "web:99", "{33 99 [] /srv/web}"},
		{"x", "1234:5678", "{1234 5678 [] /}"},
		{"x", "1234", "{1234 0 [] /}"},
		{"x", "7", "{70 71 [] /seven}"},
		{"x", "nohome", "{8 8 [] /}"},
		{"empty", "", "{0 0 [] /}"},
		{"empty", "12:13", "{12 13 [] /}"},
	} {
		f, _, err := s.Open(tc.image)
		must(t, err)
		got, err := ResolveUser(f, tc.spec)
		if f.Close(); err != nil || fmt.Sprint(got) != tc.want {
			t.Errorf("%s %q: %v, %v; want %s", tc.image, tc.spec, got, err, tc.want)
		}
	}
	f, _, err := s.Open("x")
	must(t, err)
	defer f.Close()
	for spec, code := range map[string]errdefs.Code{
		"ghost": errdefs.InvalidArgument, "web:ghosts": errdefs.InvalidArgument, "-1": errdefs.InvalidArgument, "4294967295": errdefs.InvalidArgument,
		"4294967296": errdefs.InvalidArgument, "bad": errdefs.ImageInvalid, "0:4294967295": errdefs.InvalidArgument,
	} {
		_, err := ResolveUser(f, spec)
		wantError(t, err, code, "")
	}
}
