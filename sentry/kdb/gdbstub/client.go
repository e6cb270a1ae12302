package gdbstub

import (
	"bytes"
	"encoding/hex"
	"io"
	"slices"
	"strings"

	"aios.dev/aios/errdefs"
)

// Client debugs a program over a stub, as gdb does. It is used by one goroutine,
// but for Interrupt.
type Client struct {
	conn io.ReadWriter
	in   *packetReader

	breaks  map[breakpointAt]bool
	stop    Stop     // the last
	Threads []Thread // that there were when the program last stopped
}

// breakpointAt is where a breakpoint is. Processes have their own.
type breakpointAt struct {
	pid  int32
	addr uint64
}

// Register is one of a thread.
type Register struct {
	Name  string
	Value []byte // little-endian
}

// Dial begins to debug what the stub at the other end of conn is for, and
// returns why it stands still.
func Dial(conn io.ReadWriter) (*Client, Stop, error) {
	c := &Client{conn: conn, in: newPacketReader(conn), breaks: make(map[breakpointAt]bool)}
	if _, err := conn.Write(appendPacket([]byte{'+'}, []byte("QStartNoAckMode"))); err != nil {
		return nil, Stop{}, errdefs.Wrap(err, errdefs.Protocol, "debug")
	}
	if p, err := c.receive(); err != nil || string(p) != replyOK {
		return nil, Stop{}, orProtocol(err, "debug", p)
	}
	if _, err := conn.Write([]byte{'+'}); err != nil {
		return nil, Stop{}, errdefs.Wrap(err, errdefs.Protocol, "debug")
	}
	if _, err := c.call("qSupported:multiprocess+;swbreak+"); err != nil {
		return nil, Stop{}, err
	}
	p, err := c.call("?")
	if err != nil {
		return nil, Stop{}, err
	}
	stop, err := c.settle(p)
	return c, stop, err
}

// receive returns the next packet.
func (c *Client) receive() ([]byte, error) {
	for {
		ev, err := c.in.next()
		if err != nil {
			return nil, err
		}
		switch ev.kind {
		case eventPacket:
			return ev.payload, nil
		case eventBad:
			return nil, errdefs.New(errdefs.Protocol, "a packet is damaged")
		}
	}
}

// call sends a packet and returns the reply.
func (c *Client) call(packet string) ([]byte, error) {
	if _, err := c.conn.Write(appendPacket(nil, []byte(packet))); err != nil {
		return nil, errdefs.Wrap(err, errdefs.Protocol, "debug")
	}
	p, err := c.receive()
	return p, errdefs.Wrap(err, errdefs.Protocol, "debug")
}

// orProtocol is err, or else what a reply that is no success means.
func orProtocol(err error, what string, reply []byte) error {
	if err != nil {
		return errdefs.Wrap(err, errdefs.Protocol, what)
	}
	switch string(reply) {
	case replyFault:
		return errdefs.New(errdefs.InvalidArgument, "there is no memory that can be used like that", errdefs.Op(what))
	case replyGone:
		return errdefs.New(errdefs.NotFound, "there is no such thread", errdefs.Op(what))
	}
	return errdefs.Newf(errdefs.Protocol, "the stub replied %q", reply).With(errdefs.Op(what))
}

// done is nil if the reply is OK.
func (c *Client) done(what, packet string) error {
	p, err := c.call(packet)
	if err == nil && string(p) == replyOK {
		return nil
	}
	return orProtocol(err, what, p)
}

// choose makes a thread the one that is meant.
func (c *Client) choose(t Thread) error { return c.done("choose thread", "Hg"+idText(t, true)) }

// Registers returns those of a thread.
func (c *Client) Registers(t Thread) ([]Register, error) {
	if err := c.choose(t); err != nil {
		return nil, err
	}
	p, err := c.call("g")
	if err != nil {
		return nil, err
	}
	b, ok := parseBytes(string(p))
	l := plain()
	if len(b) == avx().size {
		l = avx()
	}
	if !ok || len(b) != l.size {
		return nil, orProtocol(nil, "read registers", p)
	}
	out := make([]Register, 0, len(l.fields))
	for _, f := range l.fields {
		out = append(out, Register{f.name, b[:f.size]})
		b = b[f.size:]
	}
	return out, nil
}

// ip is where a thread is.
func (c *Client) ip(t Thread) (uint64, error) {
	if err := c.choose(t); err != nil {
		return 0, err
	}
	p, err := c.call("p" + hexOf(numRIP))
	if err != nil {
		return 0, err
	}
	b, ok := parseBytes(string(p))
	if !ok || len(b) != 8 {
		return 0, orProtocol(nil, "read registers", p)
	}
	return le.Uint64(b), nil
}

// ReadMemory reads n bytes, or as many as there are, at least one.
func (c *Client) ReadMemory(t Thread, addr uint64, n int) ([]byte, error) {
	if err := c.choose(t); err != nil {
		return nil, err
	}
	var out []byte
	for len(out) < n {
		p, err := c.call("m" + hexOf(addr+uint64(len(out))) + "," + hexOf(uint64(min(n-len(out), PacketSize/4))))
		if err != nil {
			return nil, err
		}
		b, ok := parseBytes(string(p))
		if !ok || len(b) == 0 {
			if len(out) > 0 {
				return out, nil
			}
			return nil, orProtocol(nil, "read memory at 0x"+hexOf(addr), p)
		}
		out = append(out, b...)
	}
	return out, nil
}

// WriteMemory writes bytes.
func (c *Client) WriteMemory(t Thread, addr uint64, data []byte) error {
	if err := c.choose(t); err != nil {
		return err
	}
	for piece := range slices.Chunk(data, PacketSize/4) {
		if err := c.done("write memory at 0x"+hexOf(addr), "M"+hexOf(addr)+","+hexOf(uint64(len(piece)))+":"+hex.EncodeToString(piece)); err != nil {
			return err
		}
		addr += uint64(len(piece))
	}
	return nil
}

// SetBreakpoint stops the threads of the process of t at addr.
func (c *Client) SetBreakpoint(t Thread, addr uint64) error {
	if err := c.choose(t); err != nil {
		return err
	}
	err := c.done("set breakpoint at 0x"+hexOf(addr), "Z0,"+hexOf(addr)+",1")
	if err == nil {
		c.breaks[breakpointAt{t.PID, addr}] = true
	}
	return err
}

// ClearBreakpoint removes one.
func (c *Client) ClearBreakpoint(t Thread, addr uint64) error {
	at := breakpointAt{t.PID, addr}
	if !c.breaks[at] {
		return errdefs.Newf(errdefs.NotFound, "process %d has no breakpoint at 0x%x", t.PID, addr)
	}
	if err := c.choose(t); err != nil {
		return err
	}
	err := c.done("delete breakpoint", "z0,"+hexOf(addr)+",1")
	if err == nil {
		delete(c.breaks, at)
	}
	return err
}

// Step has a thread execute one instruction, and the others none.
func (c *Client) Step(t Thread) (Stop, error) {
	ip, err := c.ip(t)
	if err != nil {
		return Stop{}, err
	}
	if c.breaks[breakpointAt{t.PID, ip}] {
		if err := c.done("step", "z0,"+hexOf(ip)+",1"); err != nil {
			return Stop{}, err
		}
		defer func() {
			// Unless the process is gone, and with it the breakpoint.
			if c.choose(t) == nil {
				_ = c.done("step", "Z0,"+hexOf(ip)+",1")
			}
		}()
	}
	return c.move("vCont;s:" + idText(t, true))
}

// Continue lets all threads go on until one stops. A signal that the program was
// about to get when it stopped it gets now. Threads that stand at a breakpoint
// step over it first, one after the other.
func (c *Client) Continue() (Stop, error) {
	if sig := c.stop.Signal; sig != 0 && sig != sigTrap && sig != sigInt {
		return c.move("vCont;C" + hexByte(toGDB(sig)) + ":" + idText(c.stop.Thread, true) + ";c")
	}
	for _, t := range c.Threads {
		ip, err := c.ip(t)
		if err != nil || !c.breaks[breakpointAt{t.PID, ip}] {
			continue
		}
		stop, err := c.Step(t)
		if err != nil || stop.Exited || stop.Signal != sigTrap || stop.Exec != "" {
			return stop, err
		}
	}
	return c.move("vCont;c")
}

const (
	sigInt  = 2
	sigTrap = 5
)

// move resumes threads and waits for the stop.
func (c *Client) move(packet string) (Stop, error) {
	p, err := c.call(packet)
	if err != nil {
		return Stop{}, err
	}
	return c.settle(p)
}

// Interrupt has a Step or Continue that is in progress end. It may be called
// from any goroutine.
func (c *Client) Interrupt() error {
	_, err := c.conn.Write([]byte{interruptByte})
	return errdefs.Wrap(err, errdefs.Protocol, "interrupt")
}

// Detach lets the program go on for itself.
func (c *Client) Detach() error { return c.done("detach", "D") }

// settle reads why the program stopped, and who is there now.
func (c *Client) settle(reply []byte) (Stop, error) {
	stop, ok := parseStop(reply)
	if !ok {
		return stop, orProtocol(nil, "debug", reply)
	}
	c.Threads, c.stop = nil, stop
	if stop.Exited {
		return stop, nil
	}
	for packet := "qfThreadInfo"; ; packet = "qsThreadInfo" {
		p, err := c.call(packet)
		if err != nil {
			return stop, err
		}
		list, more := bytes.CutPrefix(p, []byte{'m'})
		if !more {
			return stop, nil
		}
		for text := range strings.SplitSeq(string(list), ",") {
			id, ok := parseID(text)
			if !ok {
				return stop, orProtocol(nil, "list threads", p)
			}
			c.Threads = append(c.Threads, Thread{PID: id.PID, TID: id.TID})
		}
	}
}

// parseStop reads a stop reply.
func parseStop(reply []byte) (Stop, bool) {
	var s Stop
	if len(reply) < 3 {
		return s, false
	}
	n, ok := parseHex(string(reply[1:3]))
	rest := string(reply[3:])
	switch reply[0] {
	case 'T', 'S':
		s.Signal = fromGDB(n)
	case 'W':
		s.Exited, s.Status = true, int32(n)
	case 'X':
		s.Exited, s.Signal = true, fromGDB(n)
	default:
		return s, false
	}
	for part := range strings.SplitSeq(rest, ";") {
		name, value, _ := strings.Cut(part, ":")
		switch name {
		case "thread":
			id, known := parseID(value)
			ok = ok && known
			s.Thread = Thread{PID: id.PID, TID: id.TID}
		case "process":
			pid, known := parseIDNumber(value)
			ok = ok && known
			s.Thread.PID = pid
		case "swbreak":
			s.Breakpoint = true
		case "exec":
			path, known := parseBytes(value)
			ok = ok && known
			s.Exec = string(path)
		}
	}
	return s, ok
}
