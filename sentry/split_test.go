package sentry

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"pgregory.net/rapid"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// split has processes leave s's agent.
func (s *spawned) split(pids ...int32) *spawned {
	s.t.Helper()
	c, err := s.trySplit(&control.Split{PIDs: pids})
	if err != nil {
		s.t.Fatalf("split: %v", err)
	}
	return c
}

func (s *spawned) trySplit(split *control.Split, opts ...func(*control.CloneRequest)) (*spawned, error) {
	s.t.Helper()
	all, err := s.tryClone(1, append(opts, func(r *control.CloneRequest) { r.Split = split })...)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// number reads a file with a number in it.
func (s *spawned) number(name string) int32 {
	s.t.Helper()
	var text string
	eventually(s.t, func() bool { text = strings.TrimSpace(s.do("cat " + name + " 2>/dev/null; true")); return text != "" })
	n, err := strconv.Atoi(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return int32(n)
}

// counting is a worker that counts in a file until it is told to end, and a first
// process that tells how that ended.
const counting = `echo ready
( trap 'echo term > /term; exit 6' TERM; n=0; while [ ! -e /stop ]; do n=$((n+1)); echo $n > /count.new; mv /count.new /count; echo at $n; usleep 2000; done; exit 5 ) &
echo $! > /pid
wait $!
echo $? > /status
until [ -e /end ]; do usleep 5000; done`

func counter(t *testing.T, opts ...func(*control.SpawnRequest)) *spawned {
	t.Helper()
	if err := mergeImage(); err != nil {
		t.Fatal(err)
	}
	s := spawn(t, sh(counting), append(opts, func(r *control.SpawnRequest) { r.Root.Base = "merge" })...)
	s.expect("ready\n")
	s.number("/count")
	return s
}

// What leaves goes on under its number, and is gone where it was: it has exited.
func TestSplit(t *testing.T) {
	s := counter(t)
	pid := s.number("/pid")
	c := s.split(pid)
	if got := s.number("/status"); got != 0 {
		t.Errorf("who waited for it found the status %d", got)
	}
	at := s.do("cat /count")
	was := c.number("/count")
	eventually(t, func() bool { return c.number("/count") > was+3 })
	if got := s.do("cat /count"); got != at {
		t.Errorf("it counts on where it was: %s after %s", got, at)
	}
	got := c.do("echo /proc/[0-9]*; cat /proc/1/cmdline")
	if !strings.HasPrefix(got, "/proc/1 ") || !slices.Contains(strings.Fields(got), fmt.Sprint("/proc/", pid)) || !strings.HasSuffix(got, "init\x00") {
		t.Errorf("the new agent has %q", got)
	}
	st := inspect(t, c.id)
	if st.State != string(abi.StateRunning) {
		t.Errorf("it is %+v", st)
	}
	c.do("touch /stop")
	if e := c.wait(); e.Code != 5 {
		t.Errorf("it ended with %+v", e)
	}
	if got := c.logged(); !strings.Contains(got, "at ") {
		t.Errorf("its log has %q", got)
	}
	if got := s.do("ls /stop 2>/dev/null; echo alive"); got != "alive\n" {
		t.Errorf("the original says %q", got)
	}
}

// Signals for the new agent are those of its processes, and it ends as the one that
// was named does, though others go on longer.
func TestSplitEnds(t *testing.T) {
	s := counter(t)
	c := s.split(s.number("/pid"))
	c.signal(15)
	if e := c.wait(); e.Code != 6 {
		t.Errorf("it ended with %+v", e)
	}
	s = counter(t)
	pid := s.number("/pid")
	c = s.split(pid)
	c.do(fmt.Sprintf("kill -9 %d", pid))
	if e := c.wait(); e.Code != 128+9 {
		t.Errorf("it ended with %+v", e)
	}
}

// A worker leaves with what it has started, or without.
func TestSplitTree(t *testing.T) {
	script := `echo ready; sh -c 'sleep 1000 & echo $! > /child; sh -c "sleep 1001 & wait" & echo $$ > /pid; wait; echo $? > /waited; sleep 1002' & while :; do wait; usleep 5000; done`
	for _, alone := range []bool{false, true} {
		if err := mergeImage(); err != nil {
			t.Fatal(err)
		}
		s := spawn(t, sh(script), func(r *control.SpawnRequest) { r.Root.Base = "merge" })
		s.expect("ready\n")
		pid, child := s.number("/pid"), s.number("/child")
		eventually(t, func() bool { return strings.Contains(s.do("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), "sleep 1001") })
		c, err := s.trySplit(&control.Split{PIDs: []int32{pid}, Alone: alone})
		if err != nil {
			t.Fatal(err)
		}
		// By what it executes: in the copy a number may be free, and be that of who looks.
		has := func(x *spawned, pid int32) bool {
			return x.run(fmt.Sprintf("grep -q '[s]leep' /proc/%d/cmdline", pid)) == "[0]"
		}
		if !has(c, pid) || has(s, pid) || has(c, child) == alone || has(s, child) != alone {
			t.Errorf("alone %v: the process is there %v and was there %v, its child %v and %v", alone, has(c, pid), has(s, pid), has(c, child), has(s, child))
		}
	}
}

// A budget is divided as it was said, and of the rest there is what is kept.
func TestSplitAuthority(t *testing.T) {
	s := counter(t, granted("mem:self:map+exec,bytes=200M", "proc:self:spawn+exec+signal,count=50", "cpu:self,weight=100", "io:self", "net:loopback", "sys:mount", "sys:keys"))
	c, err := s.trySplit(&control.Split{PIDs: []int32{s.number("/pid")}, Share: 20}, func(r *control.CloneRequest) { r.Only = &control.Specialize{Keep: []string{"sys:mount"}} })
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(holds(c.id)); got != "[cpu:self io:self mem:self proc:self sys:mount]" {
		t.Errorf("it has %s", got)
	}
	a := theKernel.findAgent(c.id)
	if l := a.ownLimits(abi.ClassMem); l.Bytes != 40<<20 {
		t.Errorf("it has memory %+v", l)
	}
	if l := a.ownLimits(abi.ClassProc); l.Count != 10 {
		t.Errorf("it has processes %+v", l)
	}
	// It is no specialised one.
	if _, err := theKernel.CapGrant(control.GrantRequest{ID: c.id, Grants: grants("net:loopback")}); err != nil {
		t.Error(err)
	}
	_, err = s.trySplit(&control.Split{PIDs: []int32{1}})
	wantCode(t, err, errdefs.InvalidArgument)
	s = counter(t, granted("mem:self:map+exec,bytes=200M", "proc:self:spawn+exec+signal,count=50", "cpu:self", "io:self"))
	_, err = s.trySplit(&control.Split{PIDs: []int32{s.number("/pid")}}, func(r *control.CloneRequest) { r.Only = &control.Specialize{Keep: []string{"net:loopback"}} })
	wantCode(t, err, errdefs.RightsExceed)
	_, err = s.trySplit(&control.Split{PIDs: []int32{s.number("/pid")}, Share: 1})
	wantCode(t, err, errdefs.BudgetExhausted)
	was := s.number("/count")
	eventually(t, func() bool { return s.number("/count") > was+3 })
}

// What cannot leave does not, and nothing has happened.
func TestSplitRefused(t *testing.T) {
	s := counter(t)
	pid := s.number("/pid")
	for _, x := range []struct {
		split *control.Split
		code  errdefs.Code
	}{
		{&control.Split{}, errdefs.InvalidArgument},
		{&control.Split{PIDs: []int32{1}}, errdefs.InvalidArgument},
		{&control.Split{PIDs: []int32{pid, 1}}, errdefs.InvalidArgument},
		{&control.Split{PIDs: []int32{pid, 4711}}, errdefs.NotFound},
		{&control.Split{PIDs: []int32{-1}}, errdefs.NotFound},
		{&control.Split{PIDs: []int32{pid}, Share: 100}, errdefs.InvalidArgument},
	} {
		_, err := s.trySplit(x.split)
		wantCode(t, err, x.code)
	}
	s.pause()
	_, err := s.trySplit(&control.Split{PIDs: []int32{pid}})
	wantCode(t, err, errdefs.WrongState)
	s.resume()
	was := s.number("/count")
	eventually(t, func() bool { return s.number("/count") > was+3 })
	c := s.clone(1, func(r *control.CloneRequest) { r.Template = true })[0]
	_, err = c.trySplit(&control.Split{PIDs: []int32{pid}})
	wantCode(t, err, errdefs.WrongState)
}

// A pipe to a process that stays has ended in the new agent, and the other end there.
func TestSplitCutsPipes(t *testing.T) {
	if err := mergeImage(); err != nil {
		t.Fatal(err)
	}
	s := spawn(t, sh(`mkfifo /f; (exec 3>&-; cat <&4; echo over > /over; sleep 1000) 4</f & echo $! > /pid
		exec 3>/f; echo one >&3; echo ready; until [ -e /end ]; do usleep 5000; done; trap '' PIPE; echo two >&3 || echo broken; echo done > /done; sleep 1000`), func(r *control.SpawnRequest) { r.Root.Base = "merge" })
	s.expect("ready\n")
	c := s.split(s.number("/pid"))
	eventually(t, func() bool { return c.run("test -e /over") == "[0]" })
	s.do("touch /end")
	s.expect("broken\n")
}

// The kernel's first process, of which that of a new agent is made, runs meanwhile.
func TestSplitWhileTheKernelWorks(t *testing.T) {
	s := counter(t)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			default:
				theKernel.onPause(func(*kernel.Task) error { return nil })
			}
		}
	}()
	c := s.split(s.number("/pid"))
	close(end)
	<-ended
	c.do("touch /stop")
	if e := c.wait(); e.Code != 5 {
		t.Errorf("it ended with %+v", e)
	}
}

// What was split can be copied, and split again.
func TestSplitAgain(t *testing.T) {
	s := counter(t)
	pid := s.number("/pid")
	c := s.split(pid)
	d := c.clone(1)[0]
	was := d.number("/count")
	eventually(t, func() bool { return d.number("/count") > was+3 })
	e := d.split(pid)
	if x := d.wait(); x.Code != 0 {
		t.Errorf("what has nothing any more ended with %+v", x)
	}
	e.do("touch /stop")
	if x := e.wait(); x.Code != 5 {
		t.Errorf("it ended with %+v", x)
	}
}

// However a budget is divided, nobody has of it what another has.
func TestPortions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		left, rest := rapid.Uint64().Draw(t, "left"), rapid.Uint64Range(1, 64).Draw(t, "rest")
		used := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, left)).Draw(t, "used")
		percent := rapid.Uint64Range(0, 99).Draw(t, "percent")
		if percent > 0 {
			rest = 1
		}
		for whole := left; rest > 0; rest-- {
			part := portion(left, used, rest, percent)
			if part > left || part > 0 && left-part < min(used, whole) {
				t.Fatalf("of %d, of which %d are used, a part is %d", left, used, part)
			}
			if percent > 0 && float64(part) > float64(whole)*float64(percent)/100*(1+1e-9) {
				t.Fatalf("%d of %d are more than %d%%", part, whole, percent)
			}
			left -= part
		}
	})
}
