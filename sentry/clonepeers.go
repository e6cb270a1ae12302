package sentry

import (
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/waiter"
)

// peer returns the other of a connected pair of AF_UNIX, if the agent has it open;
// nil if it is closed, or somebody else's. Pairs of socketpair(2) were noted. Who is
// at the other end of a connection that was accepted follows from the names of both
// ends, and from who connected.
func (f *fileCopier) peer(old *vfs.FileDescription, s *unix.Socket) (*vfs.FileDescription, error) {
	notes := &f.c.src.notes
	notes.mu.Lock()
	x := notes.files[old]
	notes.mu.Unlock()
	if x != nil && x.peer != nil {
		if f.holder[x.peer] != nil {
			return x.peer, nil
		}
		return nil, nil
	}
	if s.Readiness(waiter.EventHUp)&waiter.EventHUp != 0 {
		return nil, nil
	}
	local, remote := namesOf(s)
	if name := local + remote; name == "" || f.granted(name) {
		return nil, nil
	}
	var found []*vfs.FileDescription
	for other := range f.holder {
		if o, ok := other.Impl().(*unix.Socket); ok && other != old && (f.connected(old, s, o) || f.connected(other, o, s)) {
			found = append(found, other)
		}
	}
	if len(found) == 1 {
		if o := found[0].Impl().(*unix.Socket); f.pairsWith(found[0], o) == 1 {
			return found[0], nil
		}
	}
	// It may be about to be accepted, or one of several.
	return nil, f.busy("who is at the other end of a connection of AF_UNIX is not known")
}

// pairsWith counts the sockets of the agent that may be the other end of one.
func (f *fileCopier) pairsWith(file *vfs.FileDescription, s *unix.Socket) (n int) {
	for other := range f.holder {
		if o, ok := other.Impl().(*unix.Socket); ok && other != file && (f.connected(file, s, o) || f.connected(other, o, s)) {
			n++
		}
	}
	return n
}

// connected reports whether client may have connected to what server was accepted
// from.
func (f *fileCopier) connected(file *vfs.FileDescription, client, server *unix.Socket) bool {
	if client.Endpoint().State() != linux.SS_CONNECTED || server.Endpoint().State() != linux.SS_CONNECTED {
		return false
	}
	_, to := namesOf(client)
	at, _ := namesOf(server)
	if to == "" || to != at {
		return false
	}
	v, err := server.GetPeerCreds(f.c.f.twins[1].old)
	creds, ok := v.(*linux.ControlMessageCredentials)
	if err != nil || !ok {
		return false
	}
	for _, g := range f.c.f.groups {
		if int32(g.leader.tid) == creds.PID && !g.leader.zombie {
			return f.has(g, file)
		}
	}
	return false
}

// has reports whether a process has a file open.
func (f *fileCopier) has(g *twinGroup, file *vfs.FileDescription) (found bool) {
	for _, fd := range g.leader.old.FDTable().GetFDs(f.ctx) {
		if x, _ := g.leader.old.FDTable().Get(fd); x != nil {
			found = found || x == file
			x.DecRef(f.ctx)
		}
	}
	return found
}

func namesOf(s *unix.Socket) (local, remote string) {
	if a, err := s.Endpoint().GetLocalAddress(); err == nil {
		local = a.Addr
	}
	if a, err := s.Endpoint().GetRemoteAddress(); err == nil {
		remote = a.Addr
	}
	return local, remote
}

// granted reports whether a name is in a directory that the agent was granted.
func (f *fileCopier) granted(name string) bool {
	a := f.c.src
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	for _, g := range a.grants {
		if strings.HasPrefix(name, strings.TrimSuffix(g.view.at, "/")+"/") {
			return true
		}
	}
	return false
}
