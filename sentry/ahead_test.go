package sentry

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// ahead has a template have n copies ready.
func ahead(n int) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.Template.Ahead = n }
}

// awaitAhead waits until so many copies of a template are ready, and know all that
// there is to know.
func (s *spawned) awaitAhead(n int) {
	s.t.Helper()
	a, err := theKernel.agent(s.id)
	if err != nil {
		s.t.Fatal(err)
	}
	want := min(n, a.spec.Template.Ahead)
	eventually(s.t, func() bool {
		theKernel.ahead.mu.Lock()
		defer theKernel.ahead.mu.Unlock()
		for _, m := range a.ahead.ready {
			if m.knows < len(a.ahead.learned) {
				return false
			}
		}
		return len(a.ahead.ready) >= want && !a.ahead.busy
	})
}

// allAhead is how many all templates have ready, or in the making.
func allAhead() int {
	theKernel.ahead.mu.Lock()
	defer theKernel.ahead.mu.Unlock()
	return theKernel.ahead.all
}

// wanders writes to pages of its own, as programs do that have been warmed up. It
// starts no other, which would fault by itself.
const wanders = `f() { x=$1; y="$x $x"; read h < /proc/sys/kernel/hostname; read n < /aios/self/clones; read from < /aios/self/template; echo "$y $h"; echo "$n"; echo "$from"; }; ` +
	`read line; f "$line"; read line`

// Copies whose memory was made ahead are as others are, and have to fault less; others
// are made while they run.
func TestAhead(t *testing.T) {
	tpl := warm(t, sh(wanders), ahead(3))
	var faults []uint64
	var ids []string
	for i := range 6 {
		tpl.awaitAhead(3)
		if st := inspect(t, tpl.id); st.Ahead != 3 || st.Tasks != 1 {
			t.Errorf("%d are ready, with %d tasks", st.Ahead, st.Tasks)
		}
		word := fmt.Sprint("word", i)
		s := spawn(t, nil, from(tpl), func(r *control.SpawnRequest) { r.Hostname = "host-" + word })
		ids = append(ids, s.id)
		if n := inspect(t, tpl.id).Ahead; n != 2 {
			t.Errorf("one has begun, and %d are ready", n)
		}
		s.send(word + "\n")
		if out := s.expect(tpl.id + "\nfrom " + tpl.id + "\n"); out != word+" "+word+" host-"+word+"\n1 "+tpl.id+"\nfrom "+tpl.id+"\n" {
			t.Errorf("%q", out)
		}
		use, err := theKernel.Account(control.AgentRequest{ID: s.id})
		if err != nil {
			t.Fatal(err)
		}
		faults = append(faults, use.Memory.Faults)
		if use.Memory.Now == 0 || use.Memory.Now > 8<<20 {
			t.Errorf("it counts %d bytes", use.Memory.Now)
		}
		s.closeInput()
		if e := s.wait(); e.Code != 1 { // Of read, at the end of its input.
			t.Errorf("it ended with %+v", e)
		}
	}
	t.Logf("page faults: %v", faults)
	if last := faults[len(faults)-1]; 2*last > faults[0] {
		t.Errorf("the first copy had %d page faults, the last %d", faults[0], last)
	}
	l, err := theKernel.List(struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range l.Agents {
		known := st.ID == tpl.id || st.State == string(abi.StateExited)
		for _, id := range ids {
			known = known || st.ID == id
		}
		if !known {
			t.Errorf("there is an agent %+v", st)
		}
	}
}

// What is ready counts for its template.
func TestAheadIsCounted(t *testing.T) {
	with, without := warm(t, sh(wanders), ahead(4)), warm(t, sh(wanders), ahead(0))
	if n := inspect(t, without.id).Ahead; n != 0 {
		t.Errorf("of one that wants none, %d are ready", n)
	}
	for _, tpl := range []*spawned{with, without} { // It learns.
		s := spawn(t, nil, from(tpl))
		s.send("x\n")
		s.expect("from " + tpl.id)
	}
	a, err := theKernel.agent(with.id)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { with.awaitAhead(4); return a.ahead.bytes.Load() > 0 })
	most, least := inspect(t, with.id).MemoryBytes, inspect(t, without.id).MemoryBytes
	if bytes := a.ahead.bytes.Load(); most < least+bytes/2 || bytes > 16<<20 {
		t.Errorf("it has %d bytes, of which %d are ready; without, %d", most, bytes, least)
	}
	if !a.dropAhead() || a.ahead.bytes.Load() != 0 || inspect(t, with.id).Ahead != 0 {
		t.Errorf("dropped, it has %d bytes ready", a.ahead.bytes.Load())
	}
}

// Programs that wait in all kinds of calls go on in each copy.
func TestAheadOfWhoWaits(t *testing.T) {
	t.Parallel()
	needBlocked(t)
	tpl := warm(t, []string{"/bin/blocked", "template"}, inBlocked, ahead(2))
	begin := func() *spawned {
		tpl.awaitAhead(2)
		return spawn(t, nil, from(tpl))
	}
	ends := func(s *spawned) {
		if out, _, e := s.output(); out != andAlarm || e.Code != 0 {
			t.Errorf("%q, %+v", out, e)
		}
	}
	ends(begin()) // It learns.
	for _, s := range []*spawned{begin(), begin(), begin()} {
		ends(s) // Each waits for a second.
	}
}

// More may begin at once than are ready, while the template is removed as well.
func TestManyBeginAtOnce(t *testing.T) {
	before := allAhead()
	tpl := warm(t, sh(wanders), ahead(2))
	for _, remove := range []bool{false, true} {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				s, err := trySpawn(t, nil, from(tpl))
				if c := errdefs.CodeOf(err); remove && (c == errdefs.AgentNotRunning || c == errdefs.TemplateNotFound || c == errdefs.WrongState) {
					return // It was late.
				}
				if err != nil {
					t.Error(err)
					return
				}
				s.send(fmt.Sprint(i, "\n"))
				s.expect(fmt.Sprintf("%d %d box\n1 %s\nfrom %s\n", i, i, tpl.id, tpl.id))
			})
		}
		if remove {
			if _, err := theKernel.Signal(control.SignalRequest{ID: tpl.id, Signal: 9}); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
	}
	exits.wait(t, tpl.id, 0)
	eventually(t, func() bool { return allAhead() == before })
}

// What is ready goes when memory gets short, and before a checkpoint, and is made again.
func TestAheadIsDropped(t *testing.T) {
	tpl := warm(t, sh(wanders), ahead(2))
	tpl.awaitAhead(2)
	theKernel.dropAheads()
	if n := inspect(t, tpl.id).Ahead; n != 0 {
		t.Errorf("memory is short, and %d are ready", n)
	}
	tpl.awaitAhead(2)
	c := takeCheckpoint(t, tpl)
	tpl.awaitAhead(2)
	theKernel.holdAheads()
	if n := inspect(t, tpl.id).Ahead; n != 0 {
		t.Errorf("held, %d are ready", n)
	}
	s := spawn(t, nil, from(tpl)) // It does without.
	s.send("x\n")
	s.expect("x x box")
	theKernel.freeAheads()
	tpl.awaitAhead(2)

	r := c.restore()
	eventually(t, func() bool { return r.ask("ahead "+tpl.id) == "2" })
	if a, said := r.begin("spawn", tpl); said != "spawned <nil>" {
		t.Error(said)
	} else {
		r.expectText(a, "from "+tpl.id) // It finds the end of its input.
	}
	r.ask("end")
}

// A template that nears its own limit has none ready, rather than to end for it.
func TestAheadWithinTheLimit(t *testing.T) {
	tpl := warm(t, sh(wanders), ahead(2))
	tpl.awaitAhead(2)
	a, err := theKernel.agent(tpl.id)
	if err != nil {
		t.Fatal(err)
	}
	s := spawn(t, nil, from(tpl)) // It learns.
	s.send("x\n")
	s.expect("from " + tpl.id)
	eventually(t, func() bool { tpl.awaitAhead(2); return a.ahead.bytes.Load() > 0 })
	a.s.watch.refresh(a)
	a.setMemoryLimit(memoryOf(a) - a.ahead.bytes.Load()/2)
	if n := a.aheadCount(); n != 0 {
		t.Errorf("over its limit, %d are ready", n)
	}
	a.setMemoryLimit(memoryOf(a) + 4096)
	a.makeAhead()
	if n := a.aheadCount(); n != 0 {
		t.Errorf("with no room, %d are ready", n)
	}
	a.setMemoryLimit(account.Unlimited)
	a.makeAhead()
	if n := a.aheadCount(); n != 2 {
		t.Errorf("with room, %d are ready", n)
	}
	s = spawn(t, nil, from(tpl))
	s.send("x\n")
	s.expect("x x box")
}

// Copies that do not come to be leave nothing behind of what was ready.
func TestFailedCopiesLeakNothing(t *testing.T) {
	tpl := warm(t, sh(wanders), ahead(2))
	once := func() {
		for name, spoil := range map[string]func(*control.SpawnRequest){
			"grant": func(r *control.SpawnRequest) { withFiles("fs:/b:ro", "nosuch")(r) },
			"oom":   func(r *control.SpawnRequest) { r.OnOOM = "nosuch" },
			"ID":    func(r *control.SpawnRequest) { r.ID = "bad" },
		} {
			if _, err := trySpawn(t, nil, from(tpl), spoil); err == nil {
				t.Fatalf("%s: the spawn succeeded", name)
			}
		}
		tpl.awaitAhead(2)
	}
	for range 10 {
		once()
	}
	leaksNothing(t, 30, func() {
		for range 10 {
			once()
		}
	})
}

// aheadIn says there how many are ready.
func aheadIn(k *Kernel, id string) string {
	st, err := k.Inspect(control.AgentRequest{ID: strings.TrimSpace(id)})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(st.Ahead)
}

// Two copies that were ready have random numbers, names and clocks of their own.
func TestAheadIdentity(t *testing.T) {
	tpl := warm(t, sh(`read x; head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid /aios/self/id; hostname; read y`), ahead(2))
	tpl.awaitAhead(2)
	seen := make(map[string]bool)
	for i := range 2 {
		name := fmt.Sprint("name", i)
		s := spawn(t, nil, from(tpl), func(r *control.SpawnRequest) { r.Hostname = name })
		s.send("x\n")
		out := s.expect(name + "\n")
		if !strings.HasSuffix(out, s.id+"\n"+name+"\n") || seen[strings.Split(out, s.id)[0]] {
			t.Errorf("%q", out)
		}
		seen[strings.Split(out, s.id)[0]] = true
	}
}
