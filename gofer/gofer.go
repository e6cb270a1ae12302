// Package gofer serves one directory of the host to one kernel process, which
// cannot open host files itself. It runs in a process of its own, with the
// authority of whoever asked for the directory and no other.
//
// The protocol is gVisor's lisafs, the server gVisor's fsgofer. Open stays
// valid behind an empty root: what it needs of /proc it opens beforehand.
// The package takes no locks. It must not import anything under sentry/.
package gofer

import (
	"fmt"
	"os"

	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/runsc/fsgofer"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// Server serves the directory it was opened for.
type Server struct {
	path string
	sock *unet.Socket
	ro   bool
}

// Open prepares to serve dir on sock, a connected Unix stream socket; it takes
// both over. The caller then confines the process; with chrooted it promises to
// make dir its root.
func Open(dir, sock *os.File, readonly, chrooted bool) (*Server, error) {
	if err := fsgofer.OpenProcSelfFD("/proc/self/fd"); err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostFeature, "open /proc/self/fd", errdefs.Fix("mount /proc"))
	}
	fd, err := unix.FcntlInt(sock.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "duplicate the socket")
	}
	sock.Close()
	s, err := unet.NewSocket(fd)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "use the socket")
	}
	path := "/"
	if !chrooted {
		if path, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd())); err != nil {
			return nil, errdefs.Wrap(err, errdefs.HostIO, "find the served directory")
		}
	}
	return &Server{path: path, sock: s, ro: readonly}, nil
}

// Serve returns when the kernel process has closed the connection.
func (s *Server) Serve() error {
	server := lisafs.NewServer()
	conf := &fsgofer.Config{
		RUID: unix.Getuid(), EUID: unix.Geteuid(),
		RGID: unix.Getgid(), EGID: unix.Getegid(),
	}
	conn, err := server.CreateConnection(s.sock, s.path, fsgofer.ConnectionOpts(s.ro), fsgofer.NewConnectionImpl(conf))
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "serve directory")
	}
	server.StartConnection(conn)
	server.Wait()
	server.Destroy()
	return nil
}
