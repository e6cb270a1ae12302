package grantfs

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
)

const (
	rd = abi.FSRead
	wr = abi.FSWrite
	ex = abi.FSExec
	cr = abi.FSCreate
	de = abi.FSDelete
)

// operations are all that a program can do, each with the rights it takes. They
// succeed in the tree that newMatrix makes.
var operations = []struct {
	name string
	need abi.Rights
	do   func(u user) error
}{
	{"stat", 0, func(u user) error { _, err := u.stat("/g/f"); return err }},
	{"stat through symlink", 0, func(u user) error {
		_, err := u.w.vfs.StatAt(u.ctx, u.creds, u.following("/g/l"), &vfs.StatOptions{})
		return err
	}},
	{"statfs", 0, func(u user) error { _, err := u.w.vfs.StatFSAt(u.ctx, u.creds, u.pop("/g/f")); return err }},
	{"open O_PATH", 0, func(u user) error { return u.opens("/g/f", linux.O_PATH) }},
	{"open directory", 0, func(u user) error { return u.opens("/g/d", linux.O_RDONLY|linux.O_DIRECTORY) }},
	{"chdir", 0, func(u user) error {
		vd, err := u.w.vfs.GetDentryAt(u.ctx, u.creds, u.pop("/g/d"), &vfs.GetDentryOptions{CheckSearchable: true})
		if err == nil {
			vd.DecRef(u.ctx)
		}
		return err
	}},
	{"access F_OK", 0, func(u user) error { return u.access("/g/f", 0) }},
	{"access R_OK", rd, func(u user) error { return u.access("/g/f", vfs.MayRead) }},
	{"access W_OK", wr, func(u user) error { return u.access("/g/f", vfs.MayWrite) }},
	{"access X_OK", ex, func(u user) error { return u.access("/g/f", vfs.MayExec) }},
	{"access X_OK directory", 0, func(u user) error { return u.access("/g/d", vfs.MayExec) }},
	{"open O_RDONLY", rd, func(u user) error { return u.opens("/g/f", linux.O_RDONLY) }},
	{"open O_WRONLY", wr, func(u user) error { return u.opens("/g/f", linux.O_WRONLY) }},
	{"open O_RDWR", rd | wr, func(u user) error { return u.opens("/g/f", linux.O_RDWR) }},
	{"open O_TRUNC", wr, func(u user) error { return u.opens("/g/f", linux.O_WRONLY|linux.O_TRUNC) }},
	{"open O_RDONLY O_TRUNC", rd | wr, func(u user) error { return u.opens("/g/f", linux.O_RDONLY|linux.O_TRUNC) }},
	{"open O_CREAT existing", wr, func(u user) error { return u.opens("/g/f", linux.O_WRONLY|linux.O_CREAT) }},
	{"open O_CREAT new", wr | cr, func(u user) error { return u.opens("/g/new", linux.O_WRONLY|linux.O_CREAT) }},
	{"open O_CREAT new to read", rd | cr, func(u user) error { return u.opens("/g/new", linux.O_RDONLY|linux.O_CREAT) }},
	{"open to execute", ex, func(u user) error {
		fd, err := u.w.vfs.OpenAt(u.ctx, u.creds, u.pop("/g/f"), &vfs.OpenOptions{FileExec: true})
		if err != nil {
			return err
		}
		defer fd.DecRef(u.ctx)
		_, err = fd.PRead(u.ctx, usermem.BytesIOSequence(make([]byte, 4)), 0, vfs.ReadOptions{})
		return err
	}},
	{"readdir", rd, func(u user) error { _, err := u.list("/g"); return err }},
	{"readlink", rd, func(u user) error { _, err := u.readlink("/g/l"); return err }},
	{"truncate", wr, func(u user) error { return u.truncate("/g/f", 1) }},
	{"chmod", wr, func(u user) error { return u.setstat("/g/f", linux.Statx{Mask: linux.STATX_MODE, Mode: 0o700}) }},
	{"chown", wr, func(u user) error { return u.setstat("/g/f", linux.Statx{Mask: linux.STATX_UID, UID: 7}) }},
	{"utimes", wr, func(u user) error { return u.setstat("/g/f", linux.Statx{Mask: linux.STATX_MTIME}) }},
	{"getxattr", rd, func(u user) error {
		_, err := u.w.vfs.GetXattrAt(u.ctx, u.creds, u.pop("/g/f"), &vfs.GetXattrOptions{Name: "user.a"})
		return err
	}},
	{"listxattr", rd, func(u user) error { _, err := u.w.vfs.ListXattrAt(u.ctx, u.creds, u.pop("/g/f"), 0); return err }},
	{"setxattr", wr, func(u user) error {
		return u.w.vfs.SetXattrAt(u.ctx, u.creds, u.pop("/g/f"), &vfs.SetXattrOptions{Name: "user.b", Value: "b"})
	}},
	{"removexattr", wr, func(u user) error { return u.w.vfs.RemoveXattrAt(u.ctx, u.creds, u.pop("/g/f"), "user.a") }},
	{"mkdir", cr, func(u user) error { return u.mkdir("/g/new") }},
	{"mkfifo", cr, func(u user) error { return u.mknod("/g/new", linux.S_IFIFO|0o600) }},
	{"symlink", cr, func(u user) error { return u.symlink("x", "/g/new") }},
	{"link", cr, func(u user) error { return u.link("/g/f", "/g/new") }},
	{"unlink", de, func(u user) error { return u.unlink("/g/f") }},
	{"rmdir", de, func(u user) error { return u.rmdir("/g/d") }},
	{"rename", cr | de, func(u user) error { return u.rename("/g/f", "/g/new", 0) }},
	{"rename over", cr | de, func(u user) error { return u.rename("/g/f", "/g/h", 0) }},
	{"rename exchange", cr | de, func(u user) error { return u.rename("/g/f", "/g/h", linux.RENAME_EXCHANGE) }},
	{"connect", rd | wr, func(u user) error {
		ep, err := u.w.vfs.BoundEndpointAt(u.ctx, u.creds, u.pop("/g/s"), &vfs.BoundEndpointOptions{})
		if err == nil && ep != nil {
			err = nil
		}
		if errno(err) == unix.ECONNREFUSED { // Nobody is bound to it.
			err = nil
		}
		return err
	}},
}

// opens opens a file and closes it.
func (u user) opens(path string, flags uint32) error {
	fd, err := u.openFile(path, flags, 0o644)
	if err == nil {
		fd.DecRef(u.ctx)
	}
	return err
}

func newMatrix(t testing.TB, rights abi.Rights) (user, *FS) {
	world := newWorld(t)
	raw := world.raw()
	must(t, raw.writeFile("/f", "text"))
	must(t, raw.setstat("/f", linux.Statx{Mask: linux.STATX_MODE, Mode: 0o755}))
	must(t, raw.writeFile("/h", "text"))
	must(t, raw.mkdir("/d"))
	must(t, raw.symlink("f", "/l"))
	must(t, raw.mknod("/s", linux.S_IFSOCK|0o666))
	must(t, world.vfs.SetXattrAt(raw.ctx, world.creds, raw.pop("/f"), &vfs.SetXattrOptions{Name: "user.a", Value: "a"}))
	fs := world.grant("/g", "/", Options{Name: "/data", Rights: rights})
	return world.agent(), fs
}

// wantOf is what an operation that needs certain rights comes to.
func wantOf(have, need abi.Rights) unix.Errno {
	switch {
	case have == 0:
		return unix.EACCES
	case have.Has(need):
		return 0
	case need&(wr|cr|de) != 0 && have&(wr|cr|de) == 0:
		return unix.EROFS
	default:
		return unix.EACCES
	}
}

// TestRightsMatrix does every operation under every set of rights.
func TestRightsMatrix(t *testing.T) {
	for rights := abi.Rights(1); rights <= allRights; rights++ {
		for _, op := range operations {
			agent, _ := newMatrix(t, rights)
			want := wantOf(rights, op.need)
			if got := errno(op.do(agent)); got != want {
				t.Errorf("%s with %s: %v, want %v", op.name, rights.Format(abi.ClassFS), got, want)
			}
		}
	}
}

// TestRightsNarrowed does every operation after the rights were narrowed from
// all to each set, and after a revocation.
func TestRightsNarrowed(t *testing.T) {
	for rights := abi.Rights(0); rights <= allRights; rights++ {
		for _, op := range operations {
			agent, fs := newMatrix(t, allRights)
			fs.SetRights(rights)
			if got, want := errno(op.do(agent)), wantOf(rights, op.need); got != want {
				t.Errorf("%s narrowed to %s: %v, want %v", op.name, rights.Format(abi.ClassFS), got, want)
			}
			if rights == allRights {
				fs.Revoke()
				want := unix.EACCES
				if got := errno(op.do(agent)); got != want {
					t.Errorf("%s after the revocation: %v, want %v", op.name, got, want)
				}
			}
		}
	}
	_, fs := newMatrix(t, rd)
	fs.SetRights(allRights)
	if got := fs.Rights(); got != rd {
		t.Errorf("narrowed to more than there was: %v", got)
	}
}

// descriptions are what can be done with a file that was opened with all rights.
var descriptions = []struct {
	name string
	need abi.Rights
	do   func(u user, fd *vfs.FileDescription) error
}{
	{"read", rd, func(u user, fd *vfs.FileDescription) error { _, err := read(u.ctx, fd, 1); return err }},
	{"pread", rd, func(u user, fd *vfs.FileDescription) error {
		_, err := fd.PRead(u.ctx, usermem.BytesIOSequence(make([]byte, 1)), 0, vfs.ReadOptions{})
		return err
	}},
	{"write", wr, func(u user, fd *vfs.FileDescription) error { _, err := write(u.ctx, fd, "x"); return err }},
	{"pwrite", wr, func(u user, fd *vfs.FileDescription) error {
		_, err := fd.PWrite(u.ctx, usermem.BytesIOSequence([]byte("x")), 0, vfs.WriteOptions{})
		return err
	}},
	{"ftruncate", wr, func(u user, fd *vfs.FileDescription) error {
		return fd.SetStat(u.ctx, vfs.SetStatOptions{Stat: linux.Statx{Mask: linux.STATX_SIZE, Size: 9}})
	}},
	{"fchmod", wr, func(u user, fd *vfs.FileDescription) error {
		return fd.SetStat(u.ctx, vfs.SetStatOptions{Stat: linux.Statx{Mask: linux.STATX_MODE, Mode: 0o600}})
	}},
	{"fallocate", wr, func(u user, fd *vfs.FileDescription) error { return fd.Allocate(u.ctx, 0, 0, 100) }},
	{"fstat", 0, func(u user, fd *vfs.FileDescription) error { _, err := fd.Stat(u.ctx, vfs.StatOptions{}); return err }},
	{"fstatfs", 0, func(u user, fd *vfs.FileDescription) error { _, err := fd.StatFS(u.ctx); return err }},
	{"lseek", 0, func(u user, fd *vfs.FileDescription) error { _, err := fd.Seek(u.ctx, 0, linux.SEEK_SET); return err }},
	{"fsync", 0, func(u user, fd *vfs.FileDescription) error { return fd.Sync(u.ctx) }},
	{"flock", 0, func(u user, fd *vfs.FileDescription) error { return fd.LockBSD(u.ctx, 1, 1, false) }},
	{"fgetxattr", rd, func(u user, fd *vfs.FileDescription) error {
		_, err := fd.GetXattr(u.ctx, &vfs.GetXattrOptions{Name: "user.a"})
		return err
	}},
	{"flistxattr", rd, func(u user, fd *vfs.FileDescription) error { _, err := fd.ListXattr(u.ctx, 0); return err }},
	{"fsetxattr", wr, func(u user, fd *vfs.FileDescription) error {
		return fd.SetXattr(u.ctx, &vfs.SetXattrOptions{Name: "user.a", Value: "b"})
	}},
	{"fremovexattr", wr, func(u user, fd *vfs.FileDescription) error { return fd.RemoveXattr(u.ctx, "user.a") }},
	{"reopen to read", rd, func(u user, fd *vfs.FileDescription) error { return u.reopens(fd, linux.O_RDONLY) }},
	{"reopen to write", wr, func(u user, fd *vfs.FileDescription) error { return u.reopens(fd, linux.O_WRONLY) }},
	{"mmap to read", rd, func(u user, fd *vfs.FileDescription) error { return maps(u, fd, hostarch.Read, false) }},
	{"mmap to execute", rd | ex, func(u user, fd *vfs.FileDescription) error { return maps(u, fd, hostarch.ReadExecute, true) }},
	{"mmap to write", rd | wr, func(u user, fd *vfs.FileDescription) error { return maps(u, fd, hostarch.ReadWrite, false) }},
	{"mmap to write a copy", rd, func(u user, fd *vfs.FileDescription) error { return maps(u, fd, hostarch.ReadWrite, true) }},
}

// reopens opens what fd has open, as by /proc/self/fd.
func (u user) reopens(fd *vfs.FileDescription, flags uint32) error {
	pop := &vfs.PathOperation{Root: u.root, Start: fd.VirtualDentry()}
	again, err := u.w.vfs.OpenAt(u.ctx, u.creds, pop, &vfs.OpenOptions{Flags: flags})
	if err == nil {
		again.DecRef(u.ctx)
	}
	return err
}

// maps asks whether fd may be mapped.
func maps(u user, fd *vfs.FileDescription, perms hostarch.AccessType, private bool) error {
	opts := memmap.MMapOpts{Length: hostarch.PageSize, Perms: perms, MaxPerms: hostarch.AnyAccess, Private: private}
	err := fd.ConfigureMMap(u.ctx, &opts)
	if opts.MappingIdentity != nil {
		opts.MappingIdentity.DecRef(u.ctx)
	}
	return err
}

// TestOpenFileNarrowed checks that an open file has the rights of the moment.
func TestOpenFileNarrowed(t *testing.T) {
	for rights := abi.Rights(0); rights <= allRights; rights++ {
		for _, op := range descriptions {
			for _, removed := range []bool{false, true} {
				agent, fs := newMatrix(t, allRights)
				fd := agent.mustOpen("/g/f", linux.O_RDWR)
				if removed {
					must(t, agent.unlink("/g/f"))
				}
				fs.SetRights(rights)
				want := wantOf(rights, op.need)
				if op.need == rd|wr && want == unix.EROFS && !rights.Has(rd) {
					want = unix.EACCES // mmap asks for the right to read first.
				}
				if got := errno(op.do(agent, fd)); got != want {
					t.Errorf("%s narrowed to %s (removed: %v): %v, want %v", op.name, rights.Format(abi.ClassFS), removed, got, want)
				}
				fs.Revoke()
				if got := errno(op.do(agent, fd)); got != unix.EACCES {
					t.Errorf("%s after the revocation: %v, want EACCES", op.name, got)
				}
			}
		}
	}
}

// TestReadOnlyMount checks that a read-only mount of a grant is one.
func TestReadOnlyMount(t *testing.T) {
	for _, op := range operations {
		if op.need&(wr|cr|de) == 0 || op.name == "connect" {
			continue
		}
		agent, _ := newMatrix(t, allRights)
		g, err := agent.w.vfs.GetDentryAt(agent.ctx, agent.creds, agent.pop("/g"), &vfs.GetDentryOptions{})
		must(t, err)
		must(t, agent.w.vfs.SetMountReadOnly(g.Mount(), true))
		g.DecRef(agent.ctx)
		wantErrno(t, op.name, op.do(agent), unix.EROFS)
	}
}

// TestDenied checks what the audit trail is told.
func TestDenied(t *testing.T) {
	world := newWorld(t)
	raw, agent := world.raw(), world.agent()
	must(t, raw.mkdir("/data"))
	must(t, raw.mkdir("/data/a"))
	must(t, raw.writeFile("/data/a/f", ""))
	var told []string
	world.grant("/g", "/data", Options{Name: "/data", Rights: rd, Denied: func(op, path string, right abi.Rights, errno unix.Errno) {
		told = append(told, fmt.Sprintf("%s %s %s %s", op, path, right.Format(abi.ClassFS), unix.ErrnoName(errno)))
	}})
	agent.opens("/g/a/f", linux.O_RDWR)
	agent.mkdir("/g/a/new")
	agent.unlink("/g/a/f")
	agent.rename("/g/a/f", "/g/f", 0)
	agent.access("/g/a/f", vfs.MayWrite) // A question, not an attempt.
	agent.mkdir("/g/a")                  // It is there.
	want := []string{
		"open /data/a/f read+write EROFS",
		"mkdir /data/a/new create EROFS",
		"unlink /data/a/f delete EROFS",
		"rename /data/a/f delete EROFS",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told\n%q, want\n%q", told, want)
	}
}

// TestLive checks that a lease that is over is as good as a revocation.
func TestLive(t *testing.T) {
	world := newWorld(t)
	must(t, world.raw().writeFile("/f", "text"))
	live := true
	world.grant("/g", "/", Options{Rights: allRights, Live: func() bool { return live }})
	agent := world.agent()
	fd := agent.mustOpen("/g/f", linux.O_RDWR)
	live = false
	for _, op := range operations {
		wantErrno(t, op.name, op.do(agent), unix.EACCES)
	}
	for _, op := range descriptions {
		wantErrno(t, op.name, op.do(agent, fd), unix.EACCES)
	}
}
