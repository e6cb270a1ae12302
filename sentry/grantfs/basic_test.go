package grantfs

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// TestUse does what programs do with files, and looks at the result from below.
func TestUse(t *testing.T) {
	w := newWorld(t)
	raw, agent := w.raw(), w.agent()
	must(t, raw.mkdir("/data"))
	must(t, raw.writeFile("/secret", "secret"))
	w.grant("/g", "/data", Options{Name: "/data", Rights: allRights})

	must(t, agent.mkdir("/g/d"))
	must(t, agent.writeFile("/g/d/f", "hello"))
	must(t, agent.symlink("d/f", "/g/l"))
	must(t, agent.link("/g/d/f", "/g/hard"))
	if got, err := agent.readFile("/g/l"); got != "hello" || err != nil {
		t.Errorf("through a symlink: %q, %v", got, err)
	}
	if got, err := raw.readFile("/data/hard"); got != "hello" || err != nil {
		t.Errorf("from below: %q, %v", got, err)
	}
	must(t, agent.rename("/g/d/f", "/g/moved", 0))
	names, err := agent.list("/g")
	must(t, err)
	slices.Sort(names)
	if want := []string{"d", "hard", "l", "moved"}; !slices.Equal(names, want) {
		t.Errorf("list: %q, want %q", names, want)
	}
	wantErrno(t, "rmdir", agent.rmdir("/g/d"), 0)
	wantErrno(t, "dangling symlink", func() error { _, err := agent.readFile("/g/l"); return err }(), unix.ENOENT)

	// O_CREAT through the dangling symlink makes its target.
	must(t, agent.mkdir("/g/d"))
	must(t, agent.writeFile("/g/l", "again"))
	if got, err := raw.readFile("/data/d/f"); got != "again" || err != nil {
		t.Errorf("created through a symlink: %q, %v", got, err)
	}
}

// TestNoEscape tries the paths that lead out of a directory.
func TestNoEscape(t *testing.T) {
	w := newWorld(t)
	raw, agent := w.raw(), w.agent()
	must(t, raw.mkdir("/data"))
	must(t, raw.mkdir("/data/sub"))
	must(t, raw.mkdir("/other"))
	must(t, raw.writeFile("/secret", "secret"))
	must(t, raw.symlink("../secret", "/data/rel"))
	must(t, raw.symlink("/secret", "/data/abs"))
	must(t, raw.symlink("../../secret", "/data/sub/rel"))
	must(t, agent.writeFile("/secret", "the agent's"))
	w.grant("/g", "/data", Options{Name: "/data", Rights: allRights})
	w.grant("/h", "/other", Options{Name: "/other", Rights: allRights})

	for _, path := range []string{"/g/rel", "/g/abs", "/g/sub/rel", "/g/../secret", "/g/sub/../../secret", "/g/sub/../rel", "/g/./../g/../secret"} {
		if got, err := agent.readFile(path); got != "the agent's" || err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	must(t, agent.writeFile("/g/f", "f"))
	wantErrno(t, "link out", agent.link("/g/f", "/f"), unix.EXDEV)
	wantErrno(t, "link in", agent.link("/secret", "/g/s"), unix.EXDEV)
	wantErrno(t, "link to another grant", agent.link("/g/f", "/h/f"), unix.EXDEV)
	wantErrno(t, "rename out", agent.rename("/g/f", "/f", 0), unix.EXDEV)
	wantErrno(t, "rename to another grant", agent.rename("/g/f", "/h/f", 0), unix.EXDEV)

	// A directory that is moved out of the subtree is out of reach, also for
	// who stands in it.
	fd := agent.mustOpen("/g/sub", linux.O_RDONLY|linux.O_DIRECTORY)
	must(t, raw.rename("/data/sub", "/moved", 0))
	inside := agent
	for _, path := range []string{"..", "../secret", ".", "rel", "new"} {
		pop := inside.following(path)
		pop.Start = fd.VirtualDentry()
		_, err := w.vfs.OpenAt(agent.ctx, w.creds, pop, &vfs.OpenOptions{Flags: linux.O_RDONLY})
		wantErrno(t, "from the moved directory, "+path, err, unix.ENOENT)
	}
}

// TestDevicesAndPrivileges checks what agents may not make or use in any case.
func TestDevicesAndPrivileges(t *testing.T) {
	w := newWorld(t)
	raw, agent := w.raw(), w.agent()
	must(t, w.vfs.MknodAt(raw.ctx, w.creds, raw.pop("/null"), &vfs.MknodOptions{Mode: linux.S_IFCHR | 0o666, DevMajor: 1, DevMinor: 3}))
	must(t, raw.writeFile("/f", ""))
	w.grant("/g", "/", Options{Rights: allRights})
	_, err := agent.openFile("/g/null", linux.O_RDWR, 0)
	wantErrno(t, "open a device", err, unix.EACCES)
	wantErrno(t, "make a device", agent.mknod("/g/dev", linux.S_IFCHR|0o666), unix.EPERM)
	wantErrno(t, "make a block device", agent.mknod("/g/dev", linux.S_IFBLK|0o666), unix.EPERM)
	_, err = agent.openFile("/g/suid", linux.O_CREAT|linux.O_WRONLY, 0o4755)
	wantErrno(t, "create a setuid file", err, unix.EPERM)
	wantErrno(t, "mknod a setuid file", agent.mknod("/g/suid", linux.S_IFREG|0o4755), unix.EPERM)
	chmod := func(mode uint16) error {
		return agent.setstat("/g/f", linux.Statx{Mask: linux.STATX_MODE, Mode: mode})
	}
	wantErrno(t, "chmod u+s", chmod(0o4755), unix.EPERM)
	wantErrno(t, "chmod g+s", chmod(0o2755), unix.EPERM)
	wantErrno(t, "chmod", chmod(0o755), 0)
	fd := agent.mustOpen("/g/f", linux.O_RDWR)
	wantErrno(t, "fchmod u+s", fd.SetStat(agent.ctx, vfs.SetStatOptions{Stat: linux.Statx{Mask: linux.STATX_MODE, Mode: 0o4755}}), unix.EPERM)
	wantErrno(t, "setcap", fd.SetXattr(agent.ctx, &vfs.SetXattrOptions{Name: "security.capability", Value: "x"}), unix.EPERM)
	wantErrno(t, "setcap by path", w.vfs.SetXattrAt(agent.ctx, w.creds, agent.pop("/g/f"), &vfs.SetXattrOptions{Name: "security.capability", Value: "x"}), unix.EPERM)
	for _, name := range []string{"/dev", "/suid"} {
		if _, err := raw.stat(name); err == nil {
			t.Errorf("%s was made all the same", name)
		}
	}
}

// TestSingleFile grants one file.
func TestSingleFile(t *testing.T) {
	w := newWorld(t)
	raw, agent := w.raw(), w.agent()
	must(t, raw.writeFile("/f", "text"))
	vd, err := w.vfs.GetDentryAt(raw.ctx, w.creds, raw.pop("/f"), &vfs.GetDentryOptions{})
	must(t, err)
	defer vd.DecRef(raw.ctx)
	fs, root, err := New(raw.ctx, w.vfs, w.creds, vd, Options{Name: "/f", Rights: abi.FSRead})
	must(t, err)
	mnt := w.vfs.NewDisconnectedMount(fs.Filesystem(), root, &vfs.MountOptions{})
	root.DecRef(raw.ctx)
	fs.Filesystem().DecRef(raw.ctx)
	must(t, agent.writeFile("/here", ""))
	must(t, w.vfs.ConnectMountAt(agent.ctx, w.creds, mnt, agent.pop("/here")))
	mnt.DecRef(raw.ctx)
	if got, err := agent.readFile("/here"); got != "text" || err != nil {
		t.Errorf("read: %q, %v", got, err)
	}
	_, err = agent.openFile("/here", linux.O_WRONLY, 0)
	wantErrno(t, "write", err, unix.EROFS)
	_, err = agent.readFile("/here/x")
	wantErrno(t, "below", err, unix.ENOTDIR)
}

// TestGetcwd asks for names.
func TestGetcwd(t *testing.T) {
	w := newWorld(t)
	raw, agent := w.raw(), w.agent()
	for _, d := range []string{"/data", "/data/a", "/data/a/b"} {
		must(t, raw.mkdir(d))
	}
	w.grant("/g", "/data", Options{Rights: allRights})
	name := func(fd *vfs.FileDescription) string {
		p, err := w.vfs.PathnameForGetcwd(agent.ctx, agent.root, fd.VirtualDentry())
		must(t, err)
		return p
	}
	root, b := agent.mustOpen("/g", linux.O_RDONLY), agent.mustOpen("/g/a/b", linux.O_RDONLY)
	if got := name(root); got != "/g" {
		t.Errorf("the root is called %q", got)
	}
	if got := name(b); got != "/g/a/b" {
		t.Errorf("/g/a/b is called %q", got)
	}
	must(t, raw.rename("/data/a", "/data/c", 0)) // By somebody else.
	if got := name(b); got != "/g/c/b" {
		t.Errorf("after a rename, /g/c/b is called %q", got)
	}
	// A bind mount of a part, and a chroot into a part of that.
	c, err := w.vfs.GetDentryAt(agent.ctx, w.creds, agent.pop("/g/c"), &vfs.GetDentryOptions{})
	must(t, err)
	mnt := w.vfs.NewDisconnectedMount(c.Mount().Filesystem(), c.Dentry(), &vfs.MountOptions{})
	c.DecRef(agent.ctx)
	must(t, agent.mkdir("/bound"))
	must(t, w.vfs.ConnectMountAt(agent.ctx, w.creds, mnt, agent.pop("/bound")))
	mnt.DecRef(agent.ctx)
	bound := agent.mustOpen("/bound/b", linux.O_RDONLY)
	if got := name(bound); got != "/bound/b" {
		t.Errorf("/bound/b is called %q", got)
	}
	must(t, raw.mkdir("/data/c/b/e"))
	e := agent.mustOpen("/bound/b/e", linux.O_RDONLY)
	if p, err := w.vfs.PathnameForGetcwd(agent.ctx, bound.VirtualDentry(), e.VirtualDentry()); p != "/e" || err != nil {
		t.Errorf("in a chroot it is called %q, %v", p, err)
	}
	must(t, raw.rename("/data/c", "/outside", 0))
	if got := name(b); got != "(unreachable)/" {
		t.Errorf("outside of the grant it is called %q", got)
	}
}

// TestMountInGrant mounts something in a grant, renames and removes around it.
func TestMountInGrant(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	w.grant("/g", "/", Options{Rights: allRights})
	must(t, agent.mkdir("/g/m"))
	mnt, err := w.vfs.MountDisconnected(agent.ctx, w.creds, "", "tmpfs", &vfs.MountOptions{})
	must(t, err)
	must(t, w.vfs.ConnectMountAt(agent.ctx, w.creds, mnt, agent.pop("/g/m")))
	mnt.DecRef(agent.ctx)
	must(t, agent.writeFile("/g/m/f", "mounted"))
	if _, err := w.raw().stat("/m/f"); errno(err) != unix.ENOENT {
		t.Errorf("what is mounted shows below: %v", err)
	}
	if got, err := agent.readFile("/g/m/../m/f"); got != "mounted" || err != nil {
		t.Errorf("up and down: %q, %v", got, err)
	}
	wantErrno(t, "rmdir of a mount point", agent.rmdir("/g/m"), unix.EBUSY)
	wantErrno(t, "rename of a mount point", agent.rename("/g/m", "/g/n", 0), unix.EBUSY)
	wantErrno(t, "umount", w.vfs.UmountAt(agent.ctx, w.creds, agent.pop("/g/m"), &vfs.UmountOptions{}), 0)
	wantErrno(t, "rmdir", agent.rmdir("/g/m"), 0)
}
