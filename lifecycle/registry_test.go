package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

const hookTime = time.Second

// behaviour is what a hook of a test does.
type behaviour struct {
	before, after, aborted string // "": it has none
	policy                 Policy
	order                  int
	ops                    []Op
	prefix                 string // of the agents that it wants to hear of
}

// world has hooks of tests, and writes down what is called.
type world struct {
	clock *ktime.Fake
	stop  chan struct{}

	mu  sync.Mutex
	log []string // guarded by mu
}

func newWorld() *world {
	return &world{clock: ktime.NewFake(time.Unix(1000, 0)), stop: make(chan struct{})}
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *world) do(what string) error {
	switch what {
	case "veto":
		return Veto("since I say so")
	case "wrapped veto":
		return fmt.Errorf("deep down: %w", Veto("since I say so"))
	case "fail":
		return errors.New("broken")
	case "panic":
		panic("oh")
	case "hang": // And does not heed its context.
		w.clock.Advance(hookTime)
		<-w.stop
	}
	return nil
}

func (w *world) hook(name string, b behaviour) Hook {
	h := Hook{Name: name, Order: b.order, Ops: b.ops, OnFailure: b.policy, Timeout: hookTime}
	if b.prefix != "" {
		h.Chooses = func(op *Operation) bool { return strings.HasPrefix(op.Agent.Name, b.prefix) }
	}
	if b.before != "" {
		h.Before = func(_ context.Context, op *Operation) error {
			w.note("before %s %s", name, op.Op)
			return w.do(b.before)
		}
	}
	if b.after != "" {
		h.After = func(_ context.Context, op *Operation, err error) error {
			w.note("after %s %s %v", name, op.Op, err == nil)
			return w.do(b.after)
		}
	}
	if b.aborted != "" {
		h.Aborted = func(_ context.Context, op *Operation, _ error) error {
			w.note("aborted %s %s", name, op.Op)
			return w.do(b.aborted)
		}
	}
	return h
}

func (w *world) registry(t rapid.TB, hooks ...Hook) *Registry {
	t.Helper()
	r, err := New(Options{Clock: w.clock}, hooks...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRegistry(t *testing.T) {
	all := []Op{Spawn, Pause, Exit}
	yes := behaviour{before: "agree", after: "agree", aborted: "agree", ops: all}
	with := func(b behaviour, change func(*behaviour)) behaviour {
		change(&b)
		return b
	}
	fails := errors.New("it did not work")
	for _, tc := range []struct {
		name  string
		hooks map[string]behaviour
		op    Operation
		done  error
		code  errdefs.Code
		want  string
	}{
		{name: "in order, the same order by name", hooks: map[string]behaviour{
			"c": with(yes, func(b *behaviour) { b.order = -1 }), "b": yes, "a": yes, "d": with(yes, func(b *behaviour) { b.order = 7 })},
			op: Operation{Op: Spawn}, want: "before c, before a, before b, before d, after c true, after a true, after b true, after d true"},
		{name: "a veto ends it, and who agreed hears so, the last first", hooks: map[string]behaviour{
			"a": yes, "b": yes, "c": with(yes, func(b *behaviour) { b.before = "veto" }), "d": yes},
			op: Operation{Op: Spawn}, code: errdefs.HookVeto, want: "before a, before b, before c, aborted b, aborted a"},
		{name: "a veto in an error", hooks: map[string]behaviour{"a": with(yes, func(b *behaviour) { b.before = "wrapped veto" })},
			op: Operation{Op: Spawn}, code: errdefs.HookVeto, want: "before a"},
		{name: "a failure refuses", hooks: map[string]behaviour{"a": yes, "b": with(yes, func(b *behaviour) { b.before = "fail" })},
			op: Operation{Op: Spawn}, code: errdefs.HookFailed, want: "before a, before b, aborted a"},
		{name: "a failure is passed over, and has not agreed", hooks: map[string]behaviour{
			"a": with(yes, func(b *behaviour) { b.before, b.policy = "fail", GoOn }), "b": yes, "c": with(yes, func(b *behaviour) { b.before = "veto" })},
			op: Operation{Op: Spawn}, code: errdefs.HookVeto, want: "before a, before b, before c, aborted b"},
		{name: "a veto counts whatever the policy", hooks: map[string]behaviour{"a": with(yes, func(b *behaviour) { b.before, b.policy = "veto", GoOn })},
			op: Operation{Op: Spawn}, code: errdefs.HookVeto, want: "before a"},
		{name: "one that hangs refuses", hooks: map[string]behaviour{"a": with(yes, func(b *behaviour) { b.before = "hang" }), "b": yes},
			op: Operation{Op: Spawn}, code: errdefs.HookFailed, want: "before a"},
		{name: "one that hangs is passed over", hooks: map[string]behaviour{"a": with(yes, func(b *behaviour) { b.before, b.policy = "hang", GoOn }), "b": yes},
			op: Operation{Op: Spawn}, want: "before a, before b, after a true, after b true"},
		{name: "one that panics refuses", hooks: map[string]behaviour{"a": with(yes, func(b *behaviour) { b.before = "panic" })},
			op: Operation{Op: Spawn}, code: errdefs.HookFailed, want: "before a"},
		{name: "notices that fail, hang and panic change nothing", hooks: map[string]behaviour{
			"a": with(yes, func(b *behaviour) { b.after = "hang" }), "b": with(yes, func(b *behaviour) { b.after = "panic" }), "c": with(yes, func(b *behaviour) { b.after = "fail" }), "d": yes},
			op: Operation{Op: Spawn}, want: "before a, before b, before c, before d, after a true, after b true, after c true, after d true"},
		{name: "what failed is told", hooks: map[string]behaviour{"a": yes, "b": with(yes, func(b *behaviour) { b.after = "" }), "c": with(yes, func(b *behaviour) { b.before = "" }),
			"d": with(yes, func(b *behaviour) { b.after = "" })},
			op: Operation{Op: Spawn}, done: fails, want: "before a, before b, before d, after a false, after c false, aborted d, aborted b"},
		{name: "what is settled is told only", hooks: map[string]behaviour{"a": with(yes, func(b *behaviour) { b.before = "veto" })},
			op: Operation{Op: Spawn, Settled: true}, want: "after a true"},
		{name: "an end is told only", hooks: map[string]behaviour{"a": with(yes, func(b *behaviour) { b.before = "veto" })},
			op: Operation{Op: Exit}, want: "after a true"},
		{name: "who does not hear of it", hooks: map[string]behaviour{"a": with(yes, func(b *behaviour) { b.ops = []Op{Kill} }), "b": with(yes, func(b *behaviour) { b.prefix = "web" })},
			op: Operation{Op: Spawn, Agent: Agent{Name: "db"}}, want: ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld()
			defer close(w.stop)
			var hooks []Hook
			for name, b := range tc.hooks {
				hooks = append(hooks, w.hook(name, b))
			}
			r := w.registry(t, hooks...)
			c, err := r.Begin(context.Background(), &tc.op)
			if (err == nil) != (tc.code == "") || err != nil && (errdefs.CodeOf(err) != tc.code || errdefs.FixOf(err) == "" || c != nil) {
				t.Fatalf("%v, %v", c, err)
			}
			c.Done(tc.done)
			c.Done(nil)
			got := strings.ReplaceAll(strings.Join(w.log, ", "), " "+string(tc.op.Op), "")
			if got != tc.want {
				t.Errorf("called: %s\nwant:   %s", got, tc.want)
			}
		})
	}
}

// TestRegistryModel: whatever hooks do, exactly those are called that should be,
// in the order in which they should be.
func TestRegistryModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		defer close(w.stop)
		names := []string{"a", "b", "c", "d", "e"}
		behave := map[string]behaviour{}
		for _, name := range rapid.Permutation(names).Draw(t, "names")[:rapid.IntRange(0, len(names)).Draw(t, "hooks")] {
			does := rapid.SampledFrom([]string{"", "agree", "agree", "agree", "veto", "fail", "panic", "hang"})
			tells := rapid.SampledFrom([]string{"", "agree", "agree", "fail", "panic", "hang"})
			behave[name] = behaviour{
				before: does.Draw(t, "before"), after: tells.Draw(t, "after"), aborted: tells.Draw(t, "aborted"),
				policy: rapid.SampledFrom([]Policy{Refuse, GoOn, ""}).Draw(t, "policy"), order: rapid.IntRange(-1, 1).Draw(t, "order"),
				ops:    rapid.SliceOfN(rapid.SampledFrom([]Op{Spawn, Pause, Exit}), 0, 3).Draw(t, "ops"),
				prefix: rapid.SampledFrom([]string{"", "", "x"}).Draw(t, "prefix"),
			}
		}
		var hooks []Hook
		for name, b := range behave {
			hooks = append(hooks, w.hook(name, b))
		}
		r := w.registry(t, hooks...)
		for range rapid.IntRange(1, 4).Draw(t, "operations") {
			op := &Operation{
				Op:      rapid.SampledFrom([]Op{Spawn, Pause, Exit, Kill}).Draw(t, "op"),
				Agent:   Agent{Name: rapid.SampledFrom([]string{"", "x1", "y1"}).Draw(t, "agent")},
				Settled: rapid.IntRange(0, 4).Draw(t, "settled") == 0,
			}
			var outcome error
			if rapid.Bool().Draw(t, "it fails") {
				outcome = errors.New("it did not work")
			}
			w.log = nil
			c, err := r.Begin(context.Background(), op)
			c.Done(outcome)
			c.Done(nil)
			want, code := expected(behave, op, outcome)
			if !slices.Equal(w.log, want) || (err == nil) != (code == "") || err != nil && errdefs.CodeOf(err) != code {
				t.Fatalf("%+v, outcome %v, of %+v\ncalled %v\nwant   %v\nerror %v, want %s", op, outcome, behave, w.log, want, err, code)
			}
		}
	})
}

// expected is the model: the calls of one operation, and the code of its refusal.
func expected(behave map[string]behaviour, op *Operation, outcome error) (log []string, code errdefs.Code) {
	var order, agreed []string
	for name, b := range behave {
		if slices.Contains(b.ops, op.Op) && strings.HasPrefix(op.Agent.Name, b.prefix) {
			order = append(order, name)
		}
	}
	slices.SortFunc(order, func(a, b string) int {
		if d := behave[a].order - behave[b].order; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	say := func(phase, name string) string { return phase + " " + name + " " + string(op.Op) }
	if !op.Settled && op.Op != Exit {
		for _, name := range order {
			b := behave[name]
			if b.before == "" {
				continue
			}
			log = append(log, say("before", name))
			switch {
			case b.before == "agree":
				agreed = append(agreed, name)
				continue
			case b.before == "veto":
				code = errdefs.HookVeto
			case b.policy != GoOn:
				code = errdefs.HookFailed
			}
			if code != "" {
				break
			}
		}
	}
	if code == "" {
		for _, name := range order {
			if behave[name].after != "" {
				log = append(log, say("after", name)+fmt.Sprintf(" %v", outcome == nil))
			}
		}
	}
	for _, name := range slices.Backward(agreed) {
		b := behave[name]
		if b.aborted != "" && (code != "" || outcome != nil && b.after == "") {
			log = append(log, say("aborted", name))
		}
	}
	return log, code
}

// TestRegistryAtOnce: what is counted adds up when all happens at once, and what
// is told of one agent is in order where notices are delivered in order.
func TestRegistryAtOnce(t *testing.T) {
	var told, aborted, asked atomic.Int64
	hooks := []Hook{
		{Name: "some", Ops: []Op{Spawn}, Before: func(_ context.Context, op *Operation) error {
			asked.Add(1)
			if op.Signal%3 == 0 {
				return Veto("every third")
			}
			return nil
		}},
		{Name: "first", Order: -1, Ops: []Op{Spawn}, Before: func(context.Context, *Operation) error { return nil },
			After:   func(context.Context, *Operation, error) error { told.Add(1); return nil },
			Aborted: func(context.Context, *Operation, error) error { aborted.Add(1); return nil }},
	}
	r, err := New(Options{Clock: ktime.Real}, hooks...)
	if err != nil {
		t.Fatal(err)
	}
	const each, workers = 300, 8
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				if c, err := r.Begin(context.Background(), &Operation{Op: Spawn, Signal: int32(i)}); err == nil {
					c.Done(nil)
				} else if errdefs.CodeOf(err) != errdefs.HookVeto {
					t.Error(err)
				}
				_ = r.Status()
			}
		})
	}
	wg.Wait()
	const all, vetoes = each * workers, each * workers / 3
	if asked.Load() != all || told.Load() != all-vetoes || aborted.Load() != vetoes {
		t.Errorf("%d were asked, %d told, %d aborted", asked.Load(), told.Load(), aborted.Load())
	}
	next, err := New(Options{Clock: ktime.Real, Before: r}, hooks[0])
	if err != nil {
		t.Fatal(err)
	}
	st := append(r.Status(), next.Status()...)
	if len(st) != 3 || st[0].Name != "first" || st[0].Calls != 2*all-vetoes+vetoes || st[1].Vetoes != vetoes || st[1].Took.Count != all || st[2].Vetoes != vetoes {
		t.Errorf("%+v", st)
	}
}

// TestReports: every call is reported, and failures are kept.
func TestReports(t *testing.T) {
	w := newWorld()
	defer close(w.stop)
	var reports []Report
	r, err := New(Options{Clock: w.clock, OnReport: func(rep Report) { reports = append(reports, rep) }},
		w.hook("a", behaviour{before: "agree", aborted: "fail", ops: []Op{Pause}}),
		w.hook("b", behaviour{before: "hang", ops: []Op{Pause}, policy: Refuse}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Begin(context.Background(), &Operation{Op: Pause, Agent: Agent{ID: "i", Name: "web"}})
	if err == nil || !strings.Contains(err.Error(), "pause web: the hook b, ") || !strings.Contains(err.Error(), "did not return within 1s") {
		t.Error(err)
	}
	if len(reports) != 3 || reports[0].Err != nil || !reports[1].Refused || !reports[1].Failed() || reports[1].Took != hookTime ||
		reports[2].Phase != Aborted || !reports[2].Failed() {
		t.Errorf("%+v", reports)
	}
	st := r.Status()
	if st[0].Calls != 2 || st[0].Failures != 1 || st[1].Failures != 1 || st[1].Took.Max != hookTime || st[1].LastErr == nil || !st[1].LastAt.Equal(w.clock.Now()) {
		t.Errorf("%+v", st)
	}
}

// TestCallerGivesUp: then nothing is done, and it is nobody's failure.
func TestCallerGivesUp(t *testing.T) {
	w := newWorld()
	defer close(w.stop)
	ctx, cancel := context.WithCancel(context.Background())
	slow := Hook{Name: "b", Ops: []Op{Spawn}, OnFailure: GoOn, Before: func(ctx context.Context, _ *Operation) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}}
	r := w.registry(t, w.hook("a", behaviour{before: "agree", aborted: "agree", ops: []Op{Spawn}}), slow, w.hook("c", behaviour{before: "agree", ops: []Op{Spawn}}))
	if _, err := r.Begin(ctx, &Operation{Op: Spawn}); errdefs.CodeOf(err) != errdefs.Cancelled {
		t.Error(err)
	}
	if got := strings.Join(w.log, ", "); got != "before a spawn, aborted a spawn" {
		t.Error(got)
	}
	if st := r.Status(); st[1].Failures != 0 {
		t.Errorf("%+v", st[1])
	}
}

// TestWithoutHooks: there is no registry then, and nothing allocates.
func TestWithoutHooks(t *testing.T) {
	r, err := New(Options{Clock: ktime.Real})
	if r != nil || err != nil {
		t.Fatal(r, err)
	}
	op := &Operation{Op: Spawn}
	if n := testing.AllocsPerRun(100, func() {
		c, err := r.Begin(context.Background(), op)
		if err != nil || r.Hears(Spawn) {
			t.Error(err)
		}
		c.Done(nil)
		r.Tell(op)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if _, err := New(Options{Clock: ktime.Real}, Hook{Name: "a"}, Hook{Name: "a"}); errdefs.CodeOf(err) != errdefs.AlreadyExists {
		t.Error(err)
	}
	if _, err := New(Options{Clock: ktime.Real}, Hook{Name: "a", Ops: []Op{"teleport"}}); errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Error(err)
	}
}
