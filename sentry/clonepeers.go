package sentry

import (
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/sentry/ctlfs"
)

// peer returns the other end of a connection of AF_UNIX, if the agent has it open;
// nil if it is closed, or somebody else's.
func (f *fileCopier) peer(old *vfs.FileDescription, s *unix.Socket) (*vfs.FileDescription, error) {
	if s.Readiness(waiter.EventHUp)&waiter.EventHUp != 0 {
		return nil, nil
	}
	for other := range f.holder {
		if o, ok := other.Impl().(*unix.Socket); ok && other != old && o.Endpoint().State() == linux.SS_CONNECTED && joined(s, o) {
			return other, nil
		}
	}
	if local, remote := namesOf(s); local+remote == "" || f.granted(local+remote) || f.stayed(old, s) {
		return nil, nil
	}
	return nil, f.busy("a connection of AF_UNIX waits to be accepted, or is on its way to another process")
}

// joined reports whether two sockets are the ends of one connection. A socket does
// not tell which its other end is, but whether that one wants to be told who sends:
// it is so if it follows when that changes.
func joined(a, b *unix.Socket) bool {
	return follows(b, a.ConnectedPasscred)
}

// follows reports whether an answer follows when a socket wants to be told who sends.
func follows(s *unix.Socket, answer func() bool) bool {
	o, is := s.Endpoint().SocketOptions(), answer()
	was := o.GetPassCred()
	defer o.SetPassCred(was)
	o.SetPassCred(!was)
	if answer() == is {
		return false
	}
	o.SetPassCred(was)
	return answer() == is
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

// foreign reports whether a connection is through a directory that the agent was
// granted.
func (f *fileCopier) foreign(s *unix.Socket) bool {
	local, remote := namesOf(s)
	return f.granted(local) || f.granted(remote)
}

// granted reports whether a name is in a directory that the agent was granted.
func (f *fileCopier) granted(name string) bool {
	if strings.HasPrefix(name, ctlfs.Mountpoint+"/") { // The kernel's.
		return true
	}
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
