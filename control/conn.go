package control

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// message is what a frame holds. A request has ID and Method, a response has
// ID alone; a notification of the daemon, and an event of the kernel process,
// has Method alone.
type message struct {
	ID     uint64          `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
	Err    *wireError      `json:"error,omitempty"`
}

// wireError is an errdefs.Error in transit.
type wireError struct {
	Code     errdefs.Code `json:"code"`
	Op       string       `json:"op,omitempty"`
	Resource string       `json:"resource,omitempty"`
	Detail   string       `json:"detail,omitempty"`
	Fix      string       `json:"fix,omitempty"`

	Agent       string        `json:"agent,omitempty"`
	Domain      string        `json:"domain,omitempty"`
	Capability  string        `json:"capability,omitempty"`
	Correlation string        `json:"correlation,omitempty"`
	Delay       time.Duration `json:"delay,omitempty"` // until trying again may help
}

func toWire(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Code: errdefs.CodeOf(err), Detail: err.Error(), Fix: errdefs.FixOf(err)}
	if e, ok := err.(*errdefs.Error); ok {
		w.Op, w.Resource, w.Detail = e.Op, e.Resource, e.With(errdefs.Op(""), errdefs.Resource("")).Error()
		if e.Detail == "" && e.Cause == nil {
			w.Detail = ""
		}
	}
	scope := errdefs.ScopeOf(err)
	w.Agent, w.Domain, w.Capability, w.Correlation = scope.Agent, scope.Domain, scope.Capability, scope.Correlation
	w.Delay = errdefs.DelayOf(err)
	return w
}

func (w *wireError) error() error {
	e := &errdefs.Error{Code: w.Code, Op: w.Op, Resource: w.Resource, Detail: w.Detail, Fix: w.Fix}
	if !errdefs.Known(w.Code) { // Of another version.
		e.Code, e.Detail = errdefs.Internal, strings.TrimSpace(string(w.Code)+" "+w.Detail)
	}
	var scope []errdefs.Option
	add := func(value string, option func(string) errdefs.Option) {
		if value != "" {
			scope = append(scope, option(value))
		}
	}
	add(w.Agent, errdefs.Agent)
	add(w.Domain, errdefs.Domain)
	add(w.Capability, errdefs.Capability)
	if errdefs.ValidCorrelation(w.Correlation) {
		scope = append(scope, errdefs.Correlation(w.Correlation))
	}
	if w.Delay > 0 {
		scope = append(scope, errdefs.Delay(w.Delay))
	}
	return e.With(scope...)
}

// conn frames messages on a Unix stream socket. Reads belong to one
// goroutine; writes may come from any.
type conn struct {
	c           *net.UnixConn
	sendTimeout time.Duration // immutable; 0: no limit
	writeMu     sync.Mutex
}

const headerLen = 8 // payload length, number of descriptors; both big endian

func (c *conn) send(m *message, files ...*os.File) error {
	body, err := json.Marshal(m)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "encode message")
	}
	if len(body) > MaxMessage || len(files) > MaxFiles {
		return errdefs.Newf(errdefs.InvalidArgument, "message of %d bytes and %d files exceeds the limit of %d bytes and %d files",
			len(body), len(files), MaxMessage, MaxFiles)
	}
	buf := make([]byte, headerLen, headerLen+len(body))
	binary.BigEndian.PutUint32(buf, uint32(len(body)))
	binary.BigEndian.PutUint32(buf[4:], uint32(len(files)))
	buf = append(buf, body...)
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if c.sendTimeout > 0 {
		c.c.SetWriteDeadline(deadline(c.sendTimeout))
	}
	n, _, err := c.c.WriteMsgUnix(buf, oob, nil)
	for err == nil && n < len(buf) {
		var k int
		k, err = c.c.Write(buf[n:])
		n += k
	}
	if err != nil {
		return errdefs.Wrap(err, errdefs.Protocol, "send message")
	}
	return nil
}

// recv returns the next message and the files that came with it, which the
// caller owns. io.EOF means that the other side is gone.
func (c *conn) recv() (*message, []*os.File, error) {
	var head [headerLen]byte
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(head[:], oob)
	files, ferr := parseFiles(oob[:oobn])
	fail := func(err error) (*message, []*os.File, error) {
		closeAll(files)
		return nil, nil, err
	}
	if n == 0 && (err == nil || errors.Is(err, io.EOF)) {
		return fail(io.EOF)
	}
	if err != nil {
		return fail(err)
	}
	if ferr != nil {
		return fail(ferr)
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return fail(errdefs.New(errdefs.Protocol, "descriptors were lost in transit: out of file descriptors?"))
	}
	if _, err := io.ReadFull(c.c, head[n:]); err != nil {
		return fail(err)
	}
	size, count := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
	if size > MaxMessage || count > MaxFiles {
		return fail(errdefs.Newf(errdefs.Protocol, "frame claims %d bytes and %d files", size, count))
	}
	if int(count) != len(files) {
		return fail(errdefs.Newf(errdefs.Protocol, "frame claims %d files and brought %d", count, len(files)))
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.c, body); err != nil {
		return fail(err)
	}
	m := new(message)
	if err := json.Unmarshal(body, m); err != nil {
		return fail(errdefs.Wrap(err, errdefs.Protocol, "decode message"))
	}
	return m, files, nil
}

func parseFiles(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Protocol, "read descriptors")
	}
	var files []*os.File
	for i := range cmsgs {
		fds, err := unix.ParseUnixRights(&cmsgs[i])
		if err != nil {
			continue // Another kind of control message.
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
