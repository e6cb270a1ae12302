package sentry

import (
	"strings"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// What a program writes to a file that it has mapped leaves no trace at the file:
// neither gVisor nor Linux's tmpfs change its times then. For agents that a merge may
// concern, those that are copies or have been copied, it is noted which files are
// mapped to be written to; of those the contents are compared.

// maxMapped is how many names are noted. If there are more, every file counts.
const maxMapped = 1 << 10

// mappedNotes are the files that an agent may have changed through mappings.
type mappedNotes struct {
	on    atomic.Bool // since it was copied, or is a copy
	later atomic.Bool // some that are mapped to be read may be written to later

	mu    sync.Mutex      // leaf
	names map[string]bool // false: it is mapped to be read; +checklocks:mu
	every bool            // +checklocks:mu
}

// add notes that the file of that name may be written to, now or later.
func (m *mappedNotes) add(name string, now bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names == nil {
		m.names = make(map[string]bool)
	}
	m.names[name] = m.names[name] || now
	if !m.names[name] {
		m.later.Store(true)
	}
	if len(m.names) > maxMapped {
		m.every, m.names = true, nil
	}
}

// all notes that every file may have been written to.
func (m *mappedNotes) all() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.every = true
}

// made notes that a mapping, one does not know which, is made writable.
func (m *mappedNotes) made() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.later.Store(false)
	for name := range m.names {
		m.names[name] = true
	}
}

// has reports whether the file of that name may have been written to.
func (m *mappedNotes) has(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.every || m.names[name]
}

// noteShared notes what is mapped when an agent is copied.
func (c *copying) noteShared(x mapping) {
	if !strings.HasPrefix(x.path, "/") || strings.HasSuffix(x.path, " (deleted)") {
		return
	}
	for _, a := range []*Agent{c.src, c.dst} {
		a.mapped.add(x.path, x.perms.Write)
	}
}

// noteMapping follows what is mapped to be shared and written to.
func (s *Kernel) noteMapping(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	if call.Name == "mprotect" || call.Name == "pkey_mprotect" {
		return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
			if args[2].Int()&linux.PROT_WRITE != 0 {
				if a := s.agentOf(t); a != nil && a.mapped.later.Load() {
					a.mapped.made()
				}
			}
			return inner(t, sysno, args)
		}
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if flags := args[3].Int(); flags&linux.MAP_SHARED == 0 || flags&linux.MAP_ANONYMOUS != 0 {
			return inner(t, sysno, args)
		}
		a := s.agentOf(t)
		if a == nil || !a.mapped.on.Load() {
			return inner(t, sysno, args)
		}
		f := t.GetFile(args[4].Int())
		if f == nil {
			return inner(t, sysno, args)
		}
		defer f.DecRef(t)
		if f.IsWritable() {
			a.noteMapped(t, f, args[2].Int()&linux.PROT_WRITE != 0)
		}
		return inner(t, sysno, args)
	}
}

// noteMapped notes the name by which an agent sees a file.
func (a *Agent) noteMapped(t *kernel.Task, f *vfs.FileDescription, now bool) {
	mntns := a.mounts()
	if mntns == nil {
		return
	}
	defer mntns.DecRef(t)
	root := mntns.Root(t)
	defer root.DecRef(t)
	name, err := a.s.k.VFS().PathnameReachable(t, root, f.VirtualDentry())
	switch {
	case err != nil:
		a.mapped.all()
	case name != "":
		a.mapped.add(name, now)
	}
}
