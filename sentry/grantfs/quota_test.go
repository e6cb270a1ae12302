package grantfs

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"pgregory.net/rapid"

	"aios.dev/aios/abi"
)

// TestQuotaBytes fills a quota to the brim in every way.
func TestQuotaBytes(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	fs := w.grant("/g", "/", Options{Rights: allRights, Bytes: 10})
	fd := agent.mustOpen("/g/f", linux.O_RDWR|linux.O_CREAT)
	n, err := write(agent.ctx, fd, "12345678")
	if n != 8 || err != nil {
		t.Errorf("within the quota: %d, %v", n, err)
	}
	n, err = write(agent.ctx, fd, "9abc")
	if n != 2 || err != nil {
		t.Errorf("across the limit: %d, %v; want what fits", n, err)
	}
	_, err = write(agent.ctx, fd, "x")
	wantErrno(t, "write at the limit", err, unix.EDQUOT)
	_, err = fd.PWrite(agent.ctx, usermem.BytesIOSequence([]byte("x")), 100, vfs.WriteOptions{})
	wantErrno(t, "write beyond a hole", err, unix.EDQUOT)
	_, err = fd.PWrite(agent.ctx, usermem.BytesIOSequence([]byte("xyz")), 2, vfs.WriteOptions{})
	wantErrno(t, "overwrite", err, 0)
	wantErrno(t, "truncate to more", agent.truncate("/g/f", 11), unix.EDQUOT)
	wantErrno(t, "fallocate", fd.Allocate(agent.ctx, 0, 0, 11), unix.EDQUOT)
	wantErrno(t, "fallocate beyond the end", fd.Allocate(agent.ctx, linux.FALLOC_FL_KEEP_SIZE, 0, 1<<30), unix.EOPNOTSUPP)
	wantErrno(t, "ftruncate to less", fd.SetStat(agent.ctx, vfs.SetStatOptions{Stat: linux.Statx{Mask: linux.STATX_SIZE, Size: 4}}), 0)
	if used, _ := fs.Usage(); used != 4 {
		t.Errorf("used %d, want 4", used)
	}
	st, err := agent.w.vfs.StatFSAt(agent.ctx, agent.creds, agent.pop("/g"))
	must(t, err)
	if st.Blocks != 10/uint64(st.BlockSize) {
		t.Errorf("df shows %d blocks of %d", st.Blocks, st.BlockSize)
	}
	fs.SetQuota(2, 0)
	_, err = write(agent.ctx, fd, "x")
	wantErrno(t, "write when the quota has shrunk", err, unix.EDQUOT)
	wantErrno(t, "overwrite when the quota has shrunk", func() error {
		_, err := fd.PWrite(agent.ctx, usermem.BytesIOSequence([]byte("x")), 0, vfs.WriteOptions{})
		return err
	}(), 0)
	fs.SetQuota(0, 0)
	_, err = fd.PWrite(agent.ctx, usermem.BytesIOSequence([]byte("x")), 1000, vfs.WriteOptions{})
	wantErrno(t, "write without a quota", err, 0)
}

// TestQuotaInodes counts files.
func TestQuotaInodes(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	fs := w.grant("/g", "/", Options{Rights: allRights, Inodes: 4})
	must(t, agent.writeFile("/g/f", ""))
	must(t, agent.mkdir("/g/d"))
	must(t, agent.symlink("x", "/g/l"))
	must(t, agent.mknod("/g/p", linux.S_IFIFO|0o600))
	must(t, agent.link("/g/f", "/g/hard")) // No new inode.
	wantErrno(t, "one file too many", agent.writeFile("/g/more", ""), unix.EDQUOT)
	wantErrno(t, "one directory too many", agent.mkdir("/g/more"), unix.EDQUOT)
	wantErrno(t, "one symlink too many", agent.symlink("x", "/g/more"), unix.EDQUOT)
	wantErrno(t, "mkdir of what is there", agent.mkdir("/g/d"), unix.EEXIST)
	must(t, agent.unlink("/g/f")) // The other link remains.
	if _, used := fs.Usage(); used != 4 {
		t.Errorf("%d inodes used, want 4", used)
	}
	must(t, agent.unlink("/g/hard"))
	must(t, agent.rmdir("/g/d"))
	must(t, agent.rename("/g/l", "/g/p", 0))
	if _, used := fs.Usage(); used != 1 {
		t.Errorf("%d inodes used, want 1", used)
	}
	st, err := agent.w.vfs.StatFSAt(agent.ctx, agent.creds, agent.pop("/g"))
	must(t, err)
	if st.Files != 4 || st.FilesFree != 3 {
		t.Errorf("df shows %d files, %d free; want 4, 3", st.Files, st.FilesFree)
	}
}

// TestQuotaOfOpenFile removes files that are open, and mapped by nobody.
func TestQuotaOfOpenFile(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	fs := w.grant("/g", "/", Options{Rights: allRights, Bytes: 100, Inodes: 10})
	fd, err := agent.openFile("/g/f", linux.O_RDWR|linux.O_CREAT, 0o644)
	must(t, err)
	again, err := agent.openFile("/g/f", linux.O_RDONLY, 0)
	must(t, err)
	_, err = write(agent.ctx, fd, "12345")
	must(t, err)
	must(t, agent.unlink("/g/f"))
	_, err = write(agent.ctx, fd, "678")
	must(t, err)
	used := func() string { b, i := fs.Usage(); return fmt.Sprintf("%d bytes, %d inodes", b, i) }
	if got := used(); got != "8 bytes, 1 inodes" {
		t.Errorf("while it is open: %s", got)
	}
	fd.DecRef(agent.ctx)
	if got := used(); got != "8 bytes, 1 inodes" {
		t.Errorf("while it is open once more: %s", got)
	}
	again.DecRef(agent.ctx)
	if got := used(); got != "0 bytes, 0 inodes" {
		t.Errorf("when it is closed: %s", got)
	}
}

// quotaModel is what the quota should make of the same operations.
type quotaModel struct {
	limit, inodeLimit uint64
	used, inodes      uint64
	size              map[string]*uint64 // by name; hard links share
	links             map[*uint64]int
}

func (m *quotaModel) give(n uint64)       { m.used -= min(n, m.used) }
func (m *quotaModel) giveInodes(n uint64) { m.inodes -= min(n, m.inodes) }

// resize is what becomes of a change of size, and whether it is allowed.
func (m *quotaModel) resize(f *uint64, size uint64) bool {
	if size > *f {
		if m.used+size-*f > m.limit {
			return false
		}
		m.used += size - *f
	} else {
		m.give(*f - size)
	}
	*f = size
	return true
}

func (m *quotaModel) drop(name string) {
	f := m.size[name]
	delete(m.size, name)
	if m.links[f]--; m.links[f] == 0 {
		m.give(*f)
		m.giveInodes(1)
	}
}

// TestQuotaModel does random operations and compares the usage, the outcome and
// what is there with a model.
func TestQuotaModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		agent, raw := w.agent(), w.raw()
		m := &quotaModel{
			limit: rapid.Uint64Range(1, 60).Draw(rt, "bytes"), inodeLimit: rapid.Uint64Range(1, 4).Draw(rt, "inodes"),
			size: map[string]*uint64{}, links: map[*uint64]int{},
		}
		add := func(name string, size uint64) {
			m.size[name] = &size
			m.links[&size] = 1
		}
		for i := range rapid.IntRange(0, 2).Draw(rt, "files before") {
			name, size := string(rune('a'+i)), rapid.Uint64Range(0, 30).Draw(rt, "size before")
			must(t, raw.writeFile("/"+name, ""))
			must(t, raw.truncate("/"+name, size))
			add(name, size)
		}
		fs := w.grant("/g", "/", Options{Rights: allRights, Bytes: m.limit, Inodes: m.inodeLimit})
		names := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			name := names.Draw(rt, "name")
			path, f := "/g/"+name, m.size[name]
			var what string
			var got, want unix.Errno
			switch rapid.IntRange(0, 6).Draw(rt, "operation") {
			case 0:
				what = "create " + name
				fd, err := agent.openFile(path, linux.O_WRONLY|linux.O_CREAT|linux.O_EXCL, 0o644)
				got = errno(err)
				if err == nil {
					fd.DecRef(agent.ctx)
				}
				switch {
				case f != nil:
					want = unix.EEXIST
				case m.inodes >= m.inodeLimit:
					want = unix.EDQUOT
				default:
					m.inodes++
					add(name, 0)
				}
			case 1:
				size := rapid.Uint64Range(0, 40).Draw(rt, "size")
				what = fmt.Sprintf("truncate %s %d", name, size)
				got = errno(agent.truncate(path, size))
				switch {
				case f == nil:
					want = unix.ENOENT
				case !m.resize(f, size):
					want = unix.EDQUOT
				}
			case 2:
				off, n := rapid.Uint64Range(0, 30).Draw(rt, "offset"), rapid.Uint64Range(1, 30).Draw(rt, "bytes")
				appends := rapid.Bool().Draw(rt, "append")
				what = fmt.Sprintf("write %s %d %d %v", name, off, n, appends)
				flags := uint32(linux.O_WRONLY)
				if appends {
					flags |= linux.O_APPEND
				}
				fd, err := agent.openFile(path, flags, 0)
				if f == nil {
					got, want = errno(err), unix.ENOENT
					break
				}
				must(t, err)
				if appends {
					off = *f
				}
				fits := n
				if end := off + n; end > *f && end-*f > m.limit-min(m.used, m.limit) {
					over := end - *f - (m.limit - min(m.used, m.limit))
					fits = n - min(n, over)
				}
				wrote, err := fd.PWrite(agent.ctx, usermem.BytesIOSequence(make([]byte, n)), int64(off), vfs.WriteOptions{})
				fd.DecRef(agent.ctx)
				got = errno(err)
				if fits == 0 {
					want = unix.EDQUOT
				} else {
					m.resize(f, max(*f, off+fits))
				}
				if uint64(wrote) != fits {
					rt.Fatalf("%s: %d bytes, want %d", what, wrote, fits)
				}
			case 3:
				what = "unlink " + name
				got = errno(agent.unlink(path))
				if f == nil {
					want = unix.ENOENT
				} else {
					m.drop(name)
				}
			case 4:
				to := names.Draw(rt, "to")
				what = "link " + name + " " + to
				got = errno(agent.link(path, "/g/"+to))
				switch {
				case f == nil:
					want = unix.ENOENT
				case m.size[to] != nil:
					want = unix.EEXIST
				default:
					m.size[to] = f
					m.links[f]++
				}
			case 5:
				to := names.Draw(rt, "to")
				what = "rename " + name + " " + to
				if f != nil && m.size[to] == f {
					continue // tmpfs and Linux differ on links of the same file.
				}
				got = errno(agent.rename(path, "/g/"+to, 0))
				if f == nil {
					want = unix.ENOENT
					break
				}
				if m.size[to] != nil {
					m.drop(to)
				}
				delete(m.size, name)
				m.size[to] = f
			case 6:
				what = "open O_TRUNC " + name
				err := agent.opens(path, linux.O_WRONLY|linux.O_TRUNC)
				got = errno(err)
				if f == nil {
					want = unix.ENOENT
				} else {
					m.resize(f, 0)
				}
			}
			if got != want {
				rt.Fatalf("%s: %v, want %v", what, got, want)
			}
			if b, i := fs.Usage(); b != m.used || i != m.inodes {
				rt.Fatalf("after %s: used %d bytes and %d inodes, want %d and %d", what, b, i, m.used, m.inodes)
			}
		}
		for name, size := range m.size {
			st, err := raw.stat("/" + name)
			if err != nil || st.Size != *size {
				rt.Fatalf("%s: %d bytes, %v; want %d", name, st.Size, err, *size)
			}
		}
	})
}

// TestQuotaRaces grows and cuts files from many sides: what is used is what is
// there, and never more than the limit.
func TestQuotaRaces(t *testing.T) {
	const limit = 5000
	w := newWorld(t)
	fs := w.grant("/g", "/", Options{Rights: allRights, Bytes: limit, Inodes: 6})
	done := make(chan struct{})
	const workers = 6
	for worker := range workers {
		u := w.agent()
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 300 {
				a, b := fmt.Sprintf("/g/%d", (worker+i)%5), fmt.Sprintf("/g/%d", i%5)
				switch (worker*7 + i) % 6 {
				case 0, 1:
					if fd, err := u.openFile(a, linux.O_WRONLY|linux.O_CREAT|linux.O_APPEND, 0o644); err == nil {
						write(u.ctx, fd, string(make([]byte, 100+i)))
						u.unlink(b)
						write(u.ctx, fd, "more")
						fd.DecRef(u.ctx)
					}
				case 2:
					u.truncate(a, uint64(i))
				case 3:
					u.unlink(a)
				case 4:
					u.rename(a, b, 0)
				case 5:
					u.opens(a, linux.O_WRONLY|linux.O_TRUNC)
				}
				if used, _ := fs.Usage(); used > limit {
					t.Errorf("%d bytes used, more than the limit", used)
				}
			}
		}()
	}
	for range workers {
		<-done
	}
	raw := w.raw()
	names, err := raw.list("/")
	must(t, err)
	var there uint64
	for _, n := range names {
		st, err := raw.stat("/" + n)
		must(t, err)
		there += st.Size
	}
	if used, inodes := fs.Usage(); used != there || inodes != uint64(len(names)) {
		t.Errorf("used %d bytes and %d inodes, there are %d and %d", used, inodes, there, len(names))
	}
}

// TestQuotaWithoutWrite checks that a quota gives no right.
func TestQuotaWithoutWrite(t *testing.T) {
	w := newWorld(t)
	must(t, w.raw().writeFile("/f", "text"))
	w.grant("/g", "/", Options{Rights: abi.FSRead, Bytes: 100, Inodes: 5})
	agent := w.agent()
	wantErrno(t, "truncate", agent.truncate("/g/f", 1), unix.EROFS)
	wantErrno(t, "unlink", agent.unlink("/g/f"), unix.EROFS)
	wantErrno(t, "create", agent.writeFile("/g/new", ""), unix.EROFS)
}
