package sentry

import (
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
)

// trace traces the scheduler, and runs f when that has begun.
func trace(t testing.TB, req control.SchedTraceRequest, f func(ours *os.File)) (*sched.Trace, error) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := theKernel.SchedTrace(req, []*os.File{theirs})
		failed <- err
	}()
	if f != nil {
		f(ours)
	}
	tr, err := control.ReadSchedTrace(ours)
	if e := <-failed; e != nil {
		return nil, e
	}
	return tr, err
}

// tracedWhile traces everybody: how often who ran, by agent and name, and how often
// an agent was throttled.
func tracedWhile(t *testing.T, span time.Duration, throttles string) (names map[string]int, throttled int) {
	t.Helper()
	all, err := trace(t, control.SchedTraceRequest{For: span, Limit: 1 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if all.Dropped > 0 || all.End-all.Begin < int64(span) || all.CPUs != theKernel.cfg.CPUs {
		t.Errorf("%d dropped, from %d to %d", all.Dropped, all.Begin, all.End)
	}
	names = make(map[string]int)
	switches := uint64(0)
	for _, e := range all.Entries {
		switch e.Kind {
		case sched.TraceRun:
			if !e.Before {
				switches++
			}
			task := all.Tasks[e.Who]
			if task.PID == 0 || task.TID == 0 || task.Name == "" {
				t.Errorf("%+v", task)
			}
			names[all.Groups[task.Group]+" "+task.Name]++
		case sched.TraceThrottled:
			if all.Groups[e.Who] == throttles {
				throttled++
			}
		}
	}
	if switches != all.Switches {
		t.Errorf("%d switches of %d", switches, all.Switches)
	}
	return names, throttled
}

// TestSchedTrace traces agents whose processes come and go.
func TestSchedTrace(t *testing.T) {
	one := spawn(t, sh("while :; do sleep 0.01; : | cat; done"))
	two := spawn(t, sh("while :; do :; done"), instead("cpu:self,cpu=0.2"))
	// How much they do in a while is the host's affair.
	names, throttled := make(map[string]int), 0
	for span := 500 * time.Millisecond; span < time.Minute && (names[one.id+" cat"] == 0 || names[two.id+" sh"] == 0 || throttled == 0); span *= 2 {
		names, throttled = tracedWhile(t, span, two.id)
	}
	if names[one.id+" cat"] == 0 || names[two.id+" sh"] == 0 || throttled == 0 {
		t.Errorf("%v, throttled %d times", names, throttled)
	}

	// Of one agent: nobody else is named.
	tr, err := trace(t, control.SchedTraceRequest{ID: two.id, For: 300 * time.Millisecond, Limit: 1 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	others, its := 0, 0
	for _, e := range tr.Entries {
		if e.Kind == sched.TraceThrottled || e.Kind == sched.TraceResumed {
			continue
		}
		switch task := tr.Tasks[e.Who]; {
		case tr.Groups[task.Group] == two.id && task.Name == "sh":
			its++
		case task != (sched.TracedTask{}) || e.Took != 0 || e.Kind == sched.TraceWait || e.Kind == sched.TraceGone:
			t.Errorf("%+v of %+v", e, task)
		default:
			others++
		}
	}
	if !slices.Equal(tr.Groups, []string{"", two.id}) || len(tr.Tasks) != tr.CPUs+1 || others == 0 || its == 0 {
		t.Errorf("%v %+v, %d entries of it and %d of others", tr.Groups, tr.Tasks, its, others)
	}

	for _, req := range []control.SchedTraceRequest{{Limit: 1}, {For: time.Hour, Limit: 1}, {For: 1}, {For: 1, Limit: 1 << 30}} {
		_, err := trace(t, req, nil)
		wantCode(t, err, errdefs.InvalidArgument)
	}
	_, err = trace(t, control.SchedTraceRequest{ID: "a000000000000", For: 1, Limit: 1}, nil)
	wantCode(t, err, errdefs.AgentNotFound)

	// One at a time; and the one ends when nobody waits for it any more.
	start := time.Now()
	_, err = trace(t, control.SchedTraceRequest{For: time.Minute, Limit: 1 << 20}, func(ours *os.File) {
		time.Sleep(500 * time.Millisecond) // It has begun.
		_, err := trace(t, control.SchedTraceRequest{For: time.Millisecond, Limit: 1}, nil)
		wantCode(t, err, errdefs.WrongState)
		ours.Close()
	})
	if wantCode(t, err, errdefs.Cancelled); time.Since(start) > 20*time.Second {
		t.Errorf("it took %v", time.Since(start))
	}
	if _, err := trace(t, control.SchedTraceRequest{For: time.Millisecond, Limit: 10}, nil); err != nil {
		t.Error(err)
	}

	// It ends early, and has what there was.
	tr, err = trace(t, control.SchedTraceRequest{For: time.Minute, Limit: 1 << 20}, func(ours *os.File) {
		time.Sleep(300 * time.Millisecond)
		c, err := ours.SyscallConn()
		if err == nil {
			err = c.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) })
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Duration(tr.End - tr.Begin); took < 200*time.Millisecond || took > 20*time.Second || tr.Switches == 0 {
		t.Errorf("%v, %d switches", took, tr.Switches)
	}
}
