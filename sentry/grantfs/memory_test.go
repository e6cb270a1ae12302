package grantfs

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/platform/fake"
)

// memory is the memory of a process.
type memory struct {
	t testing.TB
	u user
	*mm.MemoryManager
}

func (u user) memory() memory {
	u.w.t.Helper()
	m, err := mm.NewMemoryManager(fake.New(), u.w.mf)
	must(u.w.t, err)
	_, err = m.SetMmapLayout(arch.New(arch.AMD64), u.ctx.limits)
	must(u.w.t, err)
	u.w.t.Cleanup(func() { m.DecUsers(u.ctx) })
	return memory{u.w.t, u, m}
}

// mmap maps a page of fd, as the system call does.
func (m memory) mmap(fd *vfs.FileDescription, perms hostarch.AccessType, private bool) (hostarch.Addr, error) {
	opts := memmap.MMapOpts{Length: hostarch.PageSize, Perms: perms, MaxPerms: hostarch.AnyAccess, Private: private}
	if !private && !fd.IsWritable() {
		opts.MaxPerms.Write = false
	}
	err := fd.ConfigureMMap(m.u.ctx, &opts)
	defer func() {
		if opts.MappingIdentity != nil {
			opts.MappingIdentity.DecRef(m.u.ctx)
		}
	}()
	if err != nil {
		return 0, err
	}
	return m.MMap(m.u.ctx, opts)
}

func (m memory) mustMmap(fd *vfs.FileDescription, perms hostarch.AccessType, private bool) hostarch.Addr {
	m.t.Helper()
	addr, err := m.mmap(fd, perms, private)
	must(m.t, err)
	return addr
}

// touch is what comes of an access by the process: "ok", "SIGBUS" or "SIGSEGV".
func (m memory) touch(addr hostarch.Addr, at hostarch.AccessType) string {
	err := m.HandleUserFault(m.u.ctx, addr, at, 0)
	var bus *memmap.BusError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &bus):
		return "SIGBUS"
	default:
		return "SIGSEGV"
	}
}

func (m memory) want(what string, addr hostarch.Addr, at hostarch.AccessType, want string) {
	m.t.Helper()
	if got := m.touch(addr, at); got != want {
		m.t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func (m memory) load(addr hostarch.Addr, n int) (string, error) {
	buf := make([]byte, n)
	got, err := m.CopyIn(m.u.ctx, addr, buf, usermem.IOOpts{})
	return string(buf[:got]), err
}

func (m memory) store(addr hostarch.Addr, text string) error {
	_, err := m.CopyOut(m.u.ctx, addr, []byte(text), usermem.IOOpts{})
	return err
}

// TestMappingsDie maps a file in every way and revokes the grant.
func TestMappingsDie(t *testing.T) {
	w := newWorld(t)
	agent, raw := w.agent(), w.raw()
	must(t, raw.writeFile("/f", "text"))
	fs := w.grant("/g", "/", Options{Rights: allRights})
	fd := agent.mustOpen("/g/f", linux.O_RDWR)
	image, err := w.vfs.OpenAt(agent.ctx, w.creds, agent.pop("/g/f"), &vfs.OpenOptions{})
	must(t, err)
	defer image.DecRef(agent.ctx)
	m := agent.memory()
	shared := m.mustMmap(fd, hostarch.ReadWrite, false)
	private := m.mustMmap(fd, hostarch.ReadWrite, true)
	untouched := m.mustMmap(fd, hostarch.ReadWrite, false)
	code := m.mustMmap(image, hostarch.ReadExecute, true)
	must(t, m.store(shared, "TEXT"))
	must(t, m.store(private, "mine"))
	if got, err := raw.readFile("/f"); got != "TEXT" || err != nil {
		t.Errorf("what was stored: %q, %v", got, err)
	}
	m.want("execute", code, hostarch.Execute, "ok")
	child, err := m.Fork(agent.ctx)
	must(t, err)
	defer child.DecUsers(agent.ctx)
	forked := memory{t, agent, child}
	if got, err := forked.load(private, 4); got != "mine" || err != nil {
		t.Errorf("the child's copy: %q, %v", got, err)
	}

	fs.Revoke()
	for _, who := range []memory{m, forked} {
		for what, addr := range map[string]hostarch.Addr{"shared": shared, "private": private, "untouched": untouched, "code": code} {
			who.want(what, addr, hostarch.Read, "SIGBUS")
			if _, err := who.load(addr, 4); err == nil {
				t.Errorf("a system call can read the %s mapping", what)
			}
		}
		who.want("store", shared, hostarch.Write, "SIGBUS")
		who.want("store to private", private, hostarch.Write, "SIGBUS")
		who.want("execute", code, hostarch.Execute, "SIGBUS")
	}
	if err := m.store(shared, "late"); err == nil {
		t.Error("a system call can write the shared mapping")
	}
	if got, err := raw.readFile("/f"); got != "TEXT" || err != nil {
		t.Errorf("after the revocation the file has %q, %v", got, err)
	}
	_, err = m.mmap(fd, hostarch.Read, false)
	wantErrno(t, "mmap", err, unix.EACCES)
	grandchild, err := child.Fork(agent.ctx)
	wantErrno(t, "fork with dead mappings", err, 0)
	memory{t, agent, grandchild}.want("in the child of later", shared, hostarch.Read, "SIGBUS")
	grandchild.DecUsers(agent.ctx)
	wantErrno(t, "munmap", m.MUnmap(agent.ctx, shared, hostarch.PageSize), 0)
}

// TestMappingsNarrowed takes rights away under mappings.
func TestMappingsNarrowed(t *testing.T) {
	w := newWorld(t)
	agent, raw := w.agent(), w.raw()
	must(t, raw.writeFile("/f", "text"))
	must(t, raw.setstat("/f", linux.Statx{Mask: linux.STATX_MODE, Mode: 0o755}))
	fs := w.grant("/g", "/", Options{Rights: allRights})
	fd := agent.mustOpen("/g/f", linux.O_RDWR)
	image, err := w.vfs.OpenAt(agent.ctx, w.creds, agent.pop("/g/f"), &vfs.OpenOptions{FileExec: true})
	must(t, err)
	defer image.DecRef(agent.ctx)
	m := agent.memory()
	shared := m.mustMmap(fd, hostarch.ReadWrite, false)
	private := m.mustMmap(fd, hostarch.ReadWrite, true)
	library := m.mustMmap(fd, hostarch.ReadExecute, true)
	program := m.mustMmap(image, hostarch.ReadExecute, true)
	touchAll := func(what string, store, execute, load, run string) {
		t.Helper()
		m.want(what+": store", shared, hostarch.Write, store)
		m.want(what+": execute a library", library, hostarch.Execute, execute)
		m.want(what+": load", shared, hostarch.Read, load)
		m.want(what+": load a copy", private, hostarch.Read, load)
		m.want(what+": execute the program", program, hostarch.Execute, run)
	}
	must(t, m.store(private, "mine"))
	touchAll("with all rights", "ok", "ok", "ok", "ok")
	fs.SetRights(abi.FSRead | abi.FSExec)
	touchAll("without write", "SIGBUS", "ok", "ok", "ok")
	if got, err := m.load(private, 4); got != "mine" || err != nil {
		t.Errorf("without write the private copy is %q, %v", got, err)
	}
	must(t, m.store(private, "also"))
	fs.SetRights(abi.FSExec)
	touchAll("without read", "SIGBUS", "SIGBUS", "SIGBUS", "ok")
	fs.SetRights(0)
	touchAll("without exec", "SIGBUS", "SIGBUS", "SIGBUS", "SIGBUS")
}

// TestExecLost takes the right to execute away, and that alone.
func TestExecLost(t *testing.T) {
	w := newWorld(t)
	agent, raw := w.agent(), w.raw()
	must(t, raw.writeFile("/f", "text"))
	fs := w.grant("/g", "/", Options{Rights: allRights})
	fd := agent.mustOpen("/g/f", linux.O_RDONLY)
	m := agent.memory()
	library := m.mustMmap(fd, hostarch.ReadExecute, true)
	m.want("execute", library, hostarch.Execute, "ok")
	fs.SetRights(abi.FSRead)
	m.want("execute without the right", library, hostarch.Execute, "SIGBUS")
	m.want("load", library, hostarch.Read, "ok")
	// What is mapped without the right cannot be made executable.
	data := m.mustMmap(fd, hostarch.Read, true)
	err := m.MProtect(data, hostarch.PageSize, hostarch.ReadExecute, false)
	wantErrno(t, "mprotect", err, unix.EACCES)
}

// TestMappingsForgotten checks that a grant keeps no record of what is unmapped.
func TestMappingsForgotten(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	fs := w.grant("/g", "/", Options{Rights: allRights})
	must(t, agent.writeFile("/g/f", "text"))
	m := agent.memory()
	for range 3 {
		fd, err := agent.openFile("/g/f", linux.O_RDWR, 0)
		must(t, err)
		a, b := m.mustMmap(fd, hostarch.ReadWrite, false), m.mustMmap(fd, hostarch.Read, true)
		fd.DecRef(agent.ctx)
		m.want("load", a, hostarch.Read, "ok")
		must(t, m.MUnmap(agent.ctx, a, hostarch.PageSize))
		must(t, m.MUnmap(agent.ctx, b, hostarch.PageSize))
	}
	if n := len(fs.maps); n != 0 {
		t.Errorf("%d mappings are remembered", n)
	}
	if n := len(fs.quota.nodes); n != 0 {
		t.Errorf("%d nodes are remembered", n)
	}
}
