package sentry

import (
	"fmt"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/fsimpl/nsfs"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/control"
)

// shellPool keeps a few shells ready: fresh namespaces with a fresh root, in
// which nothing has run and nothing has been written. Making one takes about a
// fifth of the time from a request to the end of a short agent, and needs
// nothing of the request but how the root is composed; so it is done while
// the kernel would be idle, after an agent has ended.
//
// A shell is used once. The pool holds shells of the composition that was
// asked for last.
type shellPool struct {
	s *Kernel

	mu    sync.Mutex
	key   string        // +checklocks:mu
	root  control.Root  // +checklocks:mu
	disk  uint64        // +checklocks:mu
	ready []*namespaces // +checklocks:mu
	// A refill is under way.
	busy bool // +checklocks:mu
	// No refill may begin.
	held bool // +checklocks:mu
}

const (
	// shellsReady is how many shells wait.
	shellsReady = 2
	// refillDelay is how long a refill waits for the agent that took a
	// shell to end, so as not to compete with its start.
	refillDelay = 20 * time.Millisecond
)

// newShell makes a shell.
func (s *Kernel) newShell(root control.Root, disk uint64) (*namespaces, error) {
	ns := s.newNamespaces()
	if err := s.newRoot(ns, root, disk, nil); err != nil {
		s.releaseShell(ns)
		return nil, err
	}
	return ns, nil
}

// newNamespaces returns fresh PID, UTS, IPC and network namespaces.
func (s *Kernel) newNamespaces() *namespaces {
	ctx := s.context(s.rootNamespaces(), s.creds, 0)
	userns := s.creds.UserNamespace
	ns := &namespaces{
		uts: kernel.NewUTSNamespace("", "", userns),
		ipc: kernel.NewIPCNamespace(userns),
		net: s.newNetwork(),
	}
	ns.counting(s.k.RootPIDNamespace().NewChild(ctx, s.k, userns))
	ns.uts.SetInode(s.k.GetNamespaceInode(ctx, ns.uts).(*nsfs.Inode))
	ns.ipc.SetInode(s.k.GetNamespaceInode(ctx, ns.ipc).(*nsfs.Inode))
	ns.net.SetInode(s.k.GetNamespaceInode(ctx, ns.net).(*nsfs.Inode))
	return ns
}

// newNetwork returns a network namespace with a stack of its own. To gVisor it is a
// root: of others it replaces the stack when they are restored from a checkpoint.
func (s *Kernel) newNetwork() *inet.Namespace {
	stack, err := s.stacks.CreateStack()
	if err != nil {
		panic(err) // As gVisor does: what the host can refuse, it has not yet been asked for.
	}
	return inet.NewRootNamespace(stack, s.stacks, s.creds.UserNamespace)
}

// releaseShell drops the references that a shell, or an agent, holds. The PID
// namespace may still be looked at.
func (s *Kernel) releaseShell(ns *namespaces) {
	ctx := s.k.SupervisorContext()
	if ns.mnt != nil {
		ns.mnt.DecRef(ctx)
	}
	if ns.upper != nil {
		ns.upper.DecRef(ctx)
	}
	ns.uts.DecRef(ctx)
	ns.ipc.DecRef(ctx)
	ns.net.DecRef(ctx)
	ns.pid().DecRef(ctx)
	ns.mnt, ns.upper, ns.uts, ns.ipc, ns.net = nil, nil, nil, nil, nil
}

// take returns a shell, from the pool or made now, and lets the pool follow
// what is asked for.
func (p *shellPool) take(root control.Root, disk uint64) (*namespaces, error) {
	key := fmt.Sprint(root, disk)
	p.mu.Lock()
	var stale []*namespaces
	if p.key != key {
		stale, p.ready = p.ready, nil
		p.key, p.root, p.disk = key, root, disk
	}
	var ns *namespaces
	if n := len(p.ready); n > 0 {
		ns, p.ready = p.ready[n-1], p.ready[:n-1]
	}
	p.mu.Unlock()
	p.drop(stale)
	p.s.cfg.Clock.AfterFunc(refillDelay, p.refill)
	if ns != nil {
		return ns, nil
	}
	return p.s.newShell(root, disk)
}

// refill makes shells until enough wait. One refill runs at a time.
func (p *shellPool) refill() {
	for {
		key, root, disk, ok := p.begin()
		if !ok {
			return
		}
		ns, err := p.s.newShell(root, disk)
		if p.end(key, ns, err) {
			p.drop([]*namespaces{ns})
		}
		if err != nil {
			return // Whoever asks for such a root is told why.
		}
	}
}

// begin says what shell to make next, if one is wanted.
func (p *shellPool) begin() (key string, root control.Root, disk uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy || p.held || p.key == "" || len(p.ready) >= shellsReady {
		return "", control.Root{}, 0, false
	}
	p.busy = true
	return p.key, p.root, p.disk, true
}

// end takes a shell that was made, and reports whether it has become stale
// meanwhile.
func (p *shellPool) end(key string, ns *namespaces, err error) (stale bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = false
	if err != nil {
		return false
	}
	if p.key != key {
		return true
	}
	p.ready = append(p.ready, ns)
	return false
}

// flush empties the pool, when a file system is forgotten that it may use.
func (p *shellPool) flush() {
	p.mu.Lock()
	stale := p.ready
	p.ready, p.key = nil, ""
	p.mu.Unlock()
	p.drop(stale)
}

// hold empties the pool and keeps it so.
func (p *shellPool) hold() {
	p.mu.Lock()
	p.held = true
	p.mu.Unlock()
	for busy := true; busy; {
		p.mu.Lock()
		busy = p.busy
		p.mu.Unlock()
		if busy {
			nap(p.s.cfg.Clock, 100*time.Microsecond)
		}
	}
	p.flush()
}

// release lets it be filled again.
func (p *shellPool) release() {
	p.mu.Lock()
	p.held = false
	p.mu.Unlock()
}

func (p *shellPool) drop(stale []*namespaces) {
	for _, ns := range stale {
		p.s.releaseShell(ns)
	}
}
