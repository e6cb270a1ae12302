package ktime

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Prompt is a clock whose timers end when they should. Those of the Go runtime end
// up to a millisecond late while the process has nothing else to do: it waits for
// them in epoll_wait(2), which counts milliseconds. A Prompt has a timer of the
// host kernel instead, timerfd_create(2), which wakes that wait.
//
// Functions of its timers are called one after the other on a goroutine of the
// clock's: they must not block. Its lock is one of an Exact's, and a leaf.
type Prompt struct {
	Clock
	alarm alarm
	set   *Exact
}

// NewPrompt returns a clock with the time of c, which must pass as that of the
// host does. The process must be able to make a descriptor.
func NewPrompt(c Clock) (*Prompt, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	p := &Prompt{Clock: c}
	p.alarm = alarm{Clock: c, fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}
	p.set = NewExact(&p.alarm)
	go p.alarm.serve()
	return p, nil
}

// Close has no timer end any more.
func (p *Prompt) Close() error {
	p.set.Close()
	return p.alarm.file.Close()
}

// AfterFunc implements Clock.
func (p *Prompt) AfterFunc(d time.Duration, f func()) Timer {
	t := new(ExactTimer)
	p.Start(t, d, f)
	return t
}

// Start is AfterFunc with a timer of the caller's, which must not be started.
func (p *Prompt) Start(t *ExactTimer, d time.Duration, f func()) {
	t.Init(p.set, 0, f)
	t.ResetAt(p.set.Now() + d)
}

// alarm is a clock that has one timer at a time: a new one replaces the last.
type alarm struct {
	Clock
	fd   int
	file *os.File

	mu sync.Mutex // a leaf
	f  func()     // +checklocks:mu
}

// AfterFunc implements Clock.
func (a *alarm) AfterFunc(d time.Duration, f func()) Timer {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.f = f
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(d, 1)))} // None at all would stop it.
	// It fails for bad arguments only, or when the clock is closed.
	_ = unix.TimerfdSettime(a.fd, 0, &spec, nil)
	return a
}

// Stop implements Timer. The descriptor may become readable still, for nothing.
func (a *alarm) Stop() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.f != nil
	a.f = nil
	return was
}

// serve calls what is due, until the clock is closed. It may call too early what
// has just replaced something that was due: an Exact looks.
func (a *alarm) serve() {
	var expired [8]byte
	for {
		if _, err := a.file.Read(expired[:]); err != nil {
			return
		}
		a.mu.Lock()
		f := a.f
		a.f = nil
		a.mu.Unlock()
		if f != nil {
			f()
		}
	}
}
