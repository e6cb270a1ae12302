package sentry

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

func lookAt(t testing.TB, id string, views ...string) control.Look {
	t.Helper()
	l, err := theKernel.Look(control.LookRequest{ID: id, Views: views})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestLook looks again and again at a program that goes on as if nobody had.
func TestLook(t *testing.T) {
	s, symbols := spawnDebuggee(t)
	calls, runs := 0, 0
	for looks := 0; looks < 50 || (calls == 0 || runs == 0) && looks < 5000; looks++ { // How often is the host's scheduler's.
		l := lookAt(t, s.id, control.Views()...)
		if len(l.Tasks) != 3 || len(l.Left) != 0 {
			t.Fatalf("%+v", l)
		}
		for i, task := range l.Tasks {
			if task.Agent != s.id || task.PID != 1 || task.TID != int32(i+1) || task.Name != "debuggee" {
				t.Fatalf("%+v", task)
			}
			if task.State == "waits" && task.Call == "clock_nanosleep" && slices.ContainsFunc(task.Stack, func(f string) bool {
				return strings.HasPrefix(f, "linux.ClockNanosleep sys_time.go:")
			}) {
				calls++
			}
			ip, err := strconv.ParseUint(task.Registers["rip"], 0, 64)
			if task.State == "runs" && err == nil && ip >= symbols["spinner"] && ip < symbols["spinner"]+200 {
				runs++
			}
			if len(task.Registers) > 0 && (err != nil || len(task.Registers) != 21) {
				t.Fatalf("%+v", task)
			}
		}
		if q := l.Queues; len(q) != 1 || q[0].Agent != s.id || q[0].Weight != 100 || q[0].Slice <= 0 || len(q[0].Running)+len(q[0].Waiting) > 3 {
			t.Fatalf("%+v", q)
		}
		if !slices.ContainsFunc(l.Maps, func(m control.LookMap) bool {
			return m.What == "/bin/debuggee" && m.Perms == "r-xp" && m.Start <= symbols["work"] && symbols["work"] < m.End
		}) {
			t.Fatalf("%+v", l.Maps)
		}
		if len(l.Files) < 3 || l.Files[1].FD != 1 || l.Files[1].Mode != "w" || l.Files[1].PID != 1 || len(l.Caps) == 0 {
			t.Fatalf("%+v %+v", l.Files, l.Caps)
		}
		if len(l.Locks.Kernel) != len(theKernel.sharedLocks()) {
			t.Fatalf("%+v", l.Locks)
		}
	}
	if calls == 0 || runs == 0 {
		t.Errorf("threads were seen %d times in a call and %d times at work", calls, runs)
	}
	if l := lookAt(t, "", control.ViewTasks); !slices.ContainsFunc(l.Tasks, func(x control.LookTask) bool { return x.Agent == s.id && len(x.Stack) == 0 }) {
		t.Errorf("not seen in the domain: %+v", l.Tasks)
	}
	// One that stands still for others is looked at as well, and stays so.
	d := debugIt(t, s, symbols, 1)
	d.breakAt("work")
	d.cont()
	l := lookAt(t, s.id, control.ViewStacks)
	if n := len(l.Tasks); n != 3 || l.Tasks[0].State != "stopped" || l.Tasks[0].Registers["rip"] != hexOf(symbols["work"]) {
		t.Errorf("at a breakpoint: %+v", l.Tasks)
	}
	d.finish()
	_, err := theKernel.Look(control.LookRequest{ID: s.id, Views: []string{control.ViewTasks}})
	wantCode(t, err, errdefs.AgentNotRunning)
}

// TestLookAtLocks has a lock held that every agent needs.
func TestLookAtLocks(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	until, held := make(chan time.Time), make(chan struct{})
	go func() { holdTheLock(until); close(held) }()
	var l control.Look
	eventually(t, func() bool {
		l = lookAt(t, "", control.ViewLocks)
		return l.Locks.Kernel[len(l.Locks.Kernel)-1].Held
	})
	if name := l.Locks.Kernel[len(l.Locks.Kernel)-1].Name; name != "the lock of agents" {
		t.Errorf("%q is held", name)
	}
	if !slices.ContainsFunc(l.Locks.Waiting, func(w control.LookWaiter) bool {
		return slices.ContainsFunc(w.Stack, func(f string) bool { return strings.HasPrefix(f, "sentry.(*Kernel).agent ") })
	}) {
		t.Errorf("nobody waits: %+v", l.Locks.Waiting)
	}
	_, err := theKernel.Look(control.LookRequest{ID: s.id, Views: []string{control.ViewTasks}})
	wantCode(t, err, errdefs.WrongState)
	close(until)
	<-held
	eventually(t, func() bool { return len(lookAt(t, "", control.ViewLocks).Locks.Kernel) == len(theKernel.sharedLocks()) })
	if l := lookAt(t, s.id, control.ViewTasks); len(l.Tasks) != 1 {
		t.Errorf("free again: %+v", l)
	}
}

func TestParseStack(t *testing.T) {
	id, _, stack := parseStack("goroutine 12 gp=0x1 [sync.Mutex.Lock, 3 minutes, locked to thread]:\na/b.(*T).f(0x1, {0x2})\n\t/x/y/t.go:12 +0x1\ncreated by a/b.g in goroutine 1\n\t/x/y/u.go:3 +0x2")
	if id != 0 || stack != nil {
		t.Errorf("%d %q", id, stack)
	}
	id, state, stack := parseStack("goroutine 12 [sync.Mutex.Lock, 3 minutes, locked to thread]:\na/b.(*T).f(0x1, {0x2})\n\t/x/y/t.go:12 +0x1\ncreated by a/b.g in goroutine 1\n\t/x/y/u.go:3 +0x2")
	if id != 12 || !awaitsLock(state) || !slices.Equal(stack, []string{"b.(*T).f t.go:12", "b.g in goroutine 1 u.go:3"}) {
		t.Errorf("%d %q %q", id, state, stack)
	}
	if awaitsLock("chan receive") {
		t.Error("a channel is no lock")
	}
}
