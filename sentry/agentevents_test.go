package sentry

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/ctlfs"
	"aios.dev/aios/sentry/ctlfs/command"
)

// listens spawns an agent that does nothing, with the grants.
func listens(t testing.TB, grants ...string) *Agent {
	t.Helper()
	s := spawn(t, []string{"sleep", "1000"}, granted(append([]string{"mem:self", "proc:self", "cpu:self", "io:self"}, grants...)...))
	return agentUnderTest(t, s.id)
}

// tryWatch listens through the door, as an open file does.
func tryWatch(a *Agent, line string) (ctlfs.Watch, error) {
	want, err := command.ParseWatch(line)
	if err != nil {
		return nil, err
	}
	return ctlAuthority{theKernel}.Watch(a.id, want, func() {})
}

func mustWatch(t testing.TB, a *Agent, line string) ctlfs.Watch {
	t.Helper()
	w, err := tryWatch(a, line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	t.Cleanup(w.Close)
	return w
}

// settleBus waits until everything that was published is with its subscribers. After
// a flood there may be no room for what it publishes to know that.
func settleBus(t testing.TB) {
	t.Helper()
	sub, err := theKernel.events.Subscribe(event.Options{Topics: []string{"daemon.stop"}})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close(nil)
	for range 600 {
		theKernel.events.Publish(event.Event{Type: event.DaemonStop})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err = sub.Next(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	t.Fatal(err)
}

// heard returns what a watch gets of what is published about agents: their
// IDs' names in the test, with the topic.
func heard(t testing.TB, w ctlfs.Watch, names map[string]string) string {
	t.Helper()
	settleBus(t)
	var out []string
	batch := make([]event.Event, 64)
	for {
		n, err := w.Read(batch)
		if err != nil {
			return errdefs.CodeOf(err).Error()
		}
		if n == 0 {
			return strings.Join(out, " ")
		}
		for _, e := range batch[:n] {
			if name, ours := names[e.Agent]; ours && e.Correlation == "test" {
				out = append(out, e.Topic()+"@"+name)
			}
		}
	}
}

func tellOf(types []event.Type, agents ...string) {
	for _, typ := range types {
		for _, a := range agents {
			theKernel.events.Publish(event.Event{Type: typ, Agent: a, Correlation: "test"})
		}
	}
}

func mintFor(t testing.TB, a *Agent, spec string) control.Cap {
	t.Helper()
	got, err := theKernel.CapGrant(control.GrantRequest{ID: a.id, Grants: grants(spec)})
	if err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	return got.Caps[0]
}

// TestWhoHearsWhat publishes events of three agents and of the domain, and looks
// at what each of several capabilities lets through.
func TestWhoHearsWhat(t *testing.T) {
	one, two, three := listens(t), listens(t), listens(t)
	names := map[string]string{one.id: "1", two.id: "2", three.id: "3", "": "domain"}
	types := []event.Type{event.AgentPause, event.NetListen, event.SecurityViolation, event.DomainStart}
	for _, test := range []struct {
		grants []string
		line   string
		want   string // "" : it is refused
	}{
		{[]string{"event:*@self"}, "", "agent.pause@1 net.listen@1 domain.start@1"},
		{[]string{"event:agent.*@self"}, "topics=*", "agent.pause@1"},
		{[]string{"event:*@self"}, "topics=security.violation", ""},
		{[]string{"event:*@self"}, "topics=net.listen@self", "net.listen@1"},
		{[]string{"event:*@self"}, "topics=net.listen@" + two.id, ""},
		{[]string{"event:net.*@" + two.id}, "topics=net.listen@" + two.id, "net.listen@2"},
		{[]string{"event:net.*@" + two.id}, "topics=agent.pause", ""},
		{[]string{"event:net.*@" + two.id}, "topics=net.*@self", ""},
		{[]string{"event:net.*@" + two.id, "event:agent.*@self"}, "", "agent.pause@1 net.listen@2"},
		{[]string{"event:*"}, "topics=agent.pause,net.listen", "agent.pause@1 agent.pause@2 agent.pause@3 agent.pause@domain net.listen@1 net.listen@2 net.listen@3 net.listen@domain"},
		{[]string{"event:*"}, "topics=security.violation", "security.violation@2 security.violation@3 security.violation@domain"},
		{[]string{"event:*"}, "topics=security.violation@self", ""},
		{[]string{"event:domain.*"}, "", "domain.start@1 domain.start@2 domain.start@3 domain.start@domain"},
		{[]string{"event:*"}, "topics=agent.pause severity=critical", "-"},
		{nil, "", ""},
	} {
		for _, c := range theKernel.space.List(one.id) {
			if c.Object().Class == abi.ClassEvent {
				takeBack(t, c.ID())
			}
		}
		for _, g := range test.grants {
			mintFor(t, one, g)
		}
		w, err := tryWatch(one, test.line)
		if err != nil {
			if test.want != "" || errdefs.CodeOf(err) != errdefs.CapabilityDenied {
				t.Errorf("%q, %q: %v", test.grants, test.line, err)
			}
			continue
		}
		tellOf(types, one.id, two.id, three.id, "")
		if got := heard(t, w, names); got != strings.Trim(test.want, "-") || test.want == "" {
			t.Errorf("%q, %q: heard %q, want %q", test.grants, test.line, got, test.want)
		}
		w.Close()
	}
}

// TestWithheldAlsoFromDelegates: what an agent is not told about itself it does
// not get by handing its capability to another, nor from another.
func TestWithheldAlsoFromDelegates(t *testing.T) {
	one, two := listens(t), listens(t)
	names := map[string]string{one.id: "1", two.id: "2"}
	types := []event.Type{event.AgentPause, event.SecurityViolation, event.FaultVerdict, event.KernelPanic, event.KernelLog}
	own := mintFor(t, one, "event:*@self")
	if _, err := theKernel.CapDelegate(control.CapRequest{Cap: own.ID, To: two.id}); err != nil {
		t.Fatal(err)
	}
	w := mustWatch(t, two, "topics=*@"+one.id)
	tellOf(types, one.id)
	if got := heard(t, w, names); got != "agent.pause@1" {
		t.Errorf("through the agent's own: %q", got)
	}
	wide := mintFor(t, two, "event:*")
	back, err := theKernel.CapDelegate(control.CapRequest{Cap: wide.ID, To: one.id})
	if err != nil {
		t.Fatal(err)
	}
	w = mustWatch(t, one, "topics=*")
	tellOf(types, one.id, two.id)
	if got := heard(t, w, names); strings.Contains(got, "security.violation@1") || strings.Contains(got, "security.violation@2") || !strings.Contains(got, "agent.pause@2") {
		t.Errorf("through another's: %q", got)
	}
	if !strings.HasSuffix(back.Spec, "event:*") {
		t.Errorf("delegated %s", back.Spec)
	}
	w = mustWatch(t, two, "topics=security.violation@"+one.id)
	tellOf(types, one.id)
	if got := heard(t, w, names); got != "security.violation@1" {
		t.Errorf("with a grant of the operator, beside the agent's own: %q", got)
	}
}

// TestWatchEndsWithItsCapability in each way that one ends.
func TestWatchEndsWithItsCapability(t *testing.T) {
	one, two := listens(t, "event:*@self"), listens(t)
	names := map[string]string{one.id: "1", two.id: "2"}
	sub, err := theKernel.events.Subscribe(event.Options{Topics: []string{"bus.unsubscribe"}, Agents: []string{one.id}})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close(nil)
	for name, test := range map[string]struct {
		end  func(c control.Cap)
		code errdefs.Code // "" : it goes on
		says string
	}{
		"revoked": {func(c control.Cap) { takeBack(t, c.ID) }, errdefs.CapabilityRevoked, "revoked"},
		"narrowed": {func(c control.Cap) {
			if _, err := theKernel.CapAttenuate(control.CapRequest{Cap: c.ID, Change: capability.Change{Object: ptr("agent.exit@" + two.id)}}); err != nil {
				t.Error(err)
			}
		}, errdefs.CapabilityRevoked, "narrowed to event:agent.exit@"},
		"moved": {func(c control.Cap) {
			if _, err := theKernel.CapDelegate(control.CapRequest{Cap: c.ID, To: two.id, Move: true}); err != nil {
				t.Error(err)
			}
		}, errdefs.CapabilityRevoked, "moved away"},
		"sealed": {func(c control.Cap) {
			if _, err := theKernel.CapSeal(control.CapRequest{Cap: c.ID}); err != nil {
				t.Error(err)
			}
		}, "", ""},
		"delegated": {func(c control.Cap) {
			if _, err := theKernel.CapDelegate(control.CapRequest{Cap: c.ID, To: two.id}); err != nil {
				t.Error(err)
			}
		}, "", ""},
	} {
		c := mintFor(t, one, "event:agent.*@"+two.id)
		w := mustWatch(t, one, "topics=agent.pause@"+two.id)
		tellOf([]event.Type{event.AgentPause}, two.id)
		settleBus(t)
		test.end(c)
		want := string(test.code)
		if test.code == "" {
			want = "agent.pause@2"
		}
		if got := heard(t, w, names); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if test.code != "" {
			e, err := sub.Next(t.Context())
			p, _ := e.Payload.(*eventv1.BusSubscription)
			if err != nil || !strings.Contains(p.GetReason(), test.says) || p.GetBy() != one.id || p.GetName() != "/aios/events" {
				t.Errorf("%s: published %+v, %v", name, p, err)
			}
			if err := w.Change(&command.Watch{Queue: 1}); errdefs.CodeOf(err) != test.code {
				t.Errorf("%s: and then it is changed: %v", name, err)
			}
		}
		w.Close()
		if test.code == "" {
			if e, err := sub.Next(t.Context()); err != nil || !strings.Contains(e.Payload.(*eventv1.BusSubscription).GetReason(), "closed") {
				t.Errorf("%s: published %+v, %v", name, e.Payload, err)
			}
		}
		theKernel.CapRevoke(control.RevokeRequest{Cap: c.ID})
	}
	if n := one.watches.Load(); n != 0 {
		t.Errorf("%d files are counted as open", n)
	}
}

// TestWatchesAreBounded: an agent has so many, and gets them back.
func TestWatchesAreBounded(t *testing.T) {
	one := listens(t, "event:*@self")
	for range 2 {
		var open []ctlfs.Watch
		for {
			w, err := tryWatch(one, "")
			if err != nil {
				wantCode(t, err, errdefs.FileLimit)
				break
			}
			open = append(open, w)
		}
		if len(open) != maxWatches {
			t.Errorf("%d are open", len(open))
		}
		for _, w := range open {
			w.Close()
		}
	}
}

// TestNamesInGrantsOfEvents: a name is put in an ID's place, and one agent does
// not learn by it which others there are.
func TestNamesInGrantsOfEvents(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"}, func(r *control.SpawnRequest) { r.Name = "watched" })
	one, two := listens(t), agentUnderTest(t, s.id)
	wide, own := mintFor(t, one, "event:agent.*"), mintFor(t, one, "event:*@self")
	if own.Spec != "event:*@"+one.id {
		t.Errorf("self is %s", own.Spec)
	}
	made, err := theKernel.CapDelegate(control.CapRequest{Cap: wide.ID, To: two.id, Change: capability.Change{Object: ptr("agent.exit@watched")}})
	if err != nil || made.Spec != "event:agent.exit@"+two.id {
		t.Errorf("by name: %+v, %v", made, err)
	}
	if _, err := theKernel.CapDelegate(control.CapRequest{Cap: wide.ID, To: two.id, Change: capability.Change{Object: ptr("agent.exit@nobody")}}); errdefs.CodeOf(err) != errdefs.AgentNotFound {
		t.Errorf("a name that nobody has: %v", err)
	}
	for _, name := range []string{"watched", "nobody"} {
		_, err := theKernel.CapDelegate(control.CapRequest{Cap: own.ID, To: two.id, Change: capability.Change{Object: ptr("agent.exit@" + name)}})
		wantCode(t, err, errdefs.RightsExceed)
		_, err = tryWatch(one, "topics=net.*@"+name)
		wantCode(t, err, errdefs.CapabilityDenied)
	}
	if _, err := theKernel.CapGrant(control.GrantRequest{ID: one.id, Grants: grants("event:*@nobody")}); errdefs.CodeOf(err) != errdefs.AgentNotFound {
		t.Errorf("granted: %v", err)
	}
	if _, err := theKernel.CapExport(control.CapRequest{Cap: wide.ID, To: "other/" + two.id}); errdefs.CodeOf(err) != errdefs.Unsupported {
		t.Errorf("exported: %v", err)
	}
	for op, want := range map[string]bool{
		"subscribe agent.exit": true, "subscribe agent.exit@watched": true, "subscribe net.listen@self": true,
		"subscribe net.listen@watched": false, "subscribe security.violation@self": false,
	} {
		e, err := one.explain(op)
		if err != nil || e.Allowed != want || want != (e.Capability != "") || want != (e.Errno == 0) {
			t.Errorf("%s: %+v, %v", op, e, err)
		}
	}
}

// TestReadInAgent reads the file as a program does, and loses it while blocked.
func TestReadInAgent(t *testing.T) {
	s := spawn(t, sh(`read x; exec 3<>/aios/events; echo 'topics=agent.signal' >&3; echo ready; head -n 1 <&3; cat <&3; echo "over $?"; cat <&3; echo "again $?"`),
		granted("mem:self", "proc:self", "cpu:self", "io:self", "event:agent.*@self"), withStdin)
	s.send("go\n")
	s.expect("ready\n")
	s.signal(0x17) // URG, which is ignored.
	line, _, _ := strings.Cut(s.expect("}}\n"), "\n")
	var e struct{ Type, Subject string }
	if err := json.Unmarshal([]byte(line), &e); err != nil || e.Type != "dev.aios.agent.signal" || e.Subject != s.id {
		t.Errorf("%s: %v", line, err)
	}
	a := agentUnderTest(t, s.id)
	eventually(t, func() bool { // It blocks.
		for _, task := range a.ns.pid().Tasks() {
			if task.Name() == "cat" && task.StateStatus() == "S (sleeping)" {
				return true
			}
		}
		return false
	})
	for _, c := range theKernel.space.List(s.id) {
		if c.Object().Class == abi.ClassEvent {
			takeBack(t, c.ID())
		}
	}
	if got := s.expect("again 1\n"); !strings.Contains(got, "over 1\n") {
		t.Errorf("after the revocation: %q", got)
	}
}

// TestRevokeRaceOfEvents publishes, reads and revokes at once: an event that was
// published after the revocation had returned is read by nobody, and neither is
// one that waited.
func TestRevokeRaceOfEvents(t *testing.T) {
	one, two := listens(t), listens(t)
	for range 200 {
		c := mintFor(t, one, "event:agent.*")
		w, err := tryWatch(one, "topics=agent.pause@"+two.id)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		stop, revoked := make(chan struct{}), make(chan struct{})
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					tellOf([]event.Type{event.AgentPause}, two.id)
				}
			}
		})
		wg.Go(func() {
			batch := make([]event.Event, 8)
			for {
				select {
				case <-revoked:
					for range 3 {
						if n, err := w.Read(batch); n != 0 || errdefs.CodeOf(err) != errdefs.CapabilityRevoked {
							t.Errorf("after the revocation: %d events, %v", n, err)
						}
					}
					return
				default:
					w.Read(batch)
				}
			}
		})
		wg.Go(func() { w.Change(&command.Watch{Queue: 10}) })
		takeBack(t, c.ID)
		close(revoked)
		close(stop)
		wg.Wait()
		w.Close()
	}
	settleBus(t)
	if n := one.watches.Load(); n != 0 {
		t.Errorf("%d files are counted as open", n)
	}
}
