package images

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// planted is a text that stands for every secret; no skeleton may hold it.
const planted = "PLANTED-SECRET"

// fakeHost makes a host root with what programs need and many secrets.
func fakeHost(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	w := func(p, body string) { write(t, filepath.Join(root, p), body) }
	l := func(p, target string) {
		must(t, os.MkdirAll(filepath.Join(root, filepath.Dir(p)), 0o755))
		must(t, os.Symlink(target, filepath.Join(root, p)))
	}
	w("usr/bin/true", "program")
	w("usr/lib/os-release", "NAME=test")
	w("usr/share/ca-certificates/ca.crt", "certificate")
	w("usr/local/etc/app.conf", planted)
	l("bin", "usr/bin")
	l("lib", "/usr/lib")
	l("lib64", "../outside")
	must(t, os.Mkdir(filepath.Join(root, "sbin"), 0o755))

	w("etc/ld.so.cache", "cache")
	w("etc/nsswitch.conf", "passwd: files")
	w("etc/profile", "export PATH=/bin\nexport API_URL=$API\n")
	w("etc/ssl/certs/local.pem", "-----BEGIN CERTIFICATE-----")
	w("etc/locale.conf", "LANG=C")
	w("etc/python3.11/sitecustomize.py", "pass")
	w("etc/skel/.bashrc", "alias ll=ls")
	l("etc/os-release", "../usr/lib/os-release")
	l("etc/localtime", "/usr/share/zoneinfo/UTC")
	l("etc/ssl/certs/ca.pem", "/usr/share/ca-certificates/ca.crt")
	l("etc/alternatives/editor", "/usr/bin/vi")
	l("etc/alternatives/relay", "/etc/ld.so.cache")
	l("etc/alternatives/mtab", "/proc/self/mounts")

	for _, p := range []string{
		"etc/shadow", "etc/shadow-", "etc/gshadow", "etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "etc/ssl/private/server.key", "etc/gitconfig", "etc/npmrc",
		"etc/pip.conf", "etc/environment", "etc/krb5.keytab", "etc/sudoers", "etc/passwd", "etc/group", "etc/hosts", "etc/resolv.conf", "etc/hostname",
		"etc/kubernetes/admin.conf", "etc/skel/.netrc", "root/.ssh/id_rsa", "home/u/.aws/credentials", "var/lib/secret", "run/secrets/token", "opt/app/key", "srv/x",
		// In allowed places, secret by name.
		"etc/ssl/certs/server.key", "etc/perl/db_password", "etc/vim/.netrc", "etc/python3/id_ed25519", "etc/ssl/certs/private/x.pem", "etc/fonts/token.conf", "etc/java-17-openjdk/management/jmxremote.password",
	} {
		w(p, planted)
	}
	// In allowed places, secret by content.
	w("etc/ssl/certs/combined.pem", "-----BEGIN RSA PRIVATE KEY-----\n"+planted)
	w("etc/bash.bashrc", "export GITHUB_TOKEN="+planted)
	w("etc/perl/site.pm", "$url='https://user:"+planted+"@example.com/'")
	w("etc/vim/vimrc.local", "ghp_0123456789abcdefghijABCDEFGHIJ0123456789 "+planted)
	// In allowed places, not for everybody.
	w("etc/services", planted)
	must(t, os.Chmod(filepath.Join(root, "etc/services"), 0o640))
	w("etc/terminfo/x/xterm", planted)
	must(t, os.Chmod(filepath.Join(root, "etc/terminfo/x"), 0o750))
	// Links from allowed places to forbidden ones.
	l("etc/protocols", "shadow")
	l("etc/alternatives/shadow", "/etc/shadow")
	l("etc/alternatives/home", "../../root/.ssh/id_rsa")
	l("etc/ssl/certs/key.pem", "../private/server.key")
	l("etc/fonts/conf.d", "/etc/ssh")
	l("etc/magic", "/run/secrets/token")
	l("etc/ld.so.conf.d", "../root")
	l("etc/default", "/etc/ssh") // an allowed name is beneath it
	w("etc/ssh/locale", planted)
	return root
}

func hostImage(t testing.TB, s *Store, opts HostOptions) (*HostImage, map[string]string) {
	t.Helper()
	h, f, err := s.HostImage(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return h, contentsOf(t, f)
}

func TestHostImageHasNoSecrets(t *testing.T) {
	s := newStore(t)
	root := fakeHost(t)
	h, got := hostImage(t, s, HostOptions{Root: root, User: &HostUser{"ann", 1000, 1001}, Hostname: "box"})
	for p, what := range got {
		if strings.Contains(what, planted) || strings.Contains(what, "PRIVATE KEY") {
			t.Errorf("%s: %s", p, what)
		}
	}
	link := func(target string) string { return "120777 0:0 -> " + target }
	want := map[string]string{
		"usr": dirDef, "sbin": dirDef, "bin": link("usr/bin"), "lib": link("/usr/lib"), "etc": dirDef, "home": dirDef, "home/ann": "40700 1000:1001", "root": "40700 0:0",
		"etc/ld.so.cache": q("cache"), "etc/nsswitch.conf": q("passwd: files"), "etc/profile": q("export PATH=/bin\nexport API_URL=$API\n"), "etc/locale.conf": q("LANG=C"),
		"etc/ssl": dirDef, "etc/ssl/certs": dirDef, "etc/ssl/certs/local.pem": q("-----BEGIN CERTIFICATE-----"), "etc/ssl/certs/ca.pem": link("/usr/share/ca-certificates/ca.crt"),
		"etc/python3.11": dirDef, "etc/python3.11/sitecustomize.py": q("pass"), "etc/python3": dirDef, "etc/skel": dirDef, "etc/skel/.bashrc": q("alias ll=ls"),
		"etc/os-release": link("../usr/lib/os-release"), "etc/localtime": link("/usr/share/zoneinfo/UTC"), "etc/mtab": link("/proc/self/mounts"),
		"etc/alternatives": dirDef, "etc/alternatives/editor": link("/usr/bin/vi"), "etc/alternatives/relay": link("/etc/ld.so.cache"), "etc/alternatives/mtab": link("/proc/self/mounts"),
		"etc/perl": dirDef, "etc/vim": dirDef, "etc/fonts": dirDef, "etc/terminfo": dirDef, "etc/java-17-openjdk": dirDef, "etc/java-17-openjdk/management": dirDef,
		"etc/passwd":   q("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
		"etc/group":    q("root:x:0:\ntty:x:5:\nann:x:1001:\nnogroup:x:65534:\n"),
		"etc/hostname": q("box\n"), "etc/hosts": q("127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n"), "etc/resolv.conf": q(""),
	}
	for _, d := range baseDirs {
		if want[d.path] == "" {
			want[d.path] = fmt.Sprintf("%o 0:0", 0o40000|d.perm)
		}
	}
	want["var/run"], want["var/lock"] = link("/run"), link("/run/lock")
	wantContents(t, got, want)

	if fmt.Sprint(h.Mounts) != fmt.Sprintf("[{%s/usr /usr} {%s/sbin /sbin}]", root, root) || fmt.Sprint(h.Hide) != "[/usr/local/etc]" {
		t.Errorf("mounts %v, hide %v", h.Mounts, h.Hide)
	}
	if fmt.Sprint(h.Env) != "[PATH="+DefaultPath+" LANG=C.UTF-8]" || h.Image.Name != HostName || h.Image.Kind != KindHost {
		t.Errorf("env %v, image %+v", h.Env, h.Image)
	}
	if len(h.Image.Warnings) != 1 {
		t.Errorf("warnings %q", h.Image.Warnings)
	}
}

func TestHostImageIsKeptUntilTheHostChanges(t *testing.T) {
	s := newStore(t)
	root := fakeHost(t)
	opts := HostOptions{Root: root}
	blob := func() string {
		h, f, err := s.HostImage(context.Background(), opts)
		must(t, err)
		f.Close()
		return h.Image.Digest
	}
	inode := func(d string) string {
		fi, err := os.Stat(s.blobPath(d))
		must(t, err)
		return fmt.Sprint(fi.Sys())
	}
	first := blob()
	kept := inode(first)
	if blob() != first || inode(first) != kept {
		t.Error("the skeleton was made again though nothing changed")
	}
	for what, change := range map[string]func() error{
		"file": func() error {
			return os.WriteFile(filepath.Join(root, "etc/nsswitch.conf"), []byte("hosts: files"), 0o644)
		},
		"new name": func() error { return os.WriteFile(filepath.Join(root, "etc/rpc"), []byte("new"), 0o644) },
		"link": func() error {
			p := filepath.Join(root, "etc/alternatives/editor")
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.Symlink("/usr/bin/nano", p)
		},
		"mode": func() error { return os.Chmod(filepath.Join(root, "etc/ld.so.cache"), 0o600) },
	} {
		before := blob()
		must(t, change())
		if blob() == before {
			t.Errorf("%s: the skeleton did not change with the host", what)
		}
	}
	if got := leftovers(t, s, blobsDir); len(got) != 1 {
		t.Errorf("old skeletons stay: %v", got)
	}
	must(t, os.Truncate(s.blobPath(blob()), 4096))
	if _, got := hostImage(t, s, opts); got["etc"] != dirDef {
		t.Error("a damaged skeleton is not made again")
	}
	again, err := OpenStore(s.dir, ktime.Real)
	must(t, err)
	defer again.Close()
	if got := leftovers(t, s, blobsDir); len(got) != 1 {
		t.Errorf("after a sweep there are the blobs %v", got)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("the skeleton is listed as an image: %v, %v", list, err)
	}
}

func TestHostImageRefuses(t *testing.T) {
	s := newStore(t)
	_, _, err := s.HostImage(context.Background(), HostOptions{Root: t.TempDir()})
	wantError(t, err, errdefs.HostFeature, "/usr")
	for _, opts := range []HostOptions{{Hostname: "a b"}, {User: &HostUser{Name: "x:0:0\nroot2"}}} {
		_, _, err := s.HostImage(context.Background(), opts)
		wantError(t, err, errdefs.InvalidArgument, "malformed")
	}
}

// TestThisHost makes the image of the machine that runs the test.
func TestThisHost(t *testing.T) {
	if _, err := os.Stat("/usr/bin"); err != nil {
		t.Skip("no /usr on this machine")
	}
	s := newStore(t)
	h, f, err := s.HostImage(context.Background(), HostOptions{})
	must(t, err)
	defer f.Close()
	b, err := os.ReadFile(f.Name())
	must(t, err)
	if m := regexp.MustCompile(`PRIVATE KEY|\$(y|6|2b)\$[./A-Za-z0-9]{8}`).Find(b); m != nil {
		t.Errorf("the skeleton holds %q", m)
	}
	for _, p := range []string{"/etc/shadow", "/etc/gshadow", "/etc/machine-id"} {
		for _, line := range bytes.Split(readIfAny(p), []byte("\n")) {
			// Lines of system users without a password say nothing secret.
			if fields := bytes.Split(line, []byte(":")); len(line) > 20 && (len(fields) < 2 || len(fields[1]) > 2) && bytes.Contains(b, line) {
				t.Errorf("the skeleton holds a line of %s", p)
			}
		}
	}
	got := contentsOf(t, f)
	for p := range got {
		base := filepath.Base(p)
		if deniedName(base) && strings.HasPrefix(p, "etc/") && !strings.HasPrefix(got[p], "120777") && p != "etc/passwd" {
			t.Errorf("%s is in the skeleton", p)
		}
		if strings.HasPrefix(p, "home/") || strings.HasPrefix(p, "root/") || strings.HasPrefix(p, "opt/") {
			t.Errorf("%s is in the skeleton", p)
		}
	}
	if len(h.Mounts) == 0 || h.Image.Size > 64<<20 {
		t.Errorf("mounts %v, %d bytes", h.Mounts, h.Image.Size)
	}
}

func readIfAny(p string) []byte {
	b, _ := os.ReadFile(p)
	return b
}

func TestHostEtcTable(t *testing.T) {
	last := ""
	seen := map[string]bool{}
	for _, e := range HostEtc {
		if e.Reason == "" || e.Path == "" || strings.HasPrefix(e.Path, "/") || seen[e.Path] {
			t.Errorf("entry %+v after %q", e, last)
		}
		seen[e.Path] = true
		last = e.Path
		for part := range strings.SplitSeq(strings.TrimSuffix(e.Path, "/"), "/") {
			if deniedName(part) {
				t.Errorf("%s can never be copied: the name %s is denied", e.Path, part)
			}
		}
	}
}
