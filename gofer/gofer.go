// Package gofer serves one directory of the host to one kernel process, which
// cannot open host files itself. It runs in a process of its own, with the
// authority of whoever asked for the directory and no other.
//
// The protocol is gVisor's lisafs, the server gVisor's fsgofer. The package
// takes no locks. It must not import anything under sentry/.
package gofer

import (
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/runsc/fsgofer"

	"aios.dev/aios/errdefs"
)

// OpenSelfFD opens the directory of the process's own descriptors, through
// which the server opens files again; selfFD is where it is. It must be called
// before the root is changed.
func OpenSelfFD(selfFD string) error {
	return errdefs.Wrap(fsgofer.OpenProcSelfFD(selfFD), errdefs.HostFeature, "open "+selfFD, errdefs.Fix("mount /proc"))
}

// Serve serves what is at path on sock, a connected Unix stream socket that it
// takes over. It returns when the kernel process has closed the connection.
// ready is called once the server stands and before it takes a request: then
// the process can be sealed.
func Serve(sock *os.File, path string, readonly bool, ready func() error) error {
	fd, err := unix.FcntlInt(sock.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "duplicate the socket")
	}
	sock.Close()
	s, err := unet.NewSocket(fd)
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "use the socket")
	}
	server := lisafs.NewServer()
	conf := &fsgofer.Config{
		RUID: unix.Getuid(), EUID: unix.Geteuid(),
		RGID: unix.Getgid(), EGID: unix.Getegid(),
	}
	conn, err := server.CreateConnection(s, path, fsgofer.ConnectionOpts(readonly), fsgofer.NewConnectionImpl(conf))
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "serve directory")
	}
	if err := ready(); err != nil {
		return err
	}
	server.StartConnection(conn)
	server.Wait()
	server.Destroy()
	return nil
}
