package sentry

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/sys"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/sentry/smp"
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
	cgroup.fill(s.newViewFiles(ctx, cgroupViews))
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
	system.fill(map[string]kernfs.Inode{"cpu": s.newCPUDir(ctx)})
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

// viewText writes what v's agent is to read.
type viewText func(v *view, buf *bytes.Buffer)

func (s *Kernel) newViewFile(ctx context.Context, magic uint64, text viewText) *viewFile {
	f := &viewFile{viewNode: viewNode{magic}, s: s, text: text}
	f.InodeAttrs.Init(ctx, s.creds, linux.UNNAMED_MAJOR, s.views.minor, s.views.ino.Add(1), linux.ModeRegular|0o444)
	return f
}

func (s *Kernel) newViewFiles(ctx context.Context, texts map[string]viewText) map[string]kernfs.Inode {
	files := make(map[string]kernfs.Inode, len(texts))
	for name, text := range texts {
		files[name] = s.newViewFile(ctx, linux.CGROUP2_SUPER_MAGIC, text)
	}
	return files
}

// Generate implements vfs.DynamicBytesSource.Generate.
func (f *viewFile) Generate(ctx context.Context, buf *bytes.Buffer) error {
	f.text(f.s.viewOf(ctx), buf)
	return nil
}

// Open implements kernfs.Inode.Open.
func (f *viewFile) Open(_ context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
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

// cpuDir is /sys/devices/system/cpu. It has a directory for each CPU that the
// reader sees.
type cpuDir struct {
	viewDir
	s *Kernel
	// each is by number; all that the kernel has.
	each []*oneCPUDir
}

// oneCPUDir is the directory of a CPU, for those who see that.
type oneCPUDir struct {
	viewDir
	s *Kernel
	n uint
}

func (s *Kernel) newCPUDir(ctx context.Context) *cpuDir {
	d := &cpuDir{s: s}
	d.viewDir.init(ctx, s, linux.SYSFS_MAGIC)
	file := func(text viewText) kernfs.Inode { return s.newViewFile(ctx, linux.SYSFS_MAGIC, text) }
	list := file(func(v *view, buf *bytes.Buffer) { fmt.Fprintln(buf, v.cpus()) })
	d.fill(map[string]kernfs.Inode{"online": list, "possible": list, "present": list})
	all := file(func(v *view, buf *bytes.Buffer) { fmt.Fprintln(buf, cpuHex(v.cpus(), v.cpus())) })
	for n := range uint(s.cfg.CPUs) {
		own := file(func(v *view, buf *bytes.Buffer) { fmt.Fprintln(buf, cpuHex(v.cpus(), smp.Of(int(n)))) })
		topology := s.newViewDir(ctx, linux.SYSFS_MAGIC)
		// All in one socket, each a core of its own, as in /proc/cpuinfo.
		topology.fill(map[string]kernfs.Inode{
			"core_cpus": own, "thread_siblings": own, "core_siblings": all, "package_cpus": all,
		})
		one := &oneCPUDir{s: s, n: n}
		one.viewDir.init(ctx, s, linux.SYSFS_MAGIC)
		one.fill(map[string]kernfs.Inode{"topology": topology})
		d.each = append(d.each, one)
	}
	return d
}

// Valid implements kernfs.Inode.Valid: the directory may be remembered from
// somebody who sees more CPUs.
func (d *oneCPUDir) Valid(ctx context.Context, _ *kernfs.Dentry, _ string) bool {
	return d.s.viewOf(ctx).cpus().Has(int(d.n))
}

// Lookup implements kernfs.Inode.Lookup.
func (d *cpuDir) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	if number, ok := strings.CutPrefix(name, "cpu"); ok {
		n, err := strconv.ParseUint(number, 10, 32)
		if err == nil && strconv.FormatUint(n, 10) == number && d.s.viewOf(ctx).cpus().Has(int(n)) {
			return d.each[n], nil
		}
	}
	return d.viewDir.Lookup(ctx, name)
}

// IterDirents implements kernfs.Inode.IterDirents.
func (d *cpuDir) IterDirents(ctx context.Context, _ *vfs.Mount, callback vfs.IterDirentsCallback, offset, relOffset int64) (int64, error) {
	at := int64(0)
	var err error
	d.s.viewOf(ctx).cpus().All(func(n int) bool {
		if at++; at <= relOffset {
			return true
		}
		err = callback.Handle(vfs.Dirent{
			Name: fmt.Sprintf("cpu%d", n), Type: linux.DT_DIR, Ino: d.each[n].Ino(), NextOff: offset + 1,
		})
		if err == nil {
			offset++
		}
		return err == nil
	})
	return offset, err
}

// cpuHex is a mask of CPUs, of all that there are, as the kernel prints them: words
// of 32 bits, the highest first.
func cpuHex(all, cpus smp.Set) string {
	top := 0
	all.All(func(cpu int) bool {
		top = cpu
		return true
	})
	words := make([]string, 0, top/32+1)
	for base := top / 32 * 32; base >= 0; base -= 32 {
		var word uint32
		for bit := range 32 {
			if cpus.Has(base + bit) {
				word |= 1 << bit
			}
		}
		width := 8
		if len(words) == 0 {
			width = (min(top-base, 31) + 4) / 4
		}
		words = append(words, fmt.Sprintf("%0*x", width, word))
	}
	return strings.Join(words, ",")
}
