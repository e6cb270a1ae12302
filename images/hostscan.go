package images

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"aios.dev/aios/images/mkerofs"
	"golang.org/x/sys/unix"
)

const (
	// maxHostItems and maxHostFile bound what a skeleton copies.
	maxHostItems = 50_000
	maxHostFile  = 8 << 20

	readableByAll  = 0o004
	enterableByAll = 0o005
)

// hostItem is one name of the host that may enter the skeleton.
type hostItem struct {
	path string // relative to the root, parents come before it
	// st is of the name itself. Of a symbolic link found by listing it has the
	// type only: what a link says never changes, and its directory does when
	// the link is replaced.
	st unix.Stat_t
}

func (i *hostItem) kind() uint32 { return i.st.Mode & unix.S_IFMT }

// hostScan looks at names, never at contents, and follows no symbolic link.
type hostScan struct {
	root   *dirSource // beneath which names are opened
	items  []hostItem
	seen   map[string]bool          // added, and whether it is a directory
	listed map[string][]fs.DirEntry // names in directories that patterns look at
}

// scanHost collects the program directories of the host at root and what
// HostEtc allows.
func scanHost(root string) (*hostScan, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	s := &hostScan{root: &dirSource{root: fd, cachedDir: -1}, seen: map[string]bool{}, listed: map[string][]fs.DirEntry{}}
	for _, name := range programDirs {
		if err := s.visit(name, 0, false); err != nil {
			s.close()
			return nil, err
		}
	}
	for _, e := range HostEtc {
		p, tree := strings.CutSuffix(e.Path, "/")
		for _, match := range s.glob(path.Join("etc", p)) {
			if err := s.visit(match, 0, tree); err != nil {
				s.close()
				return nil, err
			}
		}
	}
	return s, nil
}

func (s *hostScan) close() error { return s.root.close() }

// glob returns what a pattern in the last element of p matches.
func (s *hostScan) glob(p string) []string {
	if !strings.ContainsAny(p, "*?[") {
		return []string{p}
	}
	dir, pattern := path.Split(p)
	dir = path.Clean(dir)
	names, ok := s.listed[dir]
	if !ok {
		names = s.names(dir)
		s.listed[dir] = names
	}
	var out []string
	for _, name := range names {
		if match, _ := path.Match(pattern, name.Name()); match {
			out = append(out, path.Join(dir, name.Name()))
		}
	}
	return out
}

// names lists a directory, sorted; one that cannot be read is empty.
func (s *hostScan) names(dir string) []fs.DirEntry {
	fd, err := s.root.openat(path.Dir(dir), path.Base(dir))
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	names, err := f.ReadDir(maxHostItems)
	if err != nil {
		return nil
	}
	sort.Slice(names, func(i, j int) bool { return names[i].Name() < names[j].Name() })
	return names
}

// visit adds p and the directories above it, and with tree what is below it.
// What is missing, secret by name or not for everybody's eyes is left out. A
// type of symbolic link is believed, others are looked up.
func (s *hostScan) visit(p string, typ fs.FileMode, tree bool) error {
	if dir := path.Dir(p); dir != "." && !s.isDir(dir) {
		if err := s.visit(dir, 0, false); err != nil {
			return err
		}
		if !s.isDir(dir) {
			return nil // Left out, or a link, which stands for all that is behind it.
		}
	}
	if _, added := s.seen[p]; !added {
		item := hostItem{path: p}
		if typ == fs.ModeSymlink {
			item.st.Mode = unix.S_IFLNK
		} else if err := s.lstat(p, &item.st); err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				return nil
			}
			return sourceError("stat", p, err)
		}
		if item.allowed() {
			if len(s.items) >= maxHostItems {
				return limitError("host-items", maxHostItems, "the host's /etc")
			}
			s.seen[p] = item.kind() == unix.S_IFDIR
			s.items = append(s.items, item)
		}
	}
	if !tree || !s.isDir(p) {
		return nil
	}
	for _, name := range s.names(p) {
		if err := s.visit(p+"/"+name.Name(), name.Type(), true); err != nil {
			return err
		}
	}
	return nil
}

func (s *hostScan) lstat(p string, st *unix.Stat_t) error {
	fd, err := s.root.dirfd(path.Dir(p))
	if err != nil {
		return err
	}
	return unix.Fstatat(fd, path.Base(p), st, unix.AT_SYMLINK_NOFOLLOW)
}

// isDir reports whether p was added and is a directory.
func (s *hostScan) isDir(p string) bool { return s.seen[p] }

// allowed reports whether a name that the list allows may be copied.
func (i *hostItem) allowed() bool {
	switch i.kind() {
	case unix.S_IFLNK:
		return true
	case unix.S_IFDIR:
		return i.st.Mode&enterableByAll == enterableByAll && !deniedName(path.Base(i.path))
	case unix.S_IFREG:
		return i.st.Mode&readableByAll != 0 && i.st.Size <= maxHostFile && !deniedName(path.Base(i.path))
	}
	return false
}

// watched returns the names whose times tell whether the scan would find the
// same again: a changed file has another time of change, and a directory has
// one when a name in it appears, goes or is replaced.
func (s *hostScan) watched() []string {
	var out []string
	for i := range s.items {
		if s.items[i].st.Ino != 0 { // Looked up.
			out = append(out, s.items[i].path)
		}
	}
	return out
}

// inputsOf returns a digest of the state of names of the host at root.
func inputsOf(root, variant string, names []string) (string, error) {
	h := sha256.New()
	h.Write(append([]byte(variant), 0))
	b := make([]byte, 64, 64+mkerofs.MaxTargetLen)
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			return "", sourceError("stat", name, err)
		}
		for j, v := range [...]uint64{uint64(st.Mode), st.Dev, st.Ino, uint64(st.Size), uint64(st.Mtim.Sec), uint64(st.Mtim.Nsec), uint64(st.Ctim.Sec), uint64(st.Ctim.Nsec)} {
			binary.LittleEndian.PutUint64(b[8*j:], v)
		}
		h.Write(append(append(b, name...), 0))
	}
	return digestOf(h), nil
}
