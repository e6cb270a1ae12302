package gdbstub

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"net"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// talk sends packets without acknowledgements and returns the replies.
type talk struct {
	t    *testing.T
	conn net.Conn
	in   *packetReader
}

func newTalk(t *testing.T, m *machine) *talk {
	k := &talk{t: t, conn: serve(t, m)}
	k.in = newPacketReader(k.conn)
	k.write("$QStartNoAckMode#b0")
	if ev, err := k.in.next(); err != nil || ev.kind != eventAck {
		t.Fatalf("%+v, %v instead of an acknowledgement", ev, err)
	}
	if got := k.receive(); got != "OK" {
		t.Fatalf("no-ack mode: %q", got)
	}
	return k
}

func (k *talk) write(raw string) {
	k.t.Helper()
	if _, err := k.conn.Write([]byte(raw)); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) receive() string {
	k.t.Helper()
	ev, err := k.in.next()
	if err != nil || ev.kind != eventPacket {
		k.t.Fatalf("%+v, %v instead of a packet", ev, err)
	}
	return string(ev.payload)
}

func (k *talk) call(packet string) string {
	k.t.Helper()
	k.write(string(appendPacket(nil, []byte(packet))))
	return k.receive()
}

func (k *talk) want(packet, want string) {
	k.t.Helper()
	if got := k.call(packet); got != want {
		k.t.Errorf("%s → %q, want %q", packet, got, want)
	}
}

func TestPackets(t *testing.T) {
	m := newMachine(0x90, 0x90, 0x90, 0x90, 0xeb, 0xfe)
	k := newTalk(t, m)
	if got := k.call("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+"); !strings.Contains(got, "PacketSize=8000;") || !strings.Contains(got, "multiprocess+") {
		t.Errorf("supported: %s", got)
	}
	for _, c := range []struct{ packet, want string }{
		{"vMustReplyEmpty", ""},
		{"?", "T0506:0000000000000000;07:0028000000000000;10:0010000000000000;thread:p1.1;"},
		{"qC", "QCp1.1"},
		{"qAttached:1", "1"},
		{"qfThreadInfo", "mp1.1,p1.2,p1.3"},
		{"qsThreadInfo", "l"},
		{"qThreadExtraInfo,p1.2", hexText("thread <2>\xff")},
		{"Tp1.3", "OK"},
		{"Tp1.9", "E03"},
		{"Tx", "E16"},
		{"Hgp1.2", "OK"},
		{"Hgp7.7", "E03"},
		{"Hg", "E16"},
		{"Hx1", ""},
		{"p10", "0010000000000000"},
		{"pff", "E16"},
		{"P10=0210000000000000", "OK"},
		{"p10", "0210000000000000"},
		{"P10=02", "E16"},
		{"P10", "E16"},
		{"m1000,4", "90909090"},
		{"m2ffe,10", "0000"}, // to the end
		{"m5000,4", "E0e"},
		{"m,", "E16"},
		{"mzz,1", "E16"},
		{"M1001,2:ebfe", "OK"},
		{"m1000,4", "90ebfe90"},
		{"M1001,3:ebfe", "E16"},
		{"M5000,1:00", "E0e"},
		{"X1001,0:", "OK"},
		{"X1001,2:\x90\x90", "OK"},
		{"m1000,4", "90909090"},
		{"Z0,1001,1", "OK"},
		{"Z0,1001,1", "OK"},
		{"m1000,4", "90909090"}, // It is not seen.
		{"Z0,5000,1", "E0e"},
		{"Z0,1001", "E16"},
		{"Z0,1001,4", "E16"},
		{"Z1,1001,1", ""},
		{"Z2,1001,4", ""},
		{"z0,1001,1", "OK"},
		{"z0,1001,1", "OK"},
		{"QPassSignals:e;10;14;17;1a;1b;1c;21;24;25;2c;4c;97;", "OK"},
		{"qXfer:exec-file:read:1:0,100", "l/bin/program"},
		{"qXfer:exec-file:read:9:0,100", "E03"},
		{"qXfer:auxv:read::0,4", "m" + strings.Repeat("\x00", 4)},
		{"qXfer:auxv:read::c,100", "l" + strings.Repeat("\x00", 4)},
		{"qXfer:auxv:read::1000,100", "l"},
		{"qXfer:auxv:write::0:", ""},
		{"qXfer:threads:read::0,1000", `l<threads><thread id="p1.1" name="thread &lt;1&gt;` + "\ufffd" + `"/><thread id="p1.2" name="thread &lt;2&gt;` + "\ufffd" +
			`"/><thread id="p1.3" name="thread &lt;3&gt;` + "\ufffd" + `"/></threads>`},
		{"qXfer:siginfo:read::0,4", "m****"},
		{"qXfer:nonsense:read::0,4", ""},
		{"qRcmd,00", ""},
		{"vCont?", "vCont;c;C;s;S;t;r"},
		{"vCont", "E16"},
		{"vCont;", "E16"},
		{"vCont;x", "E16"},
		{"vCont;c:zz", "E16"},
		{"vCont;t", "E03"},     // Nobody would move.
		{"vCont;c:9.9", "E16"}, // Without p.
		{"vCont;c:p9.9", "E03"},
		{"vKillx", ""},
		{"b", ""},
		{"", ""},
	} {
		k.want(c.packet, c.want)
	}
	if want := []int32{14, 23, 17, 29}; len(m.pass) < 4 || !slices.Equal(m.pass[:4], want) {
		t.Errorf("signals that pass: %v, want %v first", m.pass, want)
	}
}

func TestFiles(t *testing.T) {
	k := newTalk(t, newMachine())
	text := "\x7fELF of #$}* and more"
	for _, c := range []struct{ packet, want string }{
		{"vFile:setfs:1", "F0"},
		{"vFile:open:" + hexText("/bin/program") + ",0,0", "F1"},
		{"vFile:open:" + hexText("/bin/program") + ",1,0", "F-1,d"},
		{"vFile:open:" + hexText("/none") + ",0,0", "F-1,2"},
		{"vFile:open:zz,0,0", "F-1,16"},
		{"vFile:open:00", "F-1,16"},
		{"vFile:pread:1,1000,0", "F" + hexOf(uint64(len(text))) + ";" + text},
		{"vFile:pread:1,3,1", "F3;ELF"},
		{"vFile:pread:1,10,1000", "F0;"},
		{"vFile:pread:1,10,ffffffffffffffff", "F-1,16"},
		{"vFile:pread:2,10,0", "F-1,9"},
		{"vFile:pread:1", "F-1,16"},
		{"vFile:fstat:2", "F-1,9"},
		{"vFile:readlink:" + hexText("/none"), "F-1,16"},
		{"vFile:unlink:" + hexText("/bin/program"), "F-1,d"},
		{"vFile:pwrite:1,0,x", "F-1,d"},
		{"vFile:chmod:1", ""},
		{"vFile:close:1", "F0"},
		{"vFile:close:1", "F-1,9"},
	} {
		k.want(c.packet, c.want)
	}
	k.want("vFile:open:"+hexText("/bin/program")+",0,0", "F2")
	got := k.call("vFile:fstat:2")
	if len(got) != 4+64 || !strings.HasPrefix(got, "F40;") || got[4+8:4+12] != "\x00\x00\x81\xed" {
		t.Errorf("fstat: %q", got)
	}
	for range maxFiles - 1 {
		k.call("vFile:open:" + hexText("/bin/program") + ",0,0")
	}
	k.want("vFile:open:"+hexText("/bin/program")+",0,0", "F-1,18")
}

func TestMotion(t *testing.T) {
	m := newMachine(0x90, 0x90, 0x90, 0x90, 0x90, 0xeb, 0xfe, 0xf4)
	k := newTalk(t, m)
	k.call("qSupported:multiprocess+")
	at := func(ip byte) string {
		return "06:0000000000000000;07:0028000000000000;10:" + hexByte(ip) + "10000000000000;"
	}
	k.want("vCont;s:p1.1;c", "T05"+at(1)+"thread:p1.1;")
	k.want("vCont;r1001,1003:p1.1", "T05"+at(3)+"thread:p1.1;")
	k.call("Z0,1004,1")
	k.want("c", "T05"+at(4)+"thread:p1.1;swbreak:;")
	k.call("z0,1004,1")
	k.want("vCont;S0b:p1.1", "T05"+at(5)+"thread:p1.1;")
	if a := m.plans[len(m.plans)-1].Of(Thread{PID: 1, TID: 1}); a.Signal != 11 || a.Motion != Step {
		t.Errorf("plan %+v", a)
	}
	// It runs until it is interrupted, and says so to whoever asks meanwhile.
	k.write(string(appendPacket(nil, []byte("vCont;c"))))
	k.want("m1000,1", "E.the program runs")
	k.write("\x03\x03")
	if got := k.receive(); got != "T02"+at(5)+"thread:p1.1;" {
		t.Errorf("interrupted: %q", got)
	}
	k.write("\x03") // It stands still: nothing to interrupt.
	k.want("P0=2a00000000000000", "OK")
	k.want("c1007", "W2a;process:1")
	k.want("m1000,1", "E03")
	k.want("g", "E03")
	k.want("qfThreadInfo", "l")
	k.want("vCont;c", "E03")
}

func TestAcknowledgements(t *testing.T) {
	conn := serve(t, newMachine())
	in := bufio.NewReader(conn)
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		for i := range got {
			got[i], _ = in.ReadByte()
		}
		if string(got) != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	conn.Write([]byte("$qC#00"))
	expect("-")
	conn.Write([]byte("$qC#b4"))
	expect("+$QC1#c5")
	conn.Write([]byte("-"))
	expect("$QC1#c5")
	conn.Write([]byte("+$D#44"))
	expect("+$OK#9a")
}

// TestProcesses has a client that tells processes apart, and knows what
// registers the first has.
func TestProcesses(t *testing.T) {
	m := newMachine()
	m.threads[2].PID = 2
	k := newTalk(t, m)
	k.call("qSupported:multiprocess+")
	k.want("Hgp1.1", "OK")
	if got := k.call("qXfer:features:read:target.xml:0,7000"); !strings.Contains(got, groupAVX) {
		t.Errorf("%s", got)
	}
	if got := k.call("g"); len(got) != 2*avx().size {
		t.Errorf("%d digits", len(got))
	}
	k.want("Hgp2.3", "OK")
	if got := k.call("g"); len(got) != 2*plain().size {
		t.Errorf("%d digits", len(got))
	}
	k.want("D;1", "OK")
	<-m.detached
	k.want("g", "E03")
	k.want("D;2", "OK")
	if ev, err := k.in.next(); err == nil {
		t.Errorf("after all were left: %+v", ev)
	}
}

func TestKill(t *testing.T) {
	m := newMachine()
	k := newTalk(t, m)
	k.want("vKill;1", "OK")
	<-m.detached
	if !m.killed {
		t.Error("it lives")
	}
	m = newMachine()
	k = newTalk(t, m)
	k.write("$k#6b")
	<-m.detached
	if !m.killed {
		t.Error("it lives")
	}
}

func TestClient(t *testing.T) {
	m := newMachine(0x90, 0x90, 0x90, 0x90, 0xeb, 0xfe, 0xf4)
	conn := serve(t, m)
	c, stop, err := Dial(conn)
	if err != nil || stop != m.first().without() {
		t.Fatalf("%+v, %v", stop, err)
	}
	if len(c.Threads) != 3 || c.Threads[2] != (Thread{PID: 1, TID: 3}) {
		t.Fatalf("threads %v", c.Threads)
	}
	one := c.Threads[0]
	if err := c.SetBreakpoint(one, base+2); err != nil {
		t.Fatal(err)
	}
	if err := c.SetBreakpoint(one, 0x9000); err == nil || !strings.Contains(err.Error(), "no memory") {
		t.Errorf("a breakpoint in nothing: %v", err)
	}
	if stop, err := c.Continue(); err != nil || !stop.Breakpoint || stop.Thread != one {
		t.Fatalf("%+v, %v", stop, err)
	}
	if b, err := c.ReadMemory(one, base, 8); err != nil || !bytes.Equal(b, []byte{0x90, 0x90, 0x90, 0x90, 0xeb, 0xfe, 0xf4, 0}) {
		t.Errorf("% x, %v", b, err)
	}
	if err := c.WriteMemory(one, base+0x100, []byte("text")); err != nil {
		t.Error(err)
	}
	if b, err := c.ReadMemory(one, base+0x1ffc, 100); err != nil || len(b) != 4 {
		t.Errorf("to the end of memory: %d bytes, %v", len(b), err)
	}
	if stop, err := c.Step(one); err != nil || stop.Breakpoint || stop.Signal != sigTrap {
		t.Fatalf("%+v, %v", stop, err)
	}
	if _, ok := m.breaks[base+2]; !ok {
		t.Error("the breakpoint is gone after a step over it")
	}
	regs, err := c.Registers(one)
	if err != nil || regs[16].Name != "rip" || le.Uint64(regs[16].Value) != base+3 || len(regs) != len(avx().fields) {
		t.Errorf("%v, %v", regs, err)
	}
	m.regs[1].General[genRIP] = base + 2 // It stands at the breakpoint again.
	go func() {
		for len(m.wake) == 0 {
			c.Interrupt()
		}
	}()
	if stop, err := c.Continue(); err != nil || stop.Signal != sigInt {
		t.Fatalf("%+v, %v", stop, err)
	}
	if err := c.ClearBreakpoint(one, base+2); err != nil {
		t.Error(err)
	}
	if err := c.ClearBreakpoint(one, base+2); err == nil {
		t.Error("a breakpoint was removed twice")
	}
	if _, err := c.Registers(Thread{PID: 1, TID: 9}); err == nil || !strings.Contains(err.Error(), "no such thread") {
		t.Errorf("registers of nobody: %v", err)
	}
	if err := c.Detach(); err != nil {
		t.Error(err)
	}
	<-m.detached
}

// without is what a client without names is told.
func (s Stop) without() Stop {
	s.Thread.Name = ""
	return s
}

// TestGDB has gdb debug the machine.
func TestGDB(t *testing.T) {
	needGDB(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := newMachine(0x90, 0x90, 0x90, 0x90, 0x90, 0xf4)
	ended := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = Serve(conn, m, m.first())
		}
		ended <- err
	}()
	out, err := exec.Command("gdb", "-nx", "-batch", "-ex", "set sysroot", "-ex", "target remote "+l.Addr().String(),
		"-ex", "info threads", "-ex", "print $ymm2.v8_float", "-ex", "set var $xmm2.v4_float[1] = 1.5", "-ex", "print $xmm2.v4_float", "-ex", "print $st0",
		"-ex", "print $eflags", "-ex", "print $fctrl", "-ex", "print/x $ftag", "-ex", "stepi", "-ex", "print $pc", "-ex", "set {char[5]}0x1800 = \"text\"", "-ex", "x/s 0x1800",
		"-ex", "break *0x1003", "-ex", "continue", "-ex", "print $pc", "-ex", "x/6xb 0x1000", "-ex", "set var $rax = 7", "-ex", "continue").CombinedOutput()
	got := string(out)
	if err != nil {
		t.Errorf("gdb: %v", err)
	}
	for _, want := range []string{
		"Thread 1.3", "thread <3>", "{0, 0, 0, 0, 0, 0, 0, 0}", "{0, 1.5, 0, 0}", "[ IF ]", "= 895", "= 0xffff", "(void (*)()) 0x1001", "\"text\"",
		"(void (*)()) 0x1003", "0x1000:\t0x90\t0x90\t0x90\t0x90\t0x90\t0xf4", "exited with code 07",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("gdb does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if x := m.regs[1].Extended; le.Uint64(x[xsFlags:]) != xsSSE {
		t.Errorf("parts that are in use: %x", x[xsFlags:xsFlags+8])
	}
}

func TestRegistersTravel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		l, size := plain(), fxSize
		if rapid.Bool().Draw(r, "avx") {
			l, size = avx(), 1024
		}
		draw := func(name string) *Registers {
			regs := &Registers{Extended: rapid.SliceOfN(rapid.Byte(), size, size).Draw(r, name)}
			for i := range regs.General {
				regs.General[i] = rapid.Uint64().Draw(r, "word")
			}
			for _, i := range []int{genEFlags, genCS, genSS, genDS, genES, genFS, genGS} {
				regs.General[i] &= 1<<32 - 1
			}
			return regs
		}
		from, to := draw("from"), draw("to")
		if layoutFor(from) != l {
			r.Fatal("another layout")
		}
		seen := l.all(from)
		l.setAll(to, seen)
		again := l.all(to)
		for _, f := range l.fields {
			a, b := seen[:f.size], again[:f.size]
			seen, again = seen[f.size:], again[f.size:]
			switch {
			case f.name == "ftag": // Valid, zero or special follows from the number.
			case strings.HasPrefix(f.name, "f") && f.size == 4 && f.name != "fs" && f.name != "fioff" && f.name != "fooff":
				a, b = a[:2], b[:2]
				fallthrough
			default:
				if !bytes.Equal(a, b) {
					r.Fatalf("%s is % x, was % x", f.name, b, a)
				}
			}
		}
		for i, w := range from.General {
			if to.General[i] != w {
				r.Fatalf("word %d is %x, was %x", i, to.General[i], w)
			}
		}
		i := rapid.IntRange(0, len(l.fields)-1).Draw(r, "register")
		v, _ := l.one(from, uint64(i))
		if !l.setOne(to, uint64(i), v) {
			r.Fatal("one register was refused")
		}
	})
}

func TestSignalNumbers(t *testing.T) {
	seen := make(map[byte]int32)
	for sig := int32(1); sig <= 64; sig++ {
		n := toGDB(sig)
		if sig == 16 {
			continue // gdb has none for it.
		}
		if other, ok := seen[n]; ok {
			t.Errorf("signals %d and %d are both %d", sig, other, n)
		}
		seen[n] = sig
		if back := fromGDB(uint64(n)); back != sig {
			t.Errorf("signal %d is %d, which is %d", sig, n, back)
		}
	}
}

func TestPlans(t *testing.T) {
	p, ok := parsePlan("C0b:p1.2;s:p1.3;t:p1.4;c")
	if !ok {
		t.Fatal("refused")
	}
	for tid, want := range map[int32]Action{
		2: {ID: ID{1, 2}, Motion: Go, Signal: 11}, 3: {ID: ID{1, 3}, Motion: Step}, 4: {ID: ID{1, 4}}, 5: {ID: ID{AllID, AllID}, Motion: Go},
	} {
		if got := p.Of(Thread{PID: 1, TID: tid}); !reflect.DeepEqual(got, want) {
			t.Errorf("thread %d: %+v, want %+v", tid, got, want)
		}
	}
}

// FuzzPackets reads packets out of arbitrary bytes; what it takes, written
// again, reads as the same.
func FuzzPackets(f *testing.F) {
	f.Add([]byte("+$qSupported:xmlRegisters=i386#77-\x03$X1000,2:}\x03}]#a0"))
	f.Add(appendPacket(nil, []byte("#$}*")))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := newPacketReader(bytes.NewReader(data))
		for {
			ev, err := in.next()
			if err != nil {
				return
			}
			if ev.kind != eventPacket {
				continue
			}
			if len(ev.payload) > PacketSize {
				t.Errorf("a packet of %d bytes", len(ev.payload))
			}
			again, err := newPacketReader(bytes.NewReader(appendPacket(nil, ev.payload))).next()
			if err == nil && (again.kind != eventPacket || !bytes.Equal(again.payload, ev.payload)) {
				t.Errorf("%q reads as %q", ev.payload, again.payload)
			}
			if n := escapedFit(ev.payload, 10); len(appendEscaped(nil, ev.payload[:n])) > 10 {
				t.Errorf("%d bytes of %q do not fit", n, ev.payload)
			}
		}
	})
}

// FuzzSession sends arbitrary packets to a stub, which must survive them.
func FuzzSession(f *testing.F) {
	for _, p := range []string{
		"vCont;c", "vFile:open:2f,0,0\nvFile:pread:1,10,0", "G" + hex.EncodeToString(make([]byte, 100)), "P10=00\nvCont;r1000,2000:p1.1",
		"qXfer:threads:read::0,fffffffffffffff", "m1000,ffffffffffffffff", "Z0,1000,1\nc\nz0,1000,1", "qSupported:multiprocess+\n?\nHgp1.2\ng",
	} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, script string) {
		m := newMachine(0x90, 0x90, 0xf4)
		s := &session{target: m, out: &bytes.Buffer{}, noAck: true, stop: m.first(), general: ID{1, 1}}
		for i, p := range strings.Split(script, "\n") {
			if i > 50 || s.over || s.running {
				return
			}
			if err := s.handle(event{kind: eventPacket, payload: []byte(p)}); err != nil {
				t.Errorf("%q: %v", p, err)
			}
			if n := len(s.last); n > 2*PacketSize+4 {
				t.Errorf("%q: a reply of %d bytes", p, n)
			}
			if s.running {
				m.wake <- struct{}{}
				if err := s.stopped(<-m.stops); err != nil {
					t.Error(err)
				}
				select {
				case <-m.wake:
				default:
				}
			}
		}
	})
}

// FuzzStops reads stop replies, which a client gets from a kernel process.
func FuzzStops(f *testing.F) {
	f.Add([]byte("T05thread:p1.2;swbreak:;"))
	f.Add([]byte("W00;process:1"))
	f.Fuzz(func(t *testing.T, data []byte) { parseStop(data) })
}
