package ctlfs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/sdk/python"
)

// Name is the name under which the file system is registered.
const Name = "aios"

// Mountpoint is where agents find it.
const Mountpoint = "/aios"

// superMagic is what statfs calls the file system: "AIOS".
const superMagic = 0x41494f53

// keptDentries is how many unused directory entries an instance keeps: all.
const keptDentries = 16

// FilesystemType makes instances of the file system at /aios.
type FilesystemType struct {
	// Authority answers.
	Authority Authority
}

// Name implements vfs.FilesystemType.
func (FilesystemType) Name() string { return Name }

// Release implements vfs.FilesystemType.
func (FilesystemType) Release(context.Context) {}

// GetFilesystem implements vfs.FilesystemType. It makes an instance; its files
// come to be when they are looked up.
func (t FilesystemType) GetFilesystem(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, _ string, _ vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	minor, err := v.GetAnonBlockDevMinor()
	if err != nil {
		return nil, nil, err
	}
	fs := &filesystem{auth: t.Authority, devMinor: minor}
	fs.MaxCachedDentries = keptDentries
	fs.VFSFilesystem().Init(v, t, fs)
	var root kernfs.Dentry
	root.InitRoot(&fs.Filesystem, fs.newDirectory(ctx, rootDir))
	return fs.VFSFilesystem(), root.VFSDentry(), nil
}

// filesystem is one instance.
type filesystem struct {
	kernfs.Filesystem
	auth     Authority
	devMinor uint32
	links    links
}

// Release implements vfs.FilesystemImpl.
func (fs *filesystem) Release(ctx context.Context) {
	fs.links.close()
	v := fs.VFSFilesystem().VirtualFilesystem()
	fs.Filesystem.Release(ctx)
	v.PutAnonBlockDevMinor(fs.devMinor)
}

// MountOptions implements vfs.FilesystemImpl.
func (fs *filesystem) MountOptions() string { return "" }

// entry is a file or directory of every instance.
type entry struct {
	name string
	path string // as agents see it
	ino  uint64
	mode linux.FileMode
	// One of them says what it is.
	children []*entry
	generate func(*session) ([]byte, error) // a file that is read
	command  bool                           // the file that takes commands
	order    func(*session, string) error   // with generate: a file that takes orders
	events   bool                           // the file of events
	regions  bool                           // the directory of regions
	// A file of its own kind.
	own func(*filesystem, context.Context, *entry) kernfs.Inode
}

func directoryEntry(name string, children ...*entry) *entry {
	return &entry{name: name, mode: linux.ModeDirectory | 0o555, children: children}
}

func fileEntry(name string, generate func(*session) ([]byte, error)) *entry {
	return &entry{name: name, mode: linux.ModeRegular | 0o444, generate: generate}
}

// rootDir is the whole tree.
var rootDir = number(new(uint64), Mountpoint, directoryEntry("",
	directoryEntry("self",
		fileEntry("id", (*session).id),
		fileEntry("name", (*session).name),
		fileEntry("domain", (*session).domain),
		fileEntry("caps", (*session).caps),
		fileEntry("tree", (*session).tree),
		fileEntry("limits", (*session).limits),
		fileEntry("stats", (*session).stats),
		&entry{name: "watchdog", mode: linux.ModeRegular | 0o666, generate: (*session).watchdog, order: (*session).orderWatchdog},
		&entry{name: "hint", mode: linux.ModeRegular | 0o666, generate: (*session).hint, order: (*session).orderHint},
		fileEntry("job", (*session).job),
		&entry{name: "template", mode: anyWriter, generate: (*session).template, own: (*filesystem).newTemplateFile},
		&entry{name: "clones", mode: anyWriter, own: (*filesystem).newClonesFile},
	),
	directoryEntry("lib",
		fileEntry("aios.py", func(*session) ([]byte, error) { return python.Module, nil }),
		fileEntry("aiosregion.py", func(*session) ([]byte, error) { return python.RegionModule, nil }),
	),
	&entry{name: "fabric", mode: linux.ModeDirectory | 0o555, regions: true},
	&entry{name: "ctl", mode: linux.ModeRegular | 0o666, command: true},
	&entry{name: "events", mode: linux.ModeRegular | 0o666, events: true},
	&entry{name: "semantic.sock", mode: linux.ModeSocket | 0o666, own: (*filesystem).newMemorySocket},
	fileEntry("help", (*session).help),
	fileEntry("version", (*session).version),
))

// number gives every entry its path and an inode number.
func number(last *uint64, path string, e *entry) *entry {
	*last++
	e.ino, e.path = *last, path
	for _, c := range e.children {
		number(last, path+"/"+c.name, c)
	}
	return e
}

// newInode makes the inode of e.
func (fs *filesystem) newInode(ctx context.Context, e *entry) kernfs.Inode {
	switch {
	case e.own != nil:
		return e.own(fs, ctx, e)
	case e.regions:
		return fs.newRegionsDir(ctx, e)
	case e.children != nil:
		return fs.newDirectory(ctx, e)
	case e.order != nil:
		return fs.newOrderFile(ctx, e)
	case e.command:
		return fs.newCommandFile(ctx, e)
	case e.events:
		return fs.newEventsFile(ctx, e)
	default:
		return fs.newFile(ctx, e)
	}
}
