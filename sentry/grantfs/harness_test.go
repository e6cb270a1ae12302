package grantfs

import (
	gocontext "context"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	gverrors "gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	gvktime "gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/limits"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/uniqueid"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/ktime"
)

const allRights = abi.FSRead | abi.FSWrite | abi.FSExec | abi.FSCreate | abi.FSDelete

func TestMain(m *testing.M) {
	log.SetLevel(log.Warning)
	cpuid.Initialize()
	for _, err := range []error{rand.Init(), usage.Init()} {
		if err != nil {
			panic(err)
		}
	}
	fd, err := memutil.CreateMemFD("grantfs-test", 0)
	if err != nil {
		panic(err)
	}
	memoryFile, err = pgalloc.NewMemoryFile(os.NewFile(uintptr(fd), "grantfs-test"), pgalloc.MemoryFileOpts{DisableIMAWorkAround: true})
	if err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// memoryFile holds the memory of all worlds.
var memoryFile *pgalloc.MemoryFile

// clock implements gVisor's clock; tmpfs asks for the time alone.
type clock struct{ gvktime.Clock }

func (clock) Now() gvktime.Time { return gvktime.FromNanoseconds(ktime.Real.Now().UnixNano()) }

// A world is a VFS with a mount namespace and no kernel.
type world struct {
	t     testing.TB
	vfs   *vfs.VirtualFilesystem
	mf    *pgalloc.MemoryFile
	creds *auth.Credentials
	mntns *vfs.MountNamespace
	ids   atomic.Uint64
	// inner is the tmpfs that grants are of, which is mounted nowhere.
	inner *vfs.Mount
}

// task is the context of one goroutine.
type task struct {
	gocontext.Context
	log.Logger
	context.NoTask
	w      *world
	limits *limits.LimitSet
}

func (w *world) task() *task {
	return &task{Context: gocontext.Background(), Logger: log.Log(), w: w, limits: limits.NewLimitSet()}
}

// Value implements context.Context.
func (c *task) Value(key any) any {
	switch key {
	case auth.CtxCredentials:
		return c.w.creds
	case pgalloc.CtxMemoryFile:
		return c.w.mf
	case gvktime.CtxRealtimeClock:
		return clock{}
	case limits.CtxLimits:
		return c.limits
	case uniqueid.CtxGlobalUniqueID:
		return c.w.ids.Add(1)
	case uniqueid.CtxInotifyCookie:
		return uint32(c.w.ids.Add(1))
	case vfs.CtxMountNamespace:
		if c.w.mntns == nil {
			return nil
		}
		c.w.mntns.IncRef()
		return c.w.mntns
	case vfs.CtxRoot:
		if c.w.mntns == nil {
			return nil
		}
		return c.w.mntns.Root(c)
	default:
		return nil
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, vfs: &vfs.VirtualFilesystem{}, mf: memoryFile, creds: auth.NewRootCredentials(auth.NewRootUserNamespace())}
	ctx := w.task()
	must(t, w.vfs.Init(ctx))
	w.vfs.MustRegisterFilesystemType(tmpfs.Name, tmpfs.FilesystemType{}, &vfs.RegisterFilesystemTypeOptions{AllowUserMount: true})
	var err error
	w.mntns, err = w.vfs.NewMountNamespace(ctx, w.creds, "", tmpfs.Name, &vfs.MountOptions{}, nil)
	must(t, err)
	w.inner, err = w.vfs.MountDisconnected(ctx, w.creds, "", tmpfs.Name, &vfs.MountOptions{})
	must(t, err)
	return w
}

// user is somebody with a root directory.
type user struct {
	w    *world
	ctx  *task
	root vfs.VirtualDentry
	// creds are the world's unless set.
	creds *auth.Credentials
}

// raw is who uses the inner file system without a grant.
func (w *world) raw() user {
	return user{w: w, ctx: w.task(), creds: w.creds, root: vfs.MakeVirtualDentry(w.inner, w.inner.Root())}
}

// agent is who lives in the mount namespace.
func (w *world) agent() user {
	ctx := w.task()
	return user{w: w, ctx: ctx, creds: w.creds, root: w.mntns.Root(ctx)}
}

// grant mounts a grant of a directory of the inner file system at target.
func (w *world) grant(target, inner string, opts Options) *FS {
	w.t.Helper()
	raw, agent := w.raw(), w.agent()
	vd, err := w.vfs.GetDentryAt(raw.ctx, w.creds, raw.pop(inner), &vfs.GetDentryOptions{})
	must(w.t, err)
	defer vd.DecRef(raw.ctx)
	fs, root, err := New(raw.ctx, w.vfs, w.creds, vd, opts)
	must(w.t, err)
	mnt := w.vfs.NewDisconnectedMount(fs.Filesystem(), root, &vfs.MountOptions{Flags: vfs.MountFlags{NoSUID: true, NoDev: true}})
	root.DecRef(raw.ctx)
	fs.Filesystem().DecRef(raw.ctx)
	must(w.t, agent.mkdir(target))
	must(w.t, w.vfs.ConnectMountAt(agent.ctx, w.creds, mnt, agent.pop(target)))
	mnt.DecRef(raw.ctx)
	return fs
}

// agent returns the same user on another goroutine.
func (u user) another() user {
	u.ctx = u.w.task()
	return u
}

func (u user) pop(path string) *vfs.PathOperation {
	p := fspath.Parse(path)
	return &vfs.PathOperation{Root: u.root, Start: u.root, Path: p}
}

func (u user) following(path string) *vfs.PathOperation {
	p := u.pop(path)
	p.FollowFinalSymlink = true
	return p
}

func (u user) openFile(path string, flags uint32, mode linux.FileMode) (*vfs.FileDescription, error) {
	return u.w.vfs.OpenAt(u.ctx, u.creds, u.following(path), &vfs.OpenOptions{Flags: flags, Mode: mode})
}

// mustOpen opens a file that is closed when the test ends.
func (u user) mustOpen(path string, flags uint32) *vfs.FileDescription {
	u.w.t.Helper()
	fd, err := u.openFile(path, flags, 0o644)
	if err != nil {
		u.w.t.Fatalf("open %s: %v", path, err)
	}
	u.w.t.Cleanup(func() { fd.DecRef(u.ctx) })
	return fd
}

func (u user) mkdir(path string) error {
	return u.w.vfs.MkdirAt(u.ctx, u.creds, u.pop(path), &vfs.MkdirOptions{Mode: 0o755})
}

func (u user) unlink(path string) error { return u.w.vfs.UnlinkAt(u.ctx, u.creds, u.pop(path)) }
func (u user) rmdir(path string) error  { return u.w.vfs.RmdirAt(u.ctx, u.creds, u.pop(path)) }

func (u user) rename(from, to string, flags uint32) error {
	return u.w.vfs.RenameAt(u.ctx, u.creds, u.pop(from), u.pop(to), &vfs.RenameOptions{Flags: flags})
}

func (u user) link(from, to string) error {
	return u.w.vfs.LinkAt(u.ctx, u.creds, u.pop(from), u.pop(to))
}

func (u user) symlink(target, path string) error {
	return u.w.vfs.SymlinkAt(u.ctx, u.creds, u.pop(path), target)
}

func (u user) readlink(path string) (string, error) {
	return u.w.vfs.ReadlinkAt(u.ctx, u.creds, u.pop(path))
}

func (u user) mknod(path string, mode linux.FileMode) error {
	return u.w.vfs.MknodAt(u.ctx, u.creds, u.pop(path), &vfs.MknodOptions{Mode: mode})
}

func (u user) stat(path string) (linux.Statx, error) {
	return u.w.vfs.StatAt(u.ctx, u.creds, u.pop(path), &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
}

func (u user) setstat(path string, st linux.Statx) error {
	return u.w.vfs.SetStatAt(u.ctx, u.creds, u.following(path), &vfs.SetStatOptions{Stat: st, NeedWritePerm: st.Mask&linux.STATX_SIZE != 0})
}

func (u user) truncate(path string, size uint64) error {
	return u.setstat(path, linux.Statx{Mask: linux.STATX_SIZE, Size: size})
}

func (u user) access(path string, ats vfs.AccessTypes) error {
	return u.w.vfs.AccessAt(u.ctx, u.creds, ats, u.following(path))
}

// list returns what is in a directory, without "." and "..".
func (u user) list(path string) (names []string, err error) {
	fd, err := u.openFile(path, linux.O_RDONLY|linux.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer fd.DecRef(u.ctx)
	err = fd.IterDirents(u.ctx, vfs.IterDirentsCallbackFunc(func(d vfs.Dirent) error {
		if d.Name != "." && d.Name != ".." {
			names = append(names, d.Name)
		}
		return nil
	}))
	return names, err
}

// writeFile makes a file of that text.
func (u user) writeFile(path, text string) error {
	fd, err := u.openFile(path, linux.O_WRONLY|linux.O_CREAT|linux.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer fd.DecRef(u.ctx)
	_, err = write(u.ctx, fd, text)
	return err
}

func (u user) readFile(path string) (string, error) {
	fd, err := u.openFile(path, linux.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer fd.DecRef(u.ctx)
	var all strings.Builder
	for {
		text, err := read(u.ctx, fd, 4096)
		all.WriteString(text)
		if err == io.EOF {
			return all.String(), nil
		}
		if err != nil {
			return all.String(), err
		}
	}
}

func write(ctx context.Context, fd *vfs.FileDescription, text string) (int64, error) {
	return fd.Write(ctx, usermem.BytesIOSequence([]byte(text)), vfs.WriteOptions{})
}

func read(ctx context.Context, fd *vfs.FileDescription, n int) (string, error) {
	buf := make([]byte, n)
	got, err := fd.Read(ctx, usermem.BytesIOSequence(buf), vfs.ReadOptions{})
	return string(buf[:got]), err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// errno is the number of an error that a program would see; 0 is success.
func errno(err error) unix.Errno {
	var e *gverrors.Error
	var n unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return unix.Errno(e.Errno())
	case errors.As(err, &n):
		return n
	default:
		return unix.EIO
	}
}

func wantErrno(t testing.TB, what string, err error, want unix.Errno) {
	t.Helper()
	if errno(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// within fails the test unless done is closed in time.
func within(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s: it hangs", what)
	}
}
