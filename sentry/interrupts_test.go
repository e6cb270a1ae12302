package sentry

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/irq"
)

// eventsOf returns a function that waits for the next event of an agent.
func eventsOf[P event.Payload](t *testing.T, s *spawned, topic string) func() P {
	t.Helper()
	sub, err := theKernel.events.Subscribe(event.Options{Name: "test", Topics: []string{topic}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sub.Close(nil) })
	return func() (p P) {
		t.Helper()
		eventually(t, func() bool {
			for {
				e, ok := sub.TryNext()
				if !ok {
					return false
				}
				if e.Agent == s.id {
					p = e.Payload.(P)
					return true
				}
			}
		})
		return p
	}
}

func setLine(t testing.TB, req control.SetInterruptsRequest) {
	t.Helper()
	if _, err := theKernel.SetInterrupts(req); err != nil {
		t.Fatal(err)
	}
}

// boundAt gives a line another bound while the test runs.
func boundAt(t testing.TB, line irq.Line, n uint64) {
	t.Helper()
	setLine(t, control.SetInterruptsRequest{Line: line.String(), Limit: &n})
	t.Cleanup(func() {
		was := line.Info().Limit
		setLine(t, control.SetInterruptsRequest{Line: line.String(), Limit: &was})
	})
}

func masked(t testing.TB, line irq.Line, on bool) {
	t.Helper()
	setLine(t, control.SetInterruptsRequest{Line: line.String(), Mask: &on})
}

// procInterruptsOf reads /proc/interrupts of an agent, as sums.
func procInterruptsOf(t *testing.T, s *spawned) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	lines := strings.Split(strings.TrimSpace(mustRun(t, s, "cat /proc/interrupts")), "\n")
	cpus := len(strings.Fields(lines[0]))
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		var sum uint64
		for _, n := range f[1 : 1+min(cpus, len(f)-1)] {
			v, err := strconv.ParseUint(n, 10, 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			sum += v
		}
		name := f[0]
		if len(f) > cpus+3 && f[cpus+1] == "AIOS" {
			name = f[len(f)-1]
		}
		out[name] = sum
	}
	return out
}

// TestProcInterrupts has programs cause interrupts, and sees them inside, and
// those of others not.
func TestProcInterrupts(t *testing.T) {
	s, other := spawn(t, []string{"sleep", "1000"}), spawn(t, []string{"sleep", "1000"})
	before := procInterruptsOf(t, other)
	mustRun(t, s, "for i in 1 2 3; do usleep 1000; done; (echo hello | nc -l -p 7 >/dev/null) & usleep 200000; echo x | nc -w 1 127.0.0.1 7 >/dev/null; wait")
	got := procInterruptsOf(t, s)
	if got["timer"] < 4 || got["net-rx"] < 6 || got["console"] == 0 || got["control"] != 0 || got["signal"] != 0 || got["NMI:"] != 0 || got["ERR:"] != 0 {
		t.Errorf("inside: %v", got)
	}
	if _, ok := got["RES:"]; !ok {
		t.Errorf("inside: %v", got)
	}
	after := procInterruptsOf(t, other)
	if after["net-rx"] != before["net-rx"] || after["timer"] != before["timer"] {
		t.Errorf("another agent sees %v, and before %v", after, before)
	}
	if n := strings.Count(mustRun(t, s, "ls /proc"), "interrupts\n"); n != 1 {
		t.Errorf("/proc lists it %d times", n)
	}
	for _, line := range strings.Split(mustRun(t, s, "cat /proc/stat"), "\n") {
		if rest, ok := strings.CutPrefix(line, "intr "); ok {
			if f := strings.Fields(rest); len(f) != 6 || f[0] == "0" || f[4] == "0" {
				t.Errorf("/proc/stat: %q", line)
			}
		}
	}
	all, err := theKernel.Interrupts(control.InterruptsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := theKernel.Interrupts(control.InterruptsRequest{Agent: s.id})
	if err != nil {
		t.Fatal(err)
	}
	sum := func(n []uint64) (s uint64) { return irq.Fold(n, 1)[0] }
	net := int(irq.NetRx)
	if sum(all.Lines[net].Counts) < sum(own.Lines[net].Counts) || sum(own.Lines[net].Counts) < got["net-rx"] {
		t.Errorf("of all %v, of one %v, inside %v", all.Lines[net].Counts, own.Lines[net].Counts, got)
	}
	if l := all.Lines[irq.Timer]; l.Late == 0 || l.Max <= 0 {
		t.Errorf("%+v", l)
	}
	if _, err := theKernel.Interrupts(control.InterruptsRequest{Agent: "nobody"}); errdefs.CodeOf(err) != errdefs.AgentNotFound {
		t.Errorf("of nobody: %v", err)
	}
}

// timersImage makes the image "timers" known, once: it has the program that is in
// testdata/timers.c.
var timersImage = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "aios-timers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "timers", func(root string) error {
		for _, d := range []string{"bin", "proc", "sys", "dev", "tmp"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		out, err := exec.Command("gcc", "-O1", "-static", "-o", filepath.Join(root, "bin", "timers"), "testdata/timers.c").CombinedOutput()
		if err != nil {
			return fmt.Errorf("gcc: %w: %s", err, out)
		}
		return nil
	})
})

func timers(t *testing.T, what string) *spawned {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("it needs gcc")
	}
	if err := timersImage(); err != nil {
		t.Fatal(err)
	}
	return spawn(t, []string{"/bin/timers", what}, func(r *control.SpawnRequest) { r.Root.Base = "timers" })
}

// TestTimersThatAreInterrupts: each way to wait until the time is up counts once,
// and a wait that something else ends does not.
func TestTimersThatAreInterrupts(t *testing.T) {
	s := timers(t, "pause")
	for _, tc := range []struct {
		what string
		want uint64
	}{
		{"nanosleep", 1}, {"clock_nanosleep", 1}, {"abstime", 1}, {"past", 0}, {"poll", 1}, {"poll0", 0}, {"ppoll", 1}, {"select", 1}, {"pselect", 1},
		{"epoll", 1}, {"futex", 1}, {"pollready", 0},
	} {
		before := irq.Fold(theKernel.findAgent(s.id).irq.Counts(irq.Timer), 1)[0]
		if out, errout, exit := s.execIn([]string{"/bin/timers", tc.what}).output(); exit.Code != 0 || out+errout != "" {
			t.Fatalf("%s: %q %q %+v", tc.what, out, errout, exit)
		}
		if got := irq.Fold(theKernel.findAgent(s.id).irq.Counts(irq.Timer), 1)[0] - before; got != tc.want {
			t.Errorf("%s: %d interrupts, want %d", tc.what, got, tc.want)
		}
	}
}

// TestMaskedConsole: what is written while the line is masked comes later, or when
// the program ends; it is never lost.
func TestMaskedConsole(t *testing.T) {
	s := spawn(t, sh("read x; echo $x; sleep 1000"), withStdin)
	masked(t, irq.Console, true)
	t.Cleanup(func() { masked(t, irq.Console, false) })
	s.send("hello\n")
	eventually(t, func() bool { return theKernel.irq.States()[irq.Console].Pending > 0 })
	if out, _ := readLog(t, s.log); strings.Contains(out, "hello") {
		t.Errorf("masked: %q", out)
	}
	if out := mustRun(t, s, "echo other"); out != "other\n" {
		t.Errorf("a program that ends while its output is masked: %q", out)
	}
	masked(t, irq.Console, false)
	s.expect("hello")
	if theKernel.irq.States()[irq.Console].Pending != 0 {
		t.Error("it is still pending")
	}
}

// TestMaskedNetwork: packets wait.
func TestMaskedNetwork(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	listens := eventsOf[*eventv1.NetListen](t, s, "net.listen")
	server := s.execIn(sh("sleep 1000 | nc -l -p 7")) // Without input it would end the connection first.
	listens()
	masked(t, irq.NetRx, true)
	t.Cleanup(func() { masked(t, irq.NetRx, false) })
	client := s.execIn(sh("echo through | nc 127.0.0.1 7"))
	eventually(t, func() bool { return theKernel.irq.States()[irq.NetRx].Pending > 0 })
	if out, _ := readLog(t, s.log); strings.Contains(out, "through") {
		t.Error("it came while the line was masked")
	}
	masked(t, irq.NetRx, false)
	server.expect("through")
	client.output()
}

// TestConsoleStorm: output in tiny pieces is collected, and whole.
func TestConsoleStorm(t *testing.T) {
	boundAt(t, irq.Console, 50)
	const lines = 1500
	s := spawn(t, sh(fmt.Sprintf("read x; i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); done; echo end; sleep 1000", lines)), withStdin)
	storm, throttle := eventsOf[*eventv1.IRQStorm](t, s, "irq.storm"), eventsOf[*eventv1.IRQThrottle](t, s, "irq.throttle")
	s.send("go\n")
	out := s.expect("end")
	for i, line := range strings.Split(strings.TrimSuffix(out, "end\n"), "\n")[:lines] {
		if line != strconv.Itoa(i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if p := storm(); p.Name != "console" || p.PerSecond <= 50 || p.Limit != 50 {
		t.Errorf("%+v", p)
	}
	if p := throttle(); p.Name != "console" || p.Lifted {
		t.Errorf("%+v", p)
	}
	if p := throttle(); !p.Lifted || p.Deferred == 0 || p.Lasted < int64(time.Second) {
		t.Errorf("%+v", p)
	}
	st := theKernel.irq.States()[irq.Console]
	if st.Storms == 0 || len(st.Stormy) != 0 {
		t.Errorf("%+v", st)
	}
}

// TestTimerStorm: sleeps end together, on the tick.
func TestTimerStorm(t *testing.T) {
	boundAt(t, irq.Timer, 100)
	s := timers(t, "storm")
	storm, throttle := eventsOf[*eventv1.IRQStorm](t, s, "irq.storm"), eventsOf[*eventv1.IRQThrottle](t, s, "irq.throttle")
	if p := storm(); p.Name != "timer" || p.PerSecond <= 100 {
		t.Errorf("%+v", p)
	}
	throttle()
	src := theKernel.findAgent(s.id).irq
	before, began := irq.Fold(src.Counts(irq.Timer), 1)[0], time.Now()
	time.Sleep(300 * time.Millisecond)
	n := irq.Fold(src.Counts(irq.Timer), 1)[0] - before
	if most := uint64(time.Since(began)/time.Millisecond) + 2; n > most || n == 0 {
		t.Errorf("%d sleeps of a microsecond ended, at most %d ticks were", n, most)
	}
}

func TestHostSignals(t *testing.T) {
	before := theKernel.irq.States()[irq.Signal]
	theKernel.HostSignal(unix.SIGWINCH)
	eventually(t, func() bool { return strings.Contains(theLog.about("the host sent a signal"), "SIGWINCH") })
	after := theKernel.irq.States()[irq.Signal]
	if irq.Fold(after.OnCPU, 1)[0] != irq.Fold(before.OnCPU, 1)[0]+1 || after.Latency.Count != before.Latency.Count+1 {
		t.Errorf("%+v", after)
	}
	masked(t, irq.Signal, true)
	for range 3 {
		theKernel.HostSignal(unix.SIGUSR2)
	}
	if strings.Contains(theLog.about("the host sent a signal"), "SIGUSR2") {
		t.Error("it is seen while it is masked")
	}
	masked(t, irq.Signal, false)
	eventually(t, func() bool { return strings.Contains(theLog.about("the host sent a signal"), "SIGUSR2") })
	if n := strings.Count(theLog.about("the host sent a signal"), "SIGUSR2"); n != 1 {
		t.Errorf("it is seen %d times", n)
	}
}

// TestCallsAreCounted: a program that computes and is paused was called.
func TestCallsAreCounted(t *testing.T) {
	s := spawn(t, sh("while :; do :; done"))
	src := theKernel.findAgent(s.id).irq
	eventually(t, func() bool {
		s.pause()
		s.resume()
		return irq.Fold(src.Counts(irq.Call), 1)[0] > 0
	})
	if l := theKernel.irq.States()[irq.Call].Latency; l.Count == 0 {
		t.Errorf("%+v", l)
	}
}

func TestLinesThatCannotBeSet(t *testing.T) {
	yes, all, ten, limit := true, "all", 10, uint64(1)
	for _, tc := range []struct {
		req  control.SetInterruptsRequest
		want string
	}{
		{control.SetInterruptsRequest{Line: "nosuch", Mask: &yes}, "the lines are: timer"},
		{control.SetInterruptsRequest{Line: "timer", Mask: &yes}, "console, net-rx, signal"},
		{control.SetInterruptsRequest{Line: "timer", CPUs: &all}, "net-rx, signal"},
		{control.SetInterruptsRequest{Line: "net-rx", Priority: &ten}, "from 0"},
		{control.SetInterruptsRequest{Line: "nmi", Limit: &limit}, "timer, control"},
	} {
		if _, err := theKernel.SetInterrupts(tc.req); !strings.Contains(errdefs.FixOf(err), tc.want) {
			t.Errorf("%+v: %v, fix %q", tc.req, err, errdefs.FixOf(err))
		}
	}
}

// TestSamplesOfAgents: what is told only while somebody asks for it.
func TestSamplesOfAgents(t *testing.T) {
	s := spawn(t, sh("while :; do read x </dev/null; (:); done"))
	faults := eventsOf[*eventv1.MemoryFaults](t, s, "memory.faults")
	first, second := faults(), faults()
	if first.Faults == 0 || first.Interval < int64(faultsEvery) || first.PerSecond <= 0 || second.Total != first.Total+second.Faults {
		t.Errorf("%+v, then %+v", first, second)
	}

	n := spawn(t, []string{"sleep", "1000"})
	packet := eventsOf[*eventv1.NetPacket](t, n, "net.packet")
	mustRun(t, n, "nc -w 1 127.0.0.1 9 </dev/null >/dev/null 2>&1; :")
	if p := packet(); p.Direction != "out" || p.Flags != "SYN" || p.To != "127.0.0.1:9" || p.Network != "ipv4" || p.Protocol != "tcp" || p.Interface != "lo" || p.Sampled != 1 {
		t.Errorf("%+v", p)
	}
	if p := packet(); p.Direction != "in" || p.Flags != "SYN" {
		t.Errorf("%+v", p)
	}
	if p := packet(); p.From != "127.0.0.1:9" || p.Flags != "RST|ACK" {
		t.Errorf("%+v", p)
	}
}

// TestThrottlingIsTold: soon after it began, and for as long as it lasts seldom.
func TestThrottlingIsTold(t *testing.T) {
	s := spawn(t, sh("read x; while :; do :; done"), withStdin, instead("cpu:self,cpu=0.1"))
	throttled := eventsOf[*eventv1.CPUThrottled](t, s, "cpu.throttled")
	s.send("go\n")
	p := throttled()
	if p.Quota != 100 || p.Throttled <= 0 || p.Throttled != p.ThrottledTotal || p.Interval < int64(throttleSoon) || p.Throttled > p.Interval*3/2 {
		t.Errorf("%+v", p)
	}
}
