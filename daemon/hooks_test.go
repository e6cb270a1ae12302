package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/lifecycle"
	"aios.dev/aios/recovery"
)

// hookLines has a hook that writes down what it is given, and what reads that, a
// line for each call.
func hookLines(t testing.TB) (path string, read func() []string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	return script(t, "cat >>"+out+"\n"), func() (lines []string) {
		raw, _ := os.ReadFile(out)
		for line := range strings.Lines(string(raw)) {
			var m struct {
				Phase, Operation string
				Settled, Again   bool
				Caller           struct{ Name string }
				Outcome          *struct{ Done bool }
			}
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			text := m.Phase + " " + m.Operation + " by " + m.Caller.Name
			if m.Settled {
				text += " settled"
			}
			if m.Again {
				text += " again"
			}
			if m.Outcome != nil && !m.Outcome.Done {
				text += " failed"
			}
			lines = append(lines, text)
		}
		return lines
	}
}

// configure reads a configuration file and applies it.
func configure(t testing.TB, d *System, text string) {
	t.Helper()
	writeConfig(t, d, text)
	if _, err := d.ConfigReload(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
}

func TestHookSettings(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	good := script(t, "")
	one := func(name, command string) string {
		return "  - {name: " + name + ", on: [spawn], before: true, command: [" + command + "]}\n"
	}
	for text, want := range map[string]string{
		one("a", good) + one("a", good): `c:4:12: hooks[1].name: another hook has the name "a"`,
		one("a", good+"x"):              "c:3:51: hooks[0].command: stat " + good + "x: no such file",
		one("a", "true"):                "hooks[0].command: it is no program",
		one("a", "/"):                   "hooks[0].command: / is no program",
		"  - {name: a, on: [divide], before: true, command: [/bin/true]}": `c:3:20: hooks[0].on[0]: "divide" is no operation`,
		strings.Repeat(one("a", good), lifecycle.MaxHooks+1):              "hooks: 65 hooks are too many",
	} {
		writeConfig(t, d, "version: 1\nhooks:\n"+text)
		_, err := readSettings(d.paths)
		if err == nil {
			t.Errorf("taken: %s", text)
			continue
		}
		got := strings.Replace(err.Error(), d.paths.Config, "c", 1)
		if errdefs.CodeOf(err) != errdefs.ConfigInvalid || !strings.Contains(got, want) || errdefs.FixOf(err) == "" {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestHooksOfOperations: a hook hears all that is done, and one that refuses
// keeps it from being done.
func TestHooksOfOperations(t *testing.T) {
	d, k := adopted(t, ktime.Real)
	t.Cleanup(d.stopHooks)
	ctx := context.Background()
	listen, lines := hookLines(t)
	no := filepath.Join(t.TempDir(), "no")
	configure(t, d, `version: 1
hooks:
  - {name: listen, on: [spawn, kill, exit], before: true, after: true, command: [`+listen+`]}
  - {name: no, on: [spawn, kill], before: true, command: [`+script(t, "[ ! -e "+no+" ] || { echo not now >&2; exit 9; }")+`]}
`)
	heard := func(want ...string) {
		t.Helper()
		eventually(t, "it is told", func() bool { return len(lines()) >= len(want) })
		got := lines()
		slices.Sort(got) // A question may overtake a notice.
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("heard\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		}
		if err := os.Truncate(listenOut(t, listen), 0); err != nil {
			t.Fatal(err)
		}
	}
	refuse := func(on bool) {
		os.Remove(no)
		if on {
			if err := os.WriteFile(no, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}

	refuse(true)
	if _, err := d.Spawn(ctx, spawnRequest("web")); errdefs.CodeOf(err) != errdefs.HookVeto || !strings.Contains(err.Error(), "the hook no refuses it: not now") {
		t.Error(err)
	}
	if _, err := d.find("web"); err == nil || len(filesIn(t, d.paths.Agents)) != 0 {
		t.Error("something is left of it")
	}
	heard("before spawn by operator", "aborted spawn by operator failed")

	refuse(false)
	k.set(func() {
		k.spawn = func(control.SpawnRequest) error { return errdefs.New(errdefs.ProgramNotFound, "no") }
	})
	if _, err := d.Spawn(ctx, spawnRequest("web")); errdefs.CodeOf(err) != errdefs.ProgramNotFound {
		t.Error(err)
	}
	heard("before spawn by operator", "after spawn by operator failed")
	k.set(func() { k.spawn = nil })
	req := spawnRequest("web")
	req.Restart = &apiv1.RestartPolicy{When: restartAlways}
	resp, err := d.Spawn(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	heard("before spawn by operator", "after spawn by operator")

	// A kill that is refused changes nothing, not even whether it is started again.
	refuse(true)
	kill := &apiv1.SignalRequest{Agent: "web", Signal: 9}
	if _, err := d.Signal(ctx, kill); errdefs.CodeOf(err) != errdefs.HookVeto {
		t.Error(err)
	}
	k.quiet(t, call{control.MethodSignal, resp.GetId(), 9})
	if r, _ := d.find("web"); r.wish.proto().GetEnded() != "" {
		t.Error("it would not be started again")
	}
	heard("before kill by operator", "aborted kill by operator failed")
	if _, err := d.Signal(ctx, &apiv1.SignalRequest{Agent: "web", Signal: 10}); err != nil {
		t.Errorf("another signal: %v", err)
	}

	// What the kernel does itself is told.
	dom := d.liveDomains()[0]
	for _, by := range []string{"kernel", "operator"} { // The second is asked about where it is done.
		d.tellHooks(event.Event{Type: event.AgentKill, Agent: resp.GetId(), Domain: dom.name, Payload: &eventv1.AgentKill{By: by, Reason: "memory"}})
	}
	heard("after kill by kernel settled")
	// Its end, and that it is started again, which is asked about.
	refuse(false)
	k.ends(resp.GetId(), 0, control.Exit{Code: 5})
	eventually(t, "it is started again", func() bool { return len(lines()) >= 3 })
	heard("after exit by kernel settled", "before spawn by daemon again", "after spawn by daemon again")

	// Force is the operator's.
	refuse(true)
	asked := context.WithValue(ctx, bearerKey{}, &bearer{Authority: new(token.Authority)})
	if call, err := d.askBeforeKill(asked, "web", 9, true); errdefs.CodeOf(err) != errdefs.HookVeto {
		t.Error(call, err)
	}
	kill.Force = true
	if _, err := d.Signal(ctx, kill); err != nil {
		t.Error(err)
	}
	k.heard(t, call{control.MethodSignal, resp.GetId(), 9})

	if n := len(published(t, d, "hook.vetoed")); n != 3 {
		t.Errorf("%d events", n)
	}
	if err := d.trail.Sync(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for e, err := range audit.Query(d.trail.Dir(), audit.Filter{Ops: []string{"hook"}}) {
		if err != nil || e.Code != string(errdefs.HookVeto) || e.Reason != "no: not now" || e.Agent == "" {
			t.Errorf("%+v, %v", e, err)
		}
		n++
	}
	if n != 3 {
		t.Errorf("%d entries in the audit trail", n)
	}
}

// listenOut finds where a script of hookLines writes to.
func listenOut(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, out, _ := strings.Cut(string(raw), ">>")
	return strings.TrimSpace(out)
}

// TestHooksAreApplied: what has not changed goes on, what is gone is forgotten.
func TestHooksAreApplied(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	t.Cleanup(d.stopHooks)
	fails := script(t, "kill -9 $$")
	conf := func(name, more string) string {
		return "version: 1\nhooks:\n  - {name: " + name + ", on: [pause], before: true, command: [" + fails + "]" + more + "}\n"
	}
	r := newRecord("a00000000000a", spawnRequest("web"), "default", d.clock.Now())
	ask := func() error {
		c, err := d.askHooks(context.Background(), lifecycle.Pause, r, nil)
		c.Done(nil)
		return err
	}
	status := func() *apiv1.HookStatus {
		l, err := (&hooksService{d: d}).HookList(context.Background(), nil)
		if err != nil || len(l.GetHooks()) != 1 {
			t.Fatal(l, err)
		}
		return l.GetHooks()[0]
	}
	configure(t, d, conf("h", ""))
	for range recovery.DefaultFailures {
		if err := ask(); errdefs.CodeOf(err) != errdefs.HookFailed || !strings.Contains(err.Error(), "signal: killed") {
			t.Error(err)
		}
	}
	if err := ask(); !strings.Contains(err.Error(), "calls are not made for now") {
		t.Error(err)
	}
	if s := status(); s.GetBreaker() != "open" || s.GetFailures() != recovery.DefaultFailures+1 || d.health.Worst() != recovery.Degraded {
		t.Errorf("%v; %v", s, d.health.List())
	}
	if n := len(published(t, d, "hook.failed")); n != recovery.DefaultFailures {
		t.Errorf("%d events", n)
	}
	configure(t, d, conf("h", "")+"log: {format: json}\n")
	if s := status(); s.GetBreaker() != "open" {
		t.Errorf("it has not changed: %v", s)
	}
	configure(t, d, conf("h", ", on_failure: go-on"))
	if err := ask(); err != nil {
		t.Error(err)
	}
	if s := status(); s.GetBreaker() != "closed" || s.GetCalls() != recovery.DefaultFailures+2 {
		t.Errorf("it has changed: %v", s)
	}
	configure(t, d, conf("other", ""))
	if slices.ContainsFunc(d.health.List(), func(c recovery.Component) bool { return c.Name == "hook h" }) || status().GetCalls() != 0 {
		t.Errorf("%v; %v", d.health.List(), status())
	}
	configure(t, d, "version: 1\n")
	if d.hooks.registry.Load() != nil || ask() != nil || d.health.Worst() != recovery.OK {
		t.Errorf("%v", d.health.List())
	}
}

// TestHookNotices: of one agent all is told in order, its end after what has
// begun; too much is not told.
func TestHookNotices(t *testing.T) {
	var n hookNotices
	var mu sync.Mutex
	told := make(map[string][]int)
	gate := make(chan struct{})
	op := func(agent string) *lifecycle.Operation {
		return &lifecycle.Operation{Agent: lifecycle.Agent{ID: agent}}
	}
	tell := func(agent string, i int) func() {
		return func() {
			<-gate
			mu.Lock()
			defer mu.Unlock()
			told[agent] = append(told[agent], i)
		}
	}
	n.begin("a")
	n.begin("a")
	n.afterwards("a", func() { n.queue(op("a"), tell("a", 100)) })
	n.afterwards("b", func() { n.queue(op("b"), tell("b", 100)) })
	for i := range 10 {
		n.queue(op("a"), tell("a", i))
	}
	n.end("a")
	n.queue(op("a"), tell("a", 10))
	n.end("a")
	for i := range noticesWaiting {
		if ok := n.queue(op(fmt.Sprint(i%7)), tell("", 0)); ok != (i < noticesWaiting-13) {
			t.Fatalf("notice %d: %v", i, ok)
		}
	}
	close(gate)
	n.work.Wait()
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100}; !slices.Equal(told["a"], want) || len(told["b"]) != 1 || len(told[""]) != noticesWaiting-13 {
		t.Errorf("%v", told)
	}
	if len(n.agents) != 0 || n.waiting != 0 {
		t.Errorf("%v are left, %d wait", n.agents, n.waiting)
	}
	n.stop(ktime.Real)
	if !n.queue(op("a"), func() { t.Error("it is told after the end") }) {
		t.Error("that counts as a failure")
	}
	n.work.Wait()
}

// TestForceIsTheOperators: a token that extends to signals does not overrule hooks.
func TestForceIsTheOperators(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	tok := b.issue(t, func(c *token.Claims) { c.Ops, c.Agents = []string{"signal"}, []string{"own"} })
	mine := b.agent(t, "mine", func(r *record) { r.tokens = []token.ID{tok.ID()} })
	for _, force := range []bool{false, true} {
		_, err := b.bearing(t, tok.Text()).Signal(soon(t), &apiv1.SignalRequest{Agent: "mine", Signal: 9, Force: force})
		if force != (errdefs.CodeOf(err) == errdefs.Denied) || !force && !strings.Contains(err.Error(), "the handler was reached") {
			t.Errorf("with force %v: %v", force, err)
		}
	}
	if got, ok := b.last().(*apiv1.SignalRequest); !ok || got.GetAgent() != mine.id || got.GetForce() {
		t.Errorf("the handler got %v", got)
	}
}

// TestWithoutHooksNothingIsAsked nor allocated.
func TestWithoutHooksNothingIsAsked(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.NewFake(time.Unix(1, 0)))
	r := newRecord("a00000000000a", spawnRequest("web"), "default", d.clock.Now())
	ctx := context.Background()
	if n := testing.AllocsPerRun(100, func() {
		c, err := d.askHooks(ctx, lifecycle.Spawn, r, func(op *lifecycle.Operation) { op.Again = r.name != "" })
		if err != nil {
			t.Error(err)
		}
		c.Done(nil)
		d.tellExit(r, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
