package gdbstub

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"

	"aios.dev/aios/errdefs"
)

// session is one client and what it debugs.
type session struct {
	target Target
	out    io.Writer

	noAck     bool
	processes bool   // the client tells processes apart
	last      []byte // what was sent last, as it was sent
	stop      Stop   // why the threads stand still
	running   bool
	over      bool
	general   ID // whose registers and memory are meant
	motion    ID // who is meant by the old packets that resume

	// described are the processes whose registers the client had described. It
	// takes others to have those that every processor has.
	described map[int32]bool
	// freed are the processes that the client has left; after the first the
	// program goes on.
	freed map[int32]bool

	threads []Thread // nil: not asked yet
	listed  int      // how many of them qfThreadInfo has told
	doc     document
	files   files
}

// Serve lets the client at the other end of conn debug target, whose threads
// stand still because of first. It returns when the client has left, by a word
// or without one: then the program goes on for itself, unless it was to be
// killed. conn is closed.
func Serve(conn io.ReadWriteCloser, target Target, first Stop) error {
	s := &session{
		target: target, out: conn, stop: first, general: ID{first.Thread.PID, first.Thread.TID},
		described: make(map[int32]bool), freed: make(map[int32]bool),
	}
	defer s.files.closeAll()
	defer func() {
		if len(s.freed) == 0 {
			target.Detach()
		}
	}()
	events, failed, done := make(chan event), make(chan error, 1), make(chan struct{})
	go func() {
		r := newPacketReader(conn)
		for {
			ev, err := r.next()
			if err != nil {
				failed <- err
				return
			}
			select {
			case events <- ev:
			case <-done:
				return
			}
		}
	}()
	defer close(done)
	defer conn.Close()
	for !s.over {
		var stops <-chan Stop
		if s.running {
			stops = target.Stops()
		}
		var err error
		select {
		case ev := <-events:
			err = s.handle(ev)
		case stop := <-stops:
			err = s.stopped(stop)
		case err = <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// handle does what the client sent.
func (s *session) handle(ev event) error {
	switch ev.kind {
	case eventInterrupt:
		if s.running {
			s.target.Interrupt()
		}
	case eventNack:
		if !s.noAck && s.last != nil {
			return s.write(s.last)
		}
	case eventBad:
		if !s.noAck {
			return s.write([]byte{'-'})
		}
		return errdefs.New(errdefs.Protocol, "a packet of a debugger is damaged")
	case eventPacket:
		if !s.noAck {
			if err := s.write([]byte{'+'}); err != nil {
				return err
			}
		}
		if s.running { // A client waits for the stop, or asks for it.
			return s.send([]byte("E.the program runs"))
		}
		return s.packet(ev.payload)
	}
	return nil
}

func (s *session) write(b []byte) error {
	_, err := s.out.Write(b)
	return err
}

// send sends a packet.
func (s *session) send(payload []byte) error {
	s.last = appendPacket(nil, payload)
	return s.write(s.last)
}

// stopped tells the client that the threads stand still.
func (s *session) stopped(stop Stop) error {
	s.running, s.stop, s.threads = false, stop, nil
	s.general = ID{stop.Thread.PID, stop.Thread.TID}
	return s.send(s.stopReply())
}

// stopReply says why the threads stand still.
func (s *session) stopReply() []byte {
	stop := s.stop
	var b bytes.Buffer
	if stop.Exited {
		if stop.Signal != 0 {
			b.WriteString("X" + hexByte(toGDB(stop.Signal)))
		} else {
			b.WriteString("W" + hexByte(byte(stop.Status)))
		}
		if s.processes {
			b.WriteString(";process:" + hexOf(uint64(uint32(stop.Thread.PID))))
		}
		return b.Bytes()
	}
	b.WriteString("T" + hexByte(toGDB(stop.Signal)))
	if r, err := s.target.ReadRegisters(stop.Thread); err == nil {
		l := s.layoutOf(stop.Thread, r)
		for _, n := range []uint64{numRBP, numRSP, numRIP} {
			if v, ok := l.one(r, n); ok {
				b.WriteString(hexByte(byte(n)) + ":" + hex.EncodeToString(v) + ";")
			}
		}
	}
	b.WriteString("thread:" + idText(stop.Thread, s.processes) + ";")
	switch {
	case stop.Breakpoint:
		b.WriteString("swbreak:;")
	case stop.Exec != "":
		b.WriteString("exec:" + hexText(stop.Exec) + ";")
	}
	return b.Bytes()
}

func hexByte(b byte) string { return string([]byte{hexDigits[b>>4], hexDigits[b&15]}) }

// Errors, as numbers of Linux, and what else replies are.
const (
	replyOK    = "OK"
	replyNone  = "" // the packet is not known
	replyFault = "E0e"
	replyGone  = "E03"
	replyBad   = "E16"
	replyInput = "E05"
)

// packet does what a packet asks for, and replies.
func (s *session) packet(p []byte) error {
	switch {
	case len(p) == 0:
		return s.send(nil)
	case len(s.freed) > 0 && p[0] != 'D':
		return s.send([]byte(replyGone))
	}
	rest := string(p[1:])
	var reply string
	switch p[0] {
	case '?':
		return s.send(s.stopReply())
	case 'g':
		reply = s.readAll()
	case 'G':
		reply = s.writeAll(rest)
	case 'p':
		reply = s.readOne(rest)
	case 'P':
		reply = s.writeOne(rest)
	case 'm':
		reply = s.readMemory(rest)
	case 'M':
		at, data, _ := strings.Cut(rest, ":")
		b, ok := parseBytes(data)
		reply = s.writeMemory(at, b, ok)
	case 'X':
		at, data, found := bytes.Cut(p[1:], []byte{':'})
		reply = s.writeMemory(string(at), data, found)
	case 'Z', 'z':
		reply = s.breakpoint(p[0] == 'Z', rest)
	case 'H':
		reply = s.choose(rest)
	case 'T':
		reply = replyGone
		if id, ok := parseID(rest); !ok {
			reply = replyBad
		} else if _, ok := s.find(id); ok {
			reply = replyOK
		}
	case 'c', 'C', 's', 'S':
		return s.resumeOld(p[0], rest)
	case 'D':
		reply = s.detach(rest)
	case 'k':
		s.target.Kill()
		s.over = true
		return nil
	case 'v':
		return s.verbose(string(p))
	case 'q', 'Q':
		reply = s.query(string(p))
		if reply == startNoAck {
			s.noAck, reply = true, replyOK
		}
	}
	return s.send([]byte(reply))
}

// detach does D. A client that tells processes apart leaves one after the other;
// the program, which stands still as a whole, goes on when it leaves the first.
func (s *session) detach(args string) string {
	id, ok := parseID("p" + strings.TrimPrefix(args, ";"))
	if !s.processes || !ok {
		s.over = true
		return replyOK
	}
	first := len(s.freed) == 0
	s.freed[id.PID] = true
	s.over = true
	for _, t := range s.known() {
		s.over = s.over && s.freed[t.PID]
	}
	if first {
		s.target.Detach()
	}
	return replyOK
}

// verbose does what a packet with a name asks for.
func (s *session) verbose(p string) error {
	name, args, _ := strings.Cut(p, ";")
	reply := replyNone
	switch {
	case p == "vCont?":
		reply = "vCont;c;C;s;S;t;r"
	case name == "vCont":
		return s.resume(args)
	case name == "vKill":
		s.target.Kill()
		reply, s.over = replyOK, true
	case strings.HasPrefix(p, "vFile:"):
		reply = s.file(strings.TrimPrefix(p, "vFile:"))
	}
	return s.send([]byte(reply))
}

// known returns the threads, which do not change while they stand still.
func (s *session) known() []Thread {
	if s.threads == nil {
		s.threads = s.target.Threads()
	}
	return s.threads
}

// find returns a thread that the ID names, the one that stopped if it may
// choose.
func (s *session) find(id ID) (Thread, bool) {
	var first *Thread
	for _, t := range s.known() {
		switch {
		case !id.matches(t):
		case t.PID == s.stop.Thread.PID && t.TID == s.stop.Thread.TID:
			return t, true
		case first == nil:
			first = &t
		}
	}
	if first == nil {
		return Thread{}, false
	}
	return *first, true
}

// choose does H: it says who later packets are about.
func (s *session) choose(args string) string {
	if len(args) < 2 {
		return replyBad
	}
	id, ok := parseID(args[1:])
	if !ok {
		return replyBad
	}
	switch args[0] {
	case 'g':
		t, ok := s.find(id)
		if !ok {
			return replyGone
		}
		s.general = ID{t.PID, t.TID}
	case 'c':
		s.motion = id
	default:
		return replyNone
	}
	return replyOK
}

// layoutOf is what the client takes the registers of a thread to be.
func (s *session) layoutOf(t Thread, r *Registers) *layout {
	if len(s.described) > 0 && !s.described[t.PID] {
		return plain()
	}
	return layoutFor(r)
}

func (s *session) readAll() string {
	t, ok := s.find(s.general)
	if !ok {
		return replyGone
	}
	r, err := s.target.ReadRegisters(t)
	if err != nil {
		return replyGone
	}
	return hex.EncodeToString(s.layoutOf(t, r).all(r))
}

func (s *session) writeAll(args string) string {
	b, ok := parseBytes(args)
	if !ok {
		return replyBad
	}
	return s.change(func(l *layout, r *Registers) bool {
		l.setAll(r, b)
		return true
	})
}

func (s *session) readOne(args string) string {
	n, ok := parseHex(args)
	if !ok {
		return replyBad
	}
	t, ok := s.find(s.general)
	if !ok {
		return replyGone
	}
	r, err := s.target.ReadRegisters(t)
	if err != nil {
		return replyGone
	}
	v, ok := s.layoutOf(t, r).one(r, n)
	if !ok {
		return replyBad
	}
	return hex.EncodeToString(v)
}

func (s *session) writeOne(args string) string {
	number, value, _ := strings.Cut(args, "=")
	n, ok1 := parseHex(number)
	b, ok2 := parseBytes(value)
	if !ok1 || !ok2 {
		return replyBad
	}
	return s.change(func(l *layout, r *Registers) bool { return l.setOne(r, n, b) })
}

// change changes registers of the thread that is meant.
func (s *session) change(f func(l *layout, r *Registers) bool) string {
	t, ok := s.find(s.general)
	if !ok {
		return replyGone
	}
	r, err := s.target.ReadRegisters(t)
	if err != nil {
		return replyGone
	}
	if !f(s.layoutOf(t, r), r) {
		return replyBad
	}
	if s.target.WriteRegisters(t, r) != nil {
		return replyInput
	}
	return replyOK
}

// readMemory does m. It may return less than was asked for.
func (s *session) readMemory(args string) string {
	addr, n, ok := parseRange(args)
	if !ok {
		return replyBad
	}
	t, ok := s.find(s.general)
	if !ok {
		return replyGone
	}
	p := make([]byte, min(n, PacketSize/2))
	got, _ := s.target.ReadMemory(t, addr, p)
	if got == 0 && n > 0 {
		return replyFault
	}
	return hex.EncodeToString(p[:got])
}

func (s *session) writeMemory(at string, data []byte, ok bool) string {
	addr, n, parsed := parseRange(at)
	if !ok || !parsed || n != uint64(len(data)) {
		return replyBad
	}
	t, ok := s.find(s.general)
	if !ok {
		return replyGone
	}
	if n > 0 && s.target.WriteMemory(t, addr, data) != nil {
		return replyFault
	}
	return replyOK
}

// breakpoint does Z and z: TYPE,ADDR,KIND. Only those in software exist: the
// platforms have no access to the registers that the others need.
func (s *session) breakpoint(set bool, args string) string {
	kind, where, found := strings.Cut(args, ",")
	if !found || kind != "0" {
		return replyNone
	}
	where, _, conditions := strings.Cut(where, ";")
	addr, size, ok := parseRange(where)
	if !ok || size != 1 || conditions {
		return replyBad
	}
	t, ok := s.find(s.general)
	if !ok {
		return replyGone
	}
	do := s.target.ClearBreakpoint
	if set {
		do = s.target.SetBreakpoint
	}
	if do(t, addr) != nil {
		return replyFault
	}
	return replyOK
}
