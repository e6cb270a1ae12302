package gdbstub

import (
	"bytes"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
)

// machine is a Target without a machine: it knows four instructions.
//
//	90    nop
//	cc    breakpoint
//	f4    ends with the status in eax
//	eb fe stays where it is, until it is interrupted
type machine struct {
	threads  []Thread
	regs     map[int32]*Registers
	memory   []byte // from base on
	breaks   map[uint64]byte
	stops    chan Stop
	wake     chan struct{}
	pass     []int32
	plans    []Plan
	detached chan struct{}
	killed   bool
	files    map[string]string
	ended    bool
}

const base = 0x1000

func newMachine(code ...byte) *machine {
	m := &machine{
		regs: make(map[int32]*Registers), memory: make([]byte, 0x2000), breaks: make(map[uint64]byte),
		stops: make(chan Stop, 1), wake: make(chan struct{}, 1), detached: make(chan struct{}),
		files: map[string]string{"/bin/program": "\x7fELF of #$}* and more"},
	}
	copy(m.memory, code)
	for tid := int32(1); tid <= 3; tid++ {
		m.threads = append(m.threads, Thread{PID: 1, TID: tid, Name: "thread <" + string(rune('0'+tid)) + ">\xff"})
		r := &Registers{Extended: make([]byte, 1024)}
		r.General[genRIP] = base
		r.General[genRSP] = base + 0x1800
		r.General[genEFlags] = 0x202
		r.General[genOrigRAX] = ^uint64(0)
		m.regs[tid] = r
	}
	return m
}

func (m *machine) first() Stop { return Stop{Thread: m.threads[0], Signal: sigTrap} }

func (m *machine) Threads() []Thread {
	if m.ended {
		return nil
	}
	return m.threads
}

func (m *machine) ReadRegisters(t Thread) (*Registers, error) {
	r := m.regs[t.TID]
	if r == nil || m.ended {
		return nil, errdefs.New(errdefs.NotFound, "no thread")
	}
	out := &Registers{General: r.General, Extended: bytes.Clone(r.Extended)}
	return out, nil
}

func (m *machine) WriteRegisters(t Thread, r *Registers) error {
	*m.regs[t.TID] = *r
	return nil
}

func (m *machine) at(addr uint64, n int) []byte {
	if addr < base || addr-base >= uint64(len(m.memory)) {
		return nil
	}
	b := m.memory[addr-base:]
	return b[:min(n, len(b))]
}

func (m *machine) ReadMemory(_ Thread, addr uint64, p []byte) (int, error) {
	n := copy(p, m.at(addr, len(p)))
	for at, was := range m.breaks {
		if at >= addr && at < addr+uint64(n) {
			p[at-addr] = was
		}
	}
	if n < len(p) {
		return n, syscall.EFAULT
	}
	return n, nil
}

func (m *machine) WriteMemory(_ Thread, addr uint64, p []byte) error {
	b := m.at(addr, len(p))
	if len(b) < len(p) {
		return syscall.EFAULT
	}
	copy(b, p)
	return nil
}

func (m *machine) SetBreakpoint(_ Thread, addr uint64) error {
	b := m.at(addr, 1)
	if b == nil {
		return syscall.EFAULT
	}
	if _, ok := m.breaks[addr]; !ok {
		m.breaks[addr] = b[0]
		b[0] = 0xcc
	}
	return nil
}

func (m *machine) ClearBreakpoint(_ Thread, addr uint64) error {
	if was, ok := m.breaks[addr]; ok {
		m.at(addr, 1)[0] = was
		delete(m.breaks, addr)
	}
	return nil
}

func (m *machine) PassSignals(s []int32) { m.pass = s }

func (m *machine) StopAtExec(bool) {}

func (m *machine) Signal(Thread) []byte { return bytes.Repeat([]byte{'*'}, 128) }

func (m *machine) Auxv(Thread) ([]byte, error) { return make([]byte, 16), nil }

func (m *machine) Executable(Thread) (string, error) { return "/bin/program", nil }

func (m *machine) ReadLink(path string) (string, error) { return "", syscall.EINVAL }

type fakeFile struct{ *bytes.Reader }

func (f fakeFile) Stat() (FileStat, error) {
	return FileStat{Size: f.Size(), Mode: 0o100755, UID: 1}, nil
}
func (fakeFile) Close() error { return nil }

func (m *machine) Open(path string) (File, error) {
	text, ok := m.files[path]
	if !ok {
		return nil, syscall.ENOENT
	}
	return fakeFile{bytes.NewReader([]byte(text))}, nil
}

// Resume runs the first thread that is to move until it stops.
func (m *machine) Resume(p Plan) error {
	m.plans = append(m.plans, slices.Clone(p))
	i := slices.IndexFunc(m.threads, func(t Thread) bool { return p.Of(t).Motion != Stay })
	t := m.threads[i]
	go func() { m.stops <- m.run(t, p.Of(t)) }()
	return nil
}

func (m *machine) run(t Thread, a Action) Stop {
	r := m.regs[t.TID]
	for {
		ip := r.General[genRIP]
		switch code := m.at(ip, 2); {
		case len(code) == 0:
			return Stop{Thread: t, Signal: int32(syscall.SIGSEGV)}
		case code[0] == 0xcc:
			return Stop{Thread: t, Signal: sigTrap, Breakpoint: true}
		case code[0] == 0xf4:
			m.ended = true
			return Stop{Thread: t, Exited: true, Status: int32(r.General[genRAX])}
		case len(code) == 2 && code[0] == 0xeb && code[1] == 0xfe:
			if a.Motion != Step {
				<-m.wake
				return Stop{Thread: t, Signal: sigInt}
			}
		default:
			r.General[genRIP]++
		}
		if a.Motion == Step && (r.General[genRIP] < a.Start || r.General[genRIP] >= a.End) {
			return Stop{Thread: t, Signal: sigTrap}
		}
	}
}

func (m *machine) Stops() <-chan Stop { return m.stops }
func (m *machine) Interrupt() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
func (m *machine) Kill()   { m.killed = true }
func (m *machine) Detach() { close(m.detached) }

// serve serves m at the other end of what it returns.
func serve(t testing.TB, m *machine) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Serve(theirs, m, m.first()) }()
	t.Cleanup(func() {
		ours.Close()
		late := time.AfterFunc(20*time.Second, func() { panic("the stub goes on without a client") })
		defer late.Stop()
		if err := <-ended; err != nil && err != io.EOF && err != io.ErrClosedPipe && errdefs.CodeOf(err) != errdefs.Protocol {
			t.Errorf("the session ended with %v", err)
		}
		<-m.detached
	})
	return ours
}

func needGDB(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"/usr/bin/gdb", "/usr/local/bin/gdb"} {
		if _, err := os.Stat(dir); err == nil {
			return
		}
	}
	if os.Getenv("AIOS_REQUIRE_PROGRAMS") == "1" {
		t.Fatal("gdb is missing")
	}
	t.Skip("gdb is missing")
}
