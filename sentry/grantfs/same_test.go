package grantfs

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"pgregory.net/rapid"
)

// side is one of two file systems that must behave alike.
type side struct {
	user
	under user // the same files, without a grant
	files []*vfs.FileDescription
	cwd   vfs.VirtualDentry // where paths that are not absolute start
}

// newSides returns a plain tmpfs, and a grant with all rights to another.
func newSides(t testing.TB) ([2]*side, *FS) {
	plain, granted := newWorld(t), newWorld(t)
	must(t, granted.raw().mkdir("/sub"))
	fs := granted.grant("/g", "/sub", Options{Rights: allRights})
	agent, raw := granted.agent(), granted.raw()
	var err error
	agent.root, err = granted.vfs.GetDentryAt(agent.ctx, agent.creds, agent.pop("/g"), &vfs.GetDentryOptions{})
	must(t, err)
	raw.root, err = granted.vfs.GetDentryAt(raw.ctx, raw.creds, raw.pop("/sub"), &vfs.GetDentryOptions{})
	must(t, err)
	// The root of a tmpfs has other bits than a directory in it.
	for _, u := range []user{raw, plain.raw()} {
		must(t, u.setstat("/", linux.Statx{Mask: linux.STATX_MODE, Mode: 0o777}))
	}
	sides := [2]*side{{user: plain.raw(), under: plain.raw()}, {user: agent, under: raw}}
	for _, s := range sides {
		s.cwd = s.root
		s.cwd.IncRef()
	}
	return sides, fs
}

// at is a path operation of a program that stands in s.cwd.
func (s *side) at(path string, follow bool) *vfs.PathOperation {
	pop := &vfs.PathOperation{Root: s.root, Start: s.cwd, Path: fspath.Parse(path), FollowFinalSymlink: follow}
	if pop.Path.Absolute {
		pop.Start = s.root
	}
	return pop
}

func drawPath(t *rapid.T, label string) string {
	parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "..", "."}), 1, 4).Draw(t, label)
	path := strings.Join(parts, "/")
	switch rapid.IntRange(0, 7).Draw(t, label+" form") {
	case 0:
		path += "/"
	case 1, 2, 3:
		path = "/" + path
	}
	return path
}

// describe is what there is to tell of a file, but for numbers that are of no
// meaning.
func describeStat(st linux.Statx, err error) string {
	if err != nil {
		return fmt.Sprint(errno(err))
	}
	if linux.FileMode(st.Mode).IsDir() {
		st.Size = 0
	}
	return fmt.Sprintf("mode %o uid %d size %d nlink %d", st.Mode, st.UID, st.Size, st.Nlink)
}

// step does one random operation on s; what it returns must be the same on both
// sides.
func drawStep(t *rapid.T) (name string, do func(s *side) string) {
	p := drawPath(t, "path")
	result := func(err error) string { return fmt.Sprint(errno(err)) }
	switch k := rapid.IntRange(0, 21).Draw(t, "operation"); k {
	case 0, 1:
		mode := linux.FileMode(rapid.SampledFrom([]uint{0o755, 0o700, 0o777, 0o1777, 0}).Draw(t, "mode"))
		return "mkdir " + p, func(s *side) string {
			return result(s.w.vfs.MkdirAt(s.ctx, s.creds, s.at(p, false), &vfs.MkdirOptions{Mode: mode}))
		}
	case 2:
		return "rmdir " + p, func(s *side) string { return result(s.w.vfs.RmdirAt(s.ctx, s.creds, s.at(p, false))) }
	case 3:
		return "unlink " + p, func(s *side) string { return result(s.w.vfs.UnlinkAt(s.ctx, s.creds, s.at(p, false))) }
	case 4, 5, 6:
		to := drawPath(t, "to")
		flags := rapid.SampledFrom([]uint32{0, 0, 0, linux.RENAME_NOREPLACE, linux.RENAME_EXCHANGE}).Draw(t, "flags")
		return fmt.Sprintf("rename %s %s %d", p, to, flags), func(s *side) string {
			return result(s.w.vfs.RenameAt(s.ctx, s.creds, s.at(p, false), s.at(to, false), &vfs.RenameOptions{Flags: flags}))
		}
	case 7:
		to := drawPath(t, "to")
		return "link " + p + " " + to, func(s *side) string {
			return result(s.w.vfs.LinkAt(s.ctx, s.creds, s.at(p, false), s.at(to, false)))
		}
	case 8, 9:
		target := drawPath(t, "target")
		return "symlink " + target + " " + p, func(s *side) string {
			return result(s.w.vfs.SymlinkAt(s.ctx, s.creds, s.at(p, false), target))
		}
	case 10:
		return "mkfifo " + p, func(s *side) string {
			return result(s.w.vfs.MknodAt(s.ctx, s.creds, s.at(p, false), &vfs.MknodOptions{Mode: linux.S_IFIFO | 0o644}))
		}
	case 11, 12, 13:
		flags := rapid.SampledFrom([]uint32{linux.O_RDONLY, linux.O_WRONLY, linux.O_RDWR}).Draw(t, "mode") | linux.O_NONBLOCK
		for _, f := range []uint32{linux.O_CREAT, linux.O_CREAT, linux.O_EXCL, linux.O_TRUNC, linux.O_APPEND, linux.O_DIRECTORY, linux.O_NOFOLLOW} {
			if rapid.IntRange(0, 3).Draw(t, "flag") == 0 {
				flags |= f
			}
		}
		return fmt.Sprintf("open %s %#x", p, flags), func(s *side) string {
			fd, err := s.w.vfs.OpenAt(s.ctx, s.creds, s.at(p, true), &vfs.OpenOptions{Flags: flags, Mode: 0o640})
			if err == nil {
				if len(s.files) < 6 {
					s.files = append(s.files, fd)
				} else {
					fd.DecRef(s.ctx)
				}
			}
			return result(err)
		}
	case 14, 15:
		i, text := rapid.IntRange(0, 5).Draw(t, "file"), rapid.StringN(0, 9, 9).Draw(t, "text")
		return fmt.Sprintf("write %d %q", i, text), func(s *side) string {
			if i >= len(s.files) {
				return ""
			}
			n, err := write(s.ctx, s.files[i], text)
			return fmt.Sprint(n, errno(err))
		}
	case 16:
		i, off := rapid.IntRange(0, 5).Draw(t, "file"), rapid.Int64Range(0, 20).Draw(t, "offset")
		return fmt.Sprintf("seek and read %d %d", i, off), func(s *side) string {
			if i >= len(s.files) {
				return ""
			}
			st, statErr := s.files[i].Stat(s.ctx, vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
			_, seekErr := s.files[i].Seek(s.ctx, off, linux.SEEK_SET)
			text, err := read(s.ctx, s.files[i], 8)
			return fmt.Sprint(describeStat(st, statErr), errno(seekErr), text, err)
		}
	case 17:
		i := rapid.IntRange(0, 5).Draw(t, "file")
		return fmt.Sprintf("close %d", i), func(s *side) string {
			if i < len(s.files) {
				s.files[i].DecRef(s.ctx)
				s.files = slices.Delete(s.files, i, i+1)
			}
			return ""
		}
	case 18:
		return "chdir " + p, func(s *side) string {
			vd, err := s.w.vfs.GetDentryAt(s.ctx, s.creds, s.at(p, true), &vfs.GetDentryOptions{CheckSearchable: true})
			if err == nil {
				s.cwd.DecRef(s.ctx)
				s.cwd = vd
			}
			return result(err)
		}
	case 19:
		mode := uint16(rapid.SampledFrom([]uint{0o755, 0o700, 0o777, 0o1777, 0}).Draw(t, "mode"))
		return fmt.Sprintf("chmod %s %o", p, mode), func(s *side) string {
			return result(s.w.vfs.SetStatAt(s.ctx, s.creds, s.at(p, true), &vfs.SetStatOptions{Stat: linux.Statx{Mask: linux.STATX_MODE, Mode: mode}}))
		}
	case 20:
		size := rapid.Uint64Range(0, 20).Draw(t, "size")
		return fmt.Sprintf("truncate %s %d", p, size), func(s *side) string {
			return result(s.w.vfs.SetStatAt(s.ctx, s.creds, s.at(p, true), &vfs.SetStatOptions{NeedWritePerm: true, Stat: linux.Statx{Mask: linux.STATX_SIZE, Size: size}}))
		}
	default:
		ats := vfs.AccessTypes(rapid.IntRange(0, 7).Draw(t, "access"))
		return fmt.Sprintf("look at %s %d", p, ats), func(s *side) string {
			st, err := s.w.vfs.StatAt(s.ctx, s.creds, s.at(p, false), &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
			link, linkErr := s.w.vfs.ReadlinkAt(s.ctx, s.creds, s.at(p, false))
			accessErr := s.w.vfs.AccessAt(s.ctx, s.creds, ats, s.at(p, true))
			cwd, cwdErr := s.w.vfs.PathnameForGetcwd(s.ctx, s.root, s.cwd)
			return fmt.Sprint(describeStat(st, err), link, errno(linkErr), errno(accessErr), cwd, errno(cwdErr))
		}
	}
}

// tree is all that is below the root, told by somebody.
func (s *side) tree(u user) string {
	var b strings.Builder
	var walk func(path string, depth int)
	walk = func(path string, depth int) {
		st, err := u.stat(path)
		fmt.Fprintf(&b, "%s: %s", path, describeStat(st, err))
		switch linux.FileMode(st.Mode).FileType() {
		case linux.ModeSymlink:
			link, err := u.readlink(path)
			fmt.Fprintf(&b, " -> %s %v", link, err)
		case linux.ModeRegular:
			text, err := u.readFile(path)
			fmt.Fprintf(&b, " %q %v", text, err)
		}
		b.WriteByte('\n')
		if linux.FileMode(st.Mode).IsDir() && depth < 12 {
			names, _ := u.list(path)
			slices.Sort(names)
			for _, n := range names {
				walk(strings.TrimSuffix(path, "/")+"/"+n, depth+1)
			}
		}
	}
	walk("/", 0)
	return b.String()
}

// TestSameAsPlain does random operations through a grant with all rights and
// without any, and compares everything.
func TestSameAsPlain(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sides, fs := newSides(t)
		if rapid.Bool().Draw(rt, "ordinary user") {
			for _, s := range sides {
				s.creds = auth.NewUserCredentials(1000, 1000, nil, nil, s.w.creds.UserNamespace)
			}
		}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			name, do := drawStep(rt)
			plain, granted := do(sides[0]), do(sides[1])
			if plain != granted {
				rt.Fatalf("%s: %q through a grant, %q without", name, granted, plain)
			}
		}
		root := *sides[1]
		root.creds = root.w.creds
		a, b, c := sides[0].tree(sides[0].under), root.tree(root.user), root.tree(root.under)
		if a != b || b != c {
			rt.Fatalf("the trees differ: plain\n%s\nthrough the grant\n%s\nbelow it\n%s", a, b, c)
		}
		for _, s := range sides {
			for _, fd := range s.files {
				fd.DecRef(s.ctx)
			}
			s.cwd.DecRef(s.ctx)
		}
		if n := len(fs.dentries); n != 1 { // The root.
			rt.Errorf("%d dentries are remembered, want 1", n)
		}
		if len(fs.quota.nodes) != 0 || len(fs.files) != 0 {
			rt.Errorf("%d nodes and %d files are remembered", len(fs.quota.nodes), len(fs.files))
		}
	})
}
