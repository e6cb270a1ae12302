package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHostImageHasNoSecrets looks at everything that an agent can see beside
// the host's programs.
func TestHostImageHasNoSecrets(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		// Of these directories nothing of the host is there.
		got := in.sh(t, "find /home /root /var /run /srv /opt /mnt /media /boot /tmp ! -type d ! -type l 2>&1; true")
		if got != "" {
			t.Errorf("files that the host image must not have:\n%s", got)
		}
		if got := in.sh(t, "cd / && ls -Ad home/* root/* srv/* mnt/* media/* boot/* opt/* tmp/* 2>/dev/null; true"); got != "" {
			t.Errorf("directories that are to be empty hold %q", got)
		}
		secrets := []string{
			"/etc/shadow", "/etc/gshadow", "/etc/shadow-", "/etc/sudoers", "/etc/ssh", "/etc/ssl/private", "/etc/machine-id",
			"/etc/hostid", "/etc/fstab", "/etc/crontab", "/etc/krb5.keytab", "/etc/NetworkManager", "/etc/docker", "/etc/kubernetes",
			"/var/lib/dpkg", "/var/log/auth.log", "/run/secrets", "/run/aios", "/var/lib/aios", in.dir, theRoot, "/.dockerenv", "/host",
		}
		if got := in.sh(t, "for f in "+strings.Join(secrets, " ")+"; do test ! -e $f || echo $f; done"); got != "" {
			t.Errorf("these are there:\n%s", got)
		}
		// Whatever of /etc is there, every user of the host may read it.
		for _, file := range strings.Fields(in.sh(t, "find /etc -type f")) {
			fi, err := os.Stat(file)
			if err != nil {
				continue // Made for the agent.
			}
			lower := strings.ToLower(filepath.Base(file))
			if fi.Mode()&0o004 == 0 || strings.Contains(lower, "shadow") || strings.HasSuffix(lower, ".key") || strings.HasSuffix(lower, "_key") {
				t.Errorf("%s (%v) is in the image", file, fi.Mode())
			}
		}
		if got := in.sh(t, "cat /etc/passwd"); strings.Count(got, "\n") > 3 || !strings.Contains(got, "root:x:0:0:") {
			t.Errorf("/etc/passwd is %q", got)
		}
		// Files beneath /usr that only root may read stay out of reach.
		secret := unreadable("/usr")
		if secret != "" {
			if r := in.agent(t, "--", "cat", secret); r.status == 0 {
				t.Errorf("%s, which only root may read on the host, can be read", secret)
			}
		}
		// No way to the host through the kernel's file systems either.
		self, err := os.Readlink("/proc/self/ns/pid")
		must(t, err)
		if got := in.sh(t, "cat /proc/mounts /proc/self/mountinfo /proc/*/environ /proc/*/cmdline /proc/cmdline /proc/version; readlink /proc/self/ns/pid; dmesg; true"); strings.Contains(got, in.dir) || strings.Contains(got, self) {
			t.Errorf("the host shows:\n%s", got)
		}
	})
}

// unreadable returns a file below dir that others than its owner may not
// read, or "".
func unreadable(dir string) string {
	var found string
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || found != "" {
			return filepath.SkipAll
		}
		if d.Type().IsRegular() {
			if fi, err := d.Info(); err == nil && fi.Mode()&0o044 == 0 {
				found = path
			}
		}
		return nil
	})
	return found
}

func TestRootIsCopyOnWrite(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		const marker = "aios-e2e-marker"
		const change = `set -e
echo changed > /usr/bin/` + marker + `
echo changed > /usr/lib/os-release || true
rm /usr/bin/yes
mkdir -p /usr/local/` + marker + `/deep
mv /usr/bin/seq /usr/bin/moved-seq
echo "root2:x:0:0::/:/bin/sh" >> /etc/passwd
echo x > /root/x; echo x > /var/x; echo x > /` + marker + `
chmod 700 /usr/bin/sort; chown 5:5 /usr/bin/cut
/usr/bin/moved-seq 1`
		in.spawn(t, "--name", "changer", "--", "sh", "-c", change+"; echo done; exec sleep 1000")
		eventually(t, "the changes are made", patience, func() (bool, string) {
			r := in.run(t, "logs", "changer")
			return strings.HasSuffix(string(r.stdout), "1\ndone\n"), r.String()
		})
		const look = "cat /usr/bin/" + marker + " 2>&1; ls -d /usr/local/" + marker + " /" + marker + " 2>&1; ls /usr/bin/yes /usr/bin/seq 2>&1; grep -c . /etc/passwd; stat -c '%a %g' /usr/bin/sort /usr/bin/cut"
		before := in.sh(t, look)
		inside := string(in.ok(t, "exec", "changer", "--", "sh", "-c", look+"; true"))
		if inside == before || !strings.HasPrefix(inside, "changed\n") {
			t.Errorf("inside: %s\nelsewhere: %s", inside, before)
		}
		if strings.Contains(before, "changed") || !strings.Contains(before, "/usr/bin/yes\n") || !strings.Contains(before, "755 ") || strings.Contains(before, "700 ") || strings.Contains(before, " 5\n") {
			t.Errorf("another agent sees: %s", before)
		}
		for _, path := range []string{"/usr/bin/" + marker, "/usr/local/" + marker, "/" + marker} {
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("%s is on the host", path)
			}
		}
		for _, path := range []string{"/usr/bin/yes", "/usr/bin/seq"} {
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("the host lost it: %v", err)
			}
		}
		// Hard links, renames across directories, permissions, big files.
		got := in.sh(t, `cd /tmp && head -c 20000000 /dev/zero > big && ln big b2 && stat -c %h big && mv big /usr/lib/big && cmp b2 /usr/lib/big && echo same
cp -a /usr/lib/os-release copy && cmp copy /usr/lib/os-release && echo equal
mkdir d && chmod 0 d && su nobody -s /bin/sh -c 'ls /tmp/d' 2>/dev/null || echo refused`)
		if got != "2\nsame\nequal\nrefused\n" {
			t.Errorf("%q", got)
		}
	})
}

func TestImage(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		need(t, "busybox")
		dir := filepath.Join(in.dir, "rootfs")
		must(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
		must(t, os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nworker:x:77:78::/work:/bin/sh\n"), 0o644))
		for _, name := range []string{"busybox", "sh", "cat", "id", "ls", "echo", "true"} {
			if name == "busybox" {
				raw, err := os.ReadFile(busybox())
				must(t, err)
				must(t, os.WriteFile(filepath.Join(dir, "bin", name), raw, 0o755))
			} else {
				must(t, os.Symlink("busybox", filepath.Join(dir, "bin", name)))
			}
		}
		in.ok(t, "image", "import", "small", dir)
		if list := string(in.ok(t, "image", "ls")); !strings.Contains(list, "small") {
			t.Errorf("%s", list)
		}
		r := in.agent(t, "--image", "small", "-u", "worker", "--", "sh", "-c", "id -u; ls /; ls /usr 2>&1 | head -n 1; echo $HOME")
		if !strings.HasPrefix(string(r.stdout), "77\naios\nbin\ndev\netc\nproc\nsys\n") || !strings.HasSuffix(string(r.stdout), "/work\n") {
			t.Errorf("%s", r)
		}
		in.spawn(t, "--name", "user", "--image", "small", "--", "sh", "-c", "while :; do :; done")
		if r := in.run(t, "image", "rm", "small"); r.status != 125 || !strings.Contains(string(r.stderr), "use") {
			t.Errorf("an image in use was removed: %s", r)
		}
		if r := in.run(t, "image", "import", "small", dir); r.status != 125 || !strings.Contains(string(r.stderr), "replace") {
			t.Errorf("%s", r)
		}
		in.ok(t, "rm", "-f", "user")
		in.ok(t, "image", "rm", "small")
		if r := in.agent(t, "--image", "small", "--", "true"); r.status != 125 {
			t.Errorf("%s", r)
		}
		if left, _ := filepath.Glob(filepath.Join(in.state, "images/blobs/*")); len(left) > 1 {
			t.Errorf("blobs without an image: %v", fmt.Sprint(left))
		}
	})
}

// busybox returns the host's static busybox.
func busybox() string {
	for _, p := range []string{"/usr/bin/busybox", "/bin/busybox"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}
