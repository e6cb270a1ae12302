package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/images/mkerofs"
	"golang.org/x/sys/unix"
)

// skeletonVersion changes with the rules by which skeletons are made, so that
// older ones are not used.
const skeletonVersion = 1

// programDirs are where programs and libraries are. Those that are directories
// on the host are mounted; those that are links into others are copied as links.
var programDirs = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// hiddenDirs are places beneath the program directories where secrets may be.
var hiddenDirs = []string{"usr/local/etc", "usr/lib/credstore", "usr/lib/credstore.encrypted", "usr/local/lib/credstore", "usr/local/lib/credstore.encrypted"}

// HostOptions says what host image is wanted.
type HostOptions struct {
	// Root is where the host's root is, "/" if empty.
	Root string
	// User, if not nil and not root, is in passwd and group and has a home.
	User *HostUser
	// Hostname is what /etc/hostname says, "aios" if empty.
	Hostname string
}

// HostUser is a user of the host whom the image knows.
type HostUser struct {
	Name     string
	UID, GID uint32
}

// HostMount is a directory of the host that the agent's kernel mounts,
// read-only, over the skeleton.
type HostMount struct {
	Host, Guest string
}

// HostImage is the host as an image: its programs and libraries, read-only,
// without its secrets. An agent's root is the skeleton, a small EROFS image,
// with the Mounts over it. The skeleton has the usual empty directories and a
// reduced /etc: what HostEtc allows, and passwd, group, hosts, hostname and
// resolv.conf made for the agent. Nothing of /home, /root, /var, /run, /opt and
// the rest of /etc is in it.
//
// Whoever serves the Mounts must do so as a user without privileges (no
// CAP_DAC_OVERRIDE, no CAP_DAC_READ_SEARCH): then an agent reads beneath /usr
// what every user of the host may read, and no more. Setuid programs are there,
// but give an agent no privilege on the host: they change its user only inside
// its own kernel.
type HostImage struct {
	// Image describes the skeleton; its name is HostName.
	Image Image
	// Mounts are the host's program directories.
	Mounts []HostMount
	// Hide are paths beneath the Mounts that must be covered by empty
	// directories.
	Hide []string
	// Env is the environment to start from; HOME and TERM are the caller's.
	Env []string
}

// DefaultEnv is the environment of agents whose image sets none.
func DefaultEnv() []string { return []string{"PATH=" + DefaultPath, "LANG=C.UTF-8"} }

// hostRecord is what the store keeps of a host image beside its skeleton.
type hostRecord struct {
	// Inputs is the digest of the state of the Watched names.
	Inputs  string
	Watched []string
	Mounts  []HostMount
	Hide    []string
}

// HostImage describes the host and opens the skeleton, which the caller closes.
// The skeleton is kept in the store and made again when the host's /etc has
// changed.
func (s *Store) HostImage(ctx context.Context, opts HostOptions) (*HostImage, *os.File, error) {
	const op = "prepare host image"
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.Hostname == "" {
		opts.Hostname = "aios"
	}
	if !abi.ValidName(opts.Hostname) || opts.User != nil && !abi.ValidName(opts.User.Name) {
		return nil, nil, errdefs.New(errdefs.InvalidArgument, "malformed host or user name", errdefs.Op(op),
			errdefs.Fix("use letters, digits, dots, dashes and underscores"))
	}
	variant := opts.variant()
	key := keyOf(variant)
	f, r, err := s.cachedHost(opts.Root, variant, key)
	if err == nil && f == nil {
		f, r, err = s.makeHost(ctx, opts, variant, key)
	}
	if err != nil {
		return nil, nil, hostError(err, op)
	}
	return &HostImage{Image: r.Image, Mounts: r.Host.Mounts, Hide: r.Host.Hide, Env: DefaultEnv()}, f, nil
}

// variant names what the options change in a skeleton.
func (o HostOptions) variant() string {
	user := ""
	if o.User != nil {
		user = fmt.Sprintf("%s:%d:%d", o.User.Name, o.User.UID, o.User.GID)
	}
	return fmt.Sprintf("%d|%q|%s|%s", skeletonVersion, o.Root, o.Hostname, user)
}

// cachedHost opens the skeleton in the store, or returns nil when there is none
// that still holds.
func (s *Store) cachedHost(root, variant, key string) (f *os.File, r record, err error) {
	return f, r, s.locked(func() error {
		var err error
		if r, err = readRecord(s.recordPath(hostDir, key)); err != nil || r.Host == nil {
			return nil
		}
		if inputs, err := inputsOf(root, variant, r.Host.Watched); err != nil || inputs != r.Host.Inputs {
			return nil
		}
		f, _ = s.openBlob(r.Image) // Made again when it is damaged.
		return nil
	})
}

// makeHost makes the skeleton and keeps it.
func (s *Store) makeHost(ctx context.Context, opts HostOptions, variant, key string) (*os.File, record, error) {
	scan, err := scanHost(opts.Root)
	if err != nil {
		return nil, record{}, err
	}
	defer scan.close()
	h := &hostRecord{Watched: scan.watched()}
	// Taken before contents are read: what changes from here on shows later.
	if h.Inputs, err = inputsOf(opts.Root, variant, h.Watched); err != nil {
		return nil, record{}, err
	}
	h.Mounts, h.Hide = scan.mounts(opts.Root)
	if len(h.Mounts) == 0 {
		return nil, record{}, errdefs.New(errdefs.HostFeature, "the host has no readable directory /usr",
			errdefs.Fix("import an image and use it instead of the host image"))
	}
	b := &skeletonBuilder{scan: scan, root: mkerofs.NewDir(0o755)}
	if err := b.build(opts); err != nil {
		return nil, record{}, err
	}
	p, err := s.writeBlob(ctx, b.root, nil)
	if err != nil {
		return nil, record{}, err
	}
	defer p.discard()
	r := record{Host: h, Image: Image{
		Name: HostName, Digest: p.digest, Size: p.stats.Bytes, Files: p.stats.Inodes, Created: s.clock.Now().UTC(),
		Kind: KindHost, Source: opts.Root, Config: Config{Env: DefaultEnv()}, Warnings: b.warnings(),
	}}
	var f *os.File
	err = s.locked(func() error {
		old, _ := readRecord(s.recordPath(hostDir, key))
		if err := s.place(p); err != nil {
			return err
		}
		if err := s.writeRecord(hostDir, key, r); err != nil {
			return err
		}
		if f, err = s.openBlob(r.Image); err != nil {
			return err
		}
		if old.Image.Digest != "" && old.Image.Digest != r.Image.Digest {
			return s.dropBlob(old.Image.Digest)
		}
		return nil
	})
	return f, r, err
}

// mounts returns the program directories that are directories, and what is to
// be hidden in them.
func (s *hostScan) mounts(root string) (mounts []HostMount, hide []string) {
	for _, dir := range programDirs {
		if s.isDir(dir) {
			mounts = append(mounts, HostMount{filepath.Join(root, dir), "/" + dir})
		}
	}
	for _, p := range hiddenDirs {
		var st unix.Stat_t
		if s.lstat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			hide = append(hide, "/"+p)
		}
	}
	return mounts, hide
}

// skeletonBuilder makes the tree of a skeleton.
type skeletonBuilder struct {
	scan    *hostScan
	root    *mkerofs.Node
	dropped []string
}

func (b *skeletonBuilder) warnings() []string {
	if len(b.dropped) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d names of /etc left out, for their contents or because their links lead elsewhere: %s", len(b.dropped), someOf(b.dropped))}
}

func (b *skeletonBuilder) build(opts HostOptions) error {
	b.addSystem(opts)
	for i := range b.scan.items {
		if err := b.addItem(&b.scan.items[i]); err != nil {
			return err
		}
	}
	return nil
}

// addItem copies one name of the host.
func (b *skeletonBuilder) addItem(item *hostItem) error {
	dir, base := path.Split(item.path)
	parent := b.find(dir)
	if parent.Children[base] != nil {
		return nil // Made for the agent.
	}
	n := &mkerofs.Node{Mtime: item.st.Mtim.Sec, MtimeNsec: uint32(item.st.Mtim.Nsec)}
	switch item.kind() {
	case unix.S_IFDIR:
		n.Mode, n.Children = mkerofs.ModeDir|0o755, map[string]*mkerofs.Node{}
	case unix.S_IFLNK:
		n.Mtime, n.MtimeNsec = 0, 0 // Not always looked up; the same for all.
		fd, err := b.scan.root.dirfd(path.Clean(dir))
		if err == nil {
			n.Target, err = readlinkat(fd, base)
		}
		if err != nil {
			return sourceError("read link", item.path, err)
		}
		if !b.staysInside(item.path, n.Target) {
			b.dropped = append(b.dropped, "/"+item.path)
			return nil
		}
		n.Mode = mkerofs.ModeSymlink | 0o777
	default:
		data, err := b.read(item)
		if errors.Is(err, fs.ErrPermission) {
			return nil // For everybody by its mode, but not for us.
		} else if err != nil {
			return err
		}
		if hasSecret(data) {
			b.dropped = append(b.dropped, "/"+item.path)
			return nil
		}
		n.Mode = mkerofs.ModeRegular | item.st.Mode&0o755
		n.Size, n.Content = int64(len(data)), memory(data)
	}
	parent.Children[base] = n
	return nil
}

// read returns the contents of the very file that the scan saw.
func (b *skeletonBuilder) read(item *hostItem) ([]byte, error) {
	f := &dirFile{src: b.scan.root, dir: path.Dir(item.path), name: path.Base(item.path), id: fileID{item.st.Dev, item.st.Ino}, mtime: item.st.Mtim, size: item.st.Size}
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readAtMost(r, maxHostFile)
}

// staysInside reports whether a link at p leads, by its own text, to a program
// directory or to a part of /etc that the skeleton has.
func (b *skeletonBuilder) staysInside(p, target string) bool {
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(p), target)
	}
	target = inTree(target)
	first, _, _ := strings.Cut(target, "/")
	for _, dir := range programDirs {
		if _, ok := b.scan.seen[dir]; ok && first == dir {
			return true
		}
	}
	_, ok := b.scan.seen[target]
	return ok && first == "etc" || b.generated(target)
}

// find returns the directory at p, which exists.
func (b *skeletonBuilder) find(p string) *mkerofs.Node {
	n := b.root
	for part := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if part != "" {
			n = n.Children[part]
		}
	}
	return n
}

// memory is the content of a file that is already read.
type memory []byte

// Open reads it.
func (m memory) Open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(m))), nil
}
