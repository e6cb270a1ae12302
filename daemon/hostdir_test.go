package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

func TestHostDir(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "real", "in")
	if err := os.MkdirAll(in, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{filepath.Join(dir, "link"): "real", filepath.Join(in, "out"): "/etc", filepath.Join(in, "up"): ".."} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(in, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	for _, tc := range []struct {
		root, path string
		code       errdefs.Code
	}{
		// Who may name everything may name links.
		{"", in, ""}, {"", "/", ""}, {"", filepath.Join(link, "in"), ""}, {"", filepath.Join(in, "file"), errdefs.InvalidArgument},
		{"", filepath.Join(dir, "none"), errdefs.InvalidArgument},
		// Others may not, below what they were given.
		{dir, in, ""}, {"/", in, ""}, {in, in, ""}, {link, filepath.Join(link, "in"), ""},
		{dir, filepath.Join(link, "in"), errdefs.Denied}, {dir, link, errdefs.Denied}, {"/", link, errdefs.Denied},
		{in, filepath.Join(in, "out"), errdefs.Denied}, {in, filepath.Join(in, "out", "ssl"), errdefs.Denied}, {in, filepath.Join(in, "up"), errdefs.Denied},
		{in, filepath.Join(in, "file"), errdefs.InvalidArgument}, {in, filepath.Join(in, "none"), errdefs.InvalidArgument},
		{in, dir, errdefs.RightsExceed}, {in, in + "side", errdefs.RightsExceed}, {in, "/etc", errdefs.RightsExceed},
	} {
		h, err := dirWithin(tc.root, tc.path)
		var f *os.File
		if err == nil {
			f, err = h.open()
		}
		if err == nil && tc.code != "" || err != nil && errdefs.CodeOf(err) != tc.code {
			t.Errorf("%q below %q: %v, want %q", tc.path, tc.root, err, tc.code)
		}
		if err != nil {
			continue
		}
		var opened, named unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &opened); err != nil {
			t.Error(err)
		}
		if err := unix.Stat(tc.path, &named); err != nil || opened.Ino != named.Ino || opened.Dev != named.Dev {
			t.Errorf("%q below %q: another directory was opened", tc.path, tc.root)
		}
		f.Close()
		// What comes of it has the same root.
		want := tc.root
		if want == "" {
			want = tc.path
		}
		if got := rootIn("rw:" + h.String()); got != want {
			t.Errorf("%q is below %q, not %q", h, got, want)
		}
	}
}
