package sentry

import (
	"bytes"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/sys"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// viewFS is a file system whose files say what their reader may know: /sys,
// and the cgroup that an agent believes to be in. One of each serves all
// agents of the kernel, so an agent costs a mount.
type viewFS struct {
	kernfs.Filesystem
}

// viewFSType is the type of a viewFS. Nobody mounts one by name.
type viewFSType struct{ name string }

// Name implements vfs.FilesystemType.Name.
func (t viewFSType) Name() string { return t.name }

// Release implements vfs.FilesystemType.Release.
func (viewFSType) Release(context.Context) {}

// GetFilesystem implements vfs.FilesystemType.GetFilesystem.
func (viewFSType) GetFilesystem(context.Context, *vfs.VirtualFilesystem, *auth.Credentials, string, vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	return nil, nil, linuxerr.ENODEV
}

// MountOptions implements vfs.FilesystemImpl.MountOptions.
func (*viewFS) MountOptions() string { return "" }

// Release implements vfs.FilesystemImpl.Release.
func (fs *viewFS) Release(ctx context.Context) { fs.Filesystem.Release(ctx) }

func (s *Kernel) newViewFS(name string, root kernfs.Inode) (*vfs.Filesystem, *vfs.Dentry) {
	fs := &viewFS{}
	fs.VFSFilesystem().Init(s.k.VFS(), viewFSType{name}, fs)
	var dentry kernfs.Dentry
	dentry.InitRoot(&fs.Filesystem, root)
	return fs.VFSFilesystem(), dentry.VFSDentry()
}

// registerViews makes the file systems that show agents their limits.
func (s *Kernel) registerViews(ctx context.Context) error {
	v := s.k.VFS()
	minor, err := v.GetAnonBlockDevMinor()
	if err != nil {
		return err
	}
	s.views.minor = minor

	// gVisor writes /proc/PID/cgroup once its own cgroup file system was used.
	const once = "aios:cgroup2"
	v.MustRegisterFilesystemType(once, &cgroup2fs.FilesystemType{}, &vfs.RegisterFilesystemTypeOptions{})
	fs, root, err := v.NewFilesystem(ctx, s.creds, "", once, &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true}})
	if err != nil {
		return err
	}
	root.DecRef(ctx)
	fs.DecRef(ctx)

	cgroup := s.newViewDir(ctx, linux.CGROUP2_SUPER_MAGIC)
	cgroup.fill(s.newCgroupFiles(ctx))
	s.views.cgroup, s.views.cgroupRoot = s.newViewFS("cgroup2", cgroup)

	// The real one stays for ever.
	_, sysRoot, err := v.NewFilesystem(ctx, s.creds, "", sys.Name, &vfs.MountOptions{
		GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true, InternalData: &sys.InternalData{}},
	})
	if err != nil {
		return err
	}
	sysFS := s.newViewDir(ctx, linux.SYSFS_MAGIC)
	sysFS.fill(map[string]kernfs.Inode{"cgroup": s.newViewDir(ctx, linux.SYSFS_MAGIC)})
	system := s.newViewDir(ctx, linux.SYSFS_MAGIC)
	system.fill(map[string]kernfs.Inode{"cpu": s.newCPUDir(ctx), "node": s.newNodeDir(ctx)})
	devices := s.newViewDir(ctx, linux.SYSFS_MAGIC)
	devices.fill(map[string]kernfs.Inode{"system": system})
	s.sysfs, s.sysRoot = s.newViewFS(sys.Name, &sysViewRoot{
		Inode: sysRoot.Impl().(*kernfs.Dentry).Inode(),
		over:  map[string]kernfs.Inode{"fs": sysFS, "devices": devices},
	})
	return nil
}

// sysViewRoot is the root of gVisor's sysfs with some directories replaced.
type sysViewRoot struct {
	kernfs.Inode
	over map[string]kernfs.Inode
}

// Lookup implements kernfs.Inode.Lookup.
func (r *sysViewRoot) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	if i := r.over[name]; i != nil {
		return i, nil
	}
	return r.Inode.Lookup(ctx, name)
}

// viewNode is what files and directories have in common. Agents share the
// inodes, so these must not carry anything from one to another: locks are of
// the open file alone, and watches never report.
type viewNode struct {
	magic uint64
}

// StatFS implements kernfs.Inode.StatFS.
func (n viewNode) StatFS(context.Context, *vfs.Filesystem) (linux.Statfs, error) {
	return vfs.GenericStatFS(n.magic), nil
}

// SetStat implements kernfs.Inode.SetStat.
func (viewNode) SetStat(context.Context, *vfs.Filesystem, *auth.Credentials, vfs.SetStatOptions) error {
	return linuxerr.EPERM
}

// Watches implements kernfs.Inode.Watches.
func (viewNode) Watches() *vfs.Watches { return new(vfs.Watches) }

// viewFile is a file whose text is written for whoever reads it.
type viewFile struct {
	kernfs.InodeAlwaysValid
	kernfs.InodeAttrs
	kernfs.InodeFSOwned
	kernfs.InodeNoopRefCount
	kernfs.InodeNotAnonymous
	kernfs.InodeNotDirectory
	kernfs.InodeNotSymlink
	viewNode

	s    *Kernel
	text viewText
}

// viewText says what a file tells: what the entry of that name in a table writes of
// arg. It is a name and no function so that it can be part of a checkpoint.
type viewText struct {
	of, arg string
	pidns   *kernel.PIDNamespace // of what is about a process there
}

// viewWriter writes what v's agent is to read.
type viewWriter func(v *view, arg string, buf *bytes.Buffer)

// write writes the text for v's agent.
func (t viewText) write(v *view, buf *bytes.Buffer) {
	table, name, _ := strings.Cut(t.of, "/")
	switch table {
	case "proc":
		procViews[name](v, t.arg, buf)
	case "cgroup":
		cgroupViews[name](v, t.arg, buf)
	case "cpu":
		cpuViews[name](v, t.arg, buf)
	case "oom_score":
		v.oomScore(t.pidns, t.arg, buf)
	default:
		buf.WriteString(t.arg)
	}
}

func (s *Kernel) newViewFile(ctx context.Context, magic uint64, text viewText) *viewFile {
	f := &viewFile{viewNode: viewNode{magic}, s: s, text: text}
	f.InodeAttrs.Init(ctx, s.creds, linux.UNNAMED_MAJOR, s.views.minor, s.views.ino.Add(1), text.mode())
	return f
}

// newCgroupFiles makes a file for each of cgroupViews.
func (s *Kernel) newCgroupFiles(ctx context.Context) map[string]kernfs.Inode {
	files := make(map[string]kernfs.Inode, len(cgroupViews))
	for name := range cgroupViews {
		files[name] = s.newViewFile(ctx, linux.CGROUP2_SUPER_MAGIC, viewText{of: "cgroup/" + name})
	}
	return files
}

// Generate implements vfs.DynamicBytesSource.Generate.
func (f *viewFile) Generate(ctx context.Context, buf *bytes.Buffer) error {
	f.text.write(f.s.viewOf(ctx), buf)
	return nil
}

// Open implements kernfs.Inode.Open.
func (f *viewFile) Open(_ context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	if _, ok := f.text.pressureOf(); ok {
		return f.openPressure(rp, d, opts.Flags)
	}
	fd := &kernfs.DynamicBytesFD{}
	if err := fd.Init(rp.Mount(), d, f, new(vfs.FileLocks), opts.Flags, rp.Credentials()); err != nil {
		return nil, err
	}
	return fd.VFSFileDescription(), nil
}

// SetStat implements kernfs.Inode.SetStat.
func (f *viewFile) SetStat(ctx context.Context, fs *vfs.Filesystem, creds *auth.Credentials, opts vfs.SetStatOptions) error {
	return f.viewNode.SetStat(ctx, fs, creds, opts)
}

// viewDir is a directory that never changes.
type viewDir struct {
	kernfs.InodeAlwaysValid
	kernfs.InodeAttrs
	kernfs.InodeDirectoryNoNewChildren
	kernfs.InodeFSOwned
	kernfs.InodeNoopRefCount
	kernfs.InodeNotAnonymous
	kernfs.InodeNotSymlink
	kernfs.OrderedChildren
	viewNode
}

func (d *viewDir) init(ctx context.Context, s *Kernel, magic uint64) {
	d.magic = magic
	d.InodeAttrs.Init(ctx, s.creds, linux.UNNAMED_MAJOR, s.views.minor, s.views.ino.Add(1), linux.ModeDirectory|0o555)
	d.OrderedChildren.Init(kernfs.OrderedChildrenOptions{})
}

func (s *Kernel) newViewDir(ctx context.Context, magic uint64) *viewDir {
	d := &viewDir{}
	d.init(ctx, s, magic)
	return d
}

func (d *viewDir) fill(children map[string]kernfs.Inode) {
	d.IncLinks(d.OrderedChildren.Populate(children))
}

// Open implements kernfs.Inode.Open.
func (d *viewDir) Open(_ context.Context, rp *vfs.ResolvingPath, dentry *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	fd, err := kernfs.NewGenericDirectoryFD(rp.Mount(), dentry, rp.Credentials(), &d.OrderedChildren, new(vfs.FileLocks), &opts, kernfs.GenericDirectoryFDOptions{})
	if err != nil {
		return nil, err
	}
	return fd.VFSFileDescription(), nil
}

// SetStat implements kernfs.Inode.SetStat.
func (d *viewDir) SetStat(ctx context.Context, fs *vfs.Filesystem, creds *auth.Credentials, opts vfs.SetStatOptions) error {
	return d.viewNode.SetStat(ctx, fs, creds, opts)
}
