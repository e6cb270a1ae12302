package control

import (
	"encoding/json"
	"net"
	"os"
	"strings"

	"aios.dev/aios/errdefs"
)

// A spare is a kernel process that was started before anybody knew for what: it is in
// its boxes, has its platform, and waits on a socket for what it is to become. Its
// descriptors are those of KernelConfig, but for what is sent to it: of these, and of
// the file that it writes to, the numbers in what it becomes are as if it had been
// started with them, from KernelExtraFD on.

// What is said on that socket.
const (
	spareReady = "ready" // by the spare, once
	spareFiles = "files" // as many as one message takes; there may be several
	spareStart = "start" // KernelConfig; the last one
)

// SpareReady has the daemon know that the process is prepared.
func SpareReady(c *net.UnixConn) error {
	return (&conn{c: c}).send(&message{Method: spareReady})
}

// AwaitSpare waits until the process says so.
func AwaitSpare(c *net.UnixConn) error {
	m, files, err := (&conn{c: c}).recv()
	closeAll(files)
	if err == nil && m.Method != spareReady {
		err = errdefs.New(errdefs.Protocol, "a spare kernel process says "+m.Method)
	}
	return err
}

// Become tells a spare what it is. Files stay the caller's: the first is what it
// writes to from now on.
func Become(c *net.UnixConn, cfg KernelConfig, files []*os.File) error {
	body, err := json.Marshal(cfg)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "encode configuration")
	}
	to := &conn{c: c}
	for len(files) > 0 {
		n := min(len(files), MaxFiles)
		if err := to.send(&message{Method: spareFiles}, files[:n]...); err != nil {
			return err
		}
		files = files[n:]
	}
	return to.send(&message{Method: spareStart, Body: body})
}

// AwaitBecoming waits for what a spare becomes, and returns the files that came with
// it. io.EOF says that the daemon has ended.
func AwaitBecoming(c *net.UnixConn) (cfg KernelConfig, files []*os.File, err error) {
	from := &conn{c: c}
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	for {
		m, got, err := from.recv()
		files = append(files, got...)
		switch {
		case err != nil:
			return cfg, files, err
		case m.Method == spareStart && len(files) > 0:
			return cfg, files, errdefs.Wrap(json.Unmarshal(m.Body, &cfg), errdefs.Protocol, "read configuration")
		case m.Method != spareFiles || len(files) > maxSpareFiles:
			return cfg, files, errdefs.New(errdefs.Protocol, "a spare kernel process cannot become that")
		}
	}
}

// maxSpareFiles is more than a domain is restored from.
const maxSpareFiles = 1 << 16

// Renumber gives every descriptor in r, unless it is nil, the number that it has.
func (r *RestoreConfig) Renumber(number func(int) int) {
	if r == nil {
		return
	}
	r.StateFD, r.MemoryFD = number(r.StateFD), number(r.MemoryFD)
	for i := range r.PackFDs {
		r.PackFDs[i] = number(r.PackFDs[i])
	}
	for i := range r.Mounts {
		r.Mounts[i].FD = number(r.Mounts[i].FD)
	}
	for i := range r.Regions {
		r.Regions[i].FD = number(r.Regions[i].FD)
	}
	for i := range r.Logs {
		r.Logs[i].FD = number(r.Logs[i].FD)
	}
}

// SpareTitle is what a spare is started with in place of the name of a domain, and no
// shorter than any.
var SpareTitle = "(spare)" + strings.Repeat(" ", 64)
