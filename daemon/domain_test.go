package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// saved makes a record of an agent in a domain and its file.
func saved(t testing.TB, d *System, dom string, change func(*apiv1.SpawnRequest)) *record {
	t.Helper()
	spec := &apiv1.SpawnRequest{}
	if change != nil {
		change(spec)
	}
	r := newRecord(string(abi.NewAgentID()), spec, dom, time.Unix(1000, 0))
	if err := d.save(r); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.logPath(r.id), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestAdoption starts a daemon on what an earlier one has left: agents in
// every state, in a domain that lives.
func TestAdoption(t *testing.T) {
	dir := shortDir(t)
	before := newSystem(t, dir, ktime.Real)
	k := startKernel(t, before, "dom")
	running := saved(t, before, "dom", func(s *apiv1.SpawnRequest) { s.Name = "runs" })
	paused := saved(t, before, "dom", nil)
	ended := saved(t, before, "dom", nil)
	told := saved(t, before, "dom", nil) // Its end is in its file, and the domain was not told to forget it.
	told.finish(abi.StateExited, &apiv1.Exit{Code: 4}, time.Unix(1500, 0))
	if err := before.save(told); err != nil {
		t.Fatal(err)
	}
	never := saved(t, before, "dom", nil) // The domain has not heard of it.
	elsewhere := saved(t, before, "gone", func(s *apiv1.SpawnRequest) { s.Name = "away" })
	stranger, strangerEnded := string(abi.NewAgentID()), string(abi.NewAgentID())
	k.set(func() {
		k.agents = []control.AgentStatus{
			{ID: running.id, State: "running"},
			{ID: paused.id, State: "paused"},
			{ID: ended.id, State: "exited", Exit: &control.Exit{Code: 3}, Ended: time.Unix(1600, 0)},
			{ID: told.id, State: "exited", Exit: &control.Exit{Code: 4}, Ended: time.Unix(1500, 0)},
			{ID: stranger, State: "running"},
			{ID: strangerEnded, State: "exited", Exit: &control.Exit{}},
		}
	})

	d := newSystem(t, dir, ktime.Real)
	d.recover()
	for ref, want := range map[string]string{
		running.id: "running ", "runs": "running ", paused.id: "running ", // That it is paused, the domain tells.
		ended.id: "exited 3", told.id: "exited 4", elsewhere.id: "lost 0", "away": "lost 0",
	} {
		a := stateOf(t, d, ref)
		got := a.GetState() + " "
		if a.GetExit() != nil {
			got += fmt.Sprint(a.GetExit().GetCode())
		}
		if got != want {
			t.Errorf("%s is %q, want %q", ref, got, want)
		}
	}
	for _, id := range []string{never.id, stranger, strangerEnded} {
		if _, err := d.find(id); errdefs.CodeOf(err) != errdefs.AgentNotFound {
			t.Errorf("%s is known: %v", id, err)
		}
	}
	k.heard(t, call{control.MethodSignal, stranger, 9})
	for _, id := range []string{ended.id, told.id, strangerEnded} {
		k.heard(t, call{method: control.MethodForget, id: id})
	}
	if resp, err := d.List(context.Background(), &apiv1.ListRequest{All: true}); err != nil || len(resp.GetAgents()) != 5 {
		t.Errorf("listed %v, %v", resp, err)
	}

	// What runs ends as ever, and its end is told and written down.
	k.ends(running.id, 0, control.Exit{Signal: 15})
	resp, err := d.Wait(context.Background(), &apiv1.WaitRequest{Agent: "runs"})
	if err != nil || resp.GetExit().GetSignal() != 15 {
		t.Errorf("%v, %v", resp, err)
	}
	k.heard(t, call{method: control.MethodForget, id: running.id})
	if r := newSystem(t, dir, ktime.Real).loadRecords()[running.id]; r == nil || !r.final() || r.exit.GetSignal() != 15 {
		t.Errorf("the record says %v", r)
	}
	k.ends(running.id, 0, control.Exit{Code: 1}) // Again: no effect.
	k.ends("a000000000000", 0, control.Exit{})   // Unknown.
	k.heard(t, call{method: control.MethodForget, id: "a000000000000"})

	// The domain dies.
	r, err := d.find(paused.id)
	if err != nil {
		t.Fatal(err)
	}
	dom := d.liveDomains()[0]
	dom.mu.Lock()
	dom.dead = true // As while the burial goes on.
	dom.mu.Unlock()
	list, err := d.DomainList(t.Context(), nil)
	if err != nil || len(list.GetDomains()) != 1 || list.GetDomains()[0].GetState() != "ending" {
		t.Errorf("while files are left of it, it is listed as %v, %v", list, err)
	}
	dom.mu.Lock()
	dom.dead = false
	dom.mu.Unlock()
	k.die()
	within(t, "the loss", r.settled)
	if a := r.proto(); a.GetState() != string(abi.StateLost) || !strings.Contains(a.GetExit().GetReason(), "dom") {
		t.Errorf("it is %v", a)
	}
	eventually(t, "the burial", func() bool { return len(d.liveDomains()) == 0 && len(filesIn(t, d.paths.Domains)) == 0 })
	if _, err := os.Stat(d.socketOf("dom")); err == nil {
		t.Error("the socket is left")
	}
}

// TestProcessOfADeadConnectionIsKilled checks that a kernel process which is
// of no use does not stay.
func TestProcessOfADeadConnectionIsKilled(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	k := startKernel(t, d, "dom")
	d.recover()
	k.listener.Close()
	d.liveDomains()[0].client.Close()
	within(t, "the kill", k.exited)
}

// TestCutConnectionIsMadeAgain has a kernel process cut off a daemon that was too
// slow: nothing is lost with the connection, whatever happened in the meantime.
func TestCutConnectionIsMadeAgain(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	k := startKernel(t, d, "dom")
	running, ended := saved(t, d, "dom", nil), saved(t, d, "dom", nil)
	both := []control.AgentStatus{{ID: running.id, State: "running"}, {ID: ended.id, State: "running"}}
	k.set(func() { k.agents = both })
	d.recover()
	stranger := string(abi.NewAgentID())
	k.set(func() {
		k.agents = []control.AgentStatus{both[0], {ID: ended.id, State: "exited", Exit: &control.Exit{Code: 3}}, {ID: stranger, State: "running"}}
	})
	dom := d.liveDomains()[0]
	for range 5 {
		old := dom.connection()
		old.Close()
		eventually(t, "it is connected again", func() bool { return dom.connection() != old })
	}
	now := func(r *record) *record {
		got, err := d.find(r.id)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	within(t, "the end", now(ended).settled)
	if r := now(ended); r.exit.GetCode() != 3 || r.state != abi.StateExited {
		t.Errorf("%v %v", r.state, r.exit)
	}
	if r := now(running); r.state != abi.StateRunning {
		t.Errorf("the agent that runs is %v", r.state)
	}
	k.heard(t, call{control.MethodSignal, stranger, int32(syscall.SIGKILL)})
	if live := d.liveDomains(); len(live) != 1 || live[0] != dom {
		t.Errorf("domains: %v", live)
	}
	k.die()
	within(t, "the loss", now(running).settled)
}

// TestEndIsKeptBeforeItIsForgotten has the end of an agent find the disk full.
func TestEndIsKeptBeforeItIsForgotten(t *testing.T) {
	dir := shortDir(t)
	d := newSystem(t, dir, ktime.Real)
	k := startKernel(t, d, "dom")
	r := saved(t, d, "dom", nil)
	k.set(func() { k.agents = []control.AgentStatus{{ID: r.id, State: "running"}} })
	d.recover()
	full := d.recordPath(r.id) + ".new" // Nothing can be written there.
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	k.ends(r.id, 0, control.Exit{Code: 3})
	known, err := d.find(r.id)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the end", known.settled)
	k.quiet(t, call{method: control.MethodForget, id: r.id})
	// It is told again, after a cut.
	k.set(func() {
		k.calls = nil
		k.agents = []control.AgentStatus{{ID: r.id, State: "exited", Exit: &control.Exit{Code: 3}}}
	})
	k.cut()
	k.heard(t, call{method: control.MethodList})
	k.quiet(t, call{method: control.MethodForget, id: r.id})
	if err := os.RemoveAll(full); err != nil {
		t.Fatal(err)
	}
	k.heard(t, call{method: control.MethodForget, id: r.id})
	if got := d.loadRecords()[r.id]; got == nil || got.state != abi.StateExited || got.exit.GetCode() != 3 {
		t.Errorf("on disk: %+v", got)
	}
}

// TestAgentsOfAnEarlierDomain: a kernel process that has taken the place of another
// does not know the agents of that. They are lost, and not forgotten.
func TestAgentsOfAnEarlierDomain(t *testing.T) {
	dir := shortDir(t)
	before := newSystem(t, dir, ktime.Real)
	k := startKernel(t, before, "dom")
	r, never := saved(t, before, "dom", nil), saved(t, before, "dom", nil)
	write := func(r *record, pid int) {
		t.Helper()
		dom := before.newDomain("dom")
		dom.mu.Lock()
		dom.info.PID = pid
		dom.mu.Unlock()
		r.mu.Lock()
		r.domain = dom
		r.mu.Unlock()
		if err := before.save(r); err != nil {
			t.Fatal(err)
		}
	}
	write(r, k.process.Process.Pid+1)
	write(never, k.process.Process.Pid)
	d := newSystem(t, dir, ktime.Real)
	d.recover()
	got, err := d.find(r.id)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the loss", got.settled)
	if got.state != abi.StateLost {
		t.Errorf("it is %v", got.state)
	}
	if _, err := d.find(never.id); errdefs.CodeOf(err) != errdefs.AgentNotFound {
		t.Errorf("one that this process never heard of: %v", err)
	}
}

// TestRestartThatWasCut: a daemon that is killed between writing that it starts an
// agent again and having its kernel process do so leaves an agent that is known,
// and that the next daemon starts.
func TestRestartThatWasCut(t *testing.T) {
	for _, isolated := range []bool{false, true} {
		dir := shortDir(t)
		before := newSystem(t, dir, ktime.Real)
		testImage(t, before)
		k := startKernel(t, before, "dom")
		info := k.info(before, "dom")
		info.Isolated = isolated
		if err := before.saveDomain(info); err != nil {
			t.Fatal(err)
		}
		k.set(func() { k.agents = []control.AgentStatus{{ID: "a00000000000a", State: "running"}} }) // An empty one would be ended.
		before.recover()
		k.set(func() { k.agents = nil })
		old := saved(t, before, "dom", func(s *apiv1.SpawnRequest) {
			proto.Merge(s, spawnRequest("again"))
			s.Isolated, s.Restart = isolated, &apiv1.RestartPolicy{When: restartAlways}
		})
		old.wish = before.newWish(old.spec(), nil)
		before.addRecord(old)
		old.finish(abi.StateLost, nil, before.clock.Now())
		old.wish.decide(nil, &verdict{ok: true})
		var left []byte
		k.set(func() {
			k.spawn = func(control.SpawnRequest) error {
				record, _ := os.ReadFile(before.recordPath(old.id))
				k.set(func() { left = record })
				return errdefs.New(errdefs.Internal, "the daemon is no more")
			}
		})
		before.tryRestart(old)
		k.set(func() { k.spawn = nil })
		if left == nil {
			t.Fatal("it was not tried")
		}
		before.endWish(old.id, "the daemon is no more") // Or it tries again when the next one takes the kernel process.
		if err := os.WriteFile(before.recordPath(old.id), left, 0o600); err != nil {
			t.Fatal(err)
		}
		d := newSystem(t, dir, ktime.Real)
		d.recover()
		r, err := d.find(old.id)
		if err != nil {
			t.Fatalf("isolated %v: %v", isolated, err)
		}
		if r.wish.proto().GetCount() != 1 {
			t.Errorf("isolated %v: %v", isolated, r.wish.proto())
		}
		d.endWish(r.id, "the test is over")
	}
}

// TestAgentsThatWereHeardOf: one that its kernel process had is lost if that does
// not have it any more, whatever has become of how it ended.
func TestAgentsThatWereHeardOf(t *testing.T) {
	dir := shortDir(t)
	before := newSystem(t, dir, ktime.Real)
	testImage(t, before)
	k := startKernel(t, before, "dom")
	before.recover()
	spec := spawnRequest("heard")
	spec.Domain = "dom"
	r, _, err := before.spawn(t.Context(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	k.cut()
	ended := saved(t, before, "dom", func(s *apiv1.SpawnRequest) { s.Remove = true })
	ended.finish(abi.StateExited, &apiv1.Exit{}, time.Unix(1001, 0))
	if err := before.save(ended); err != nil {
		t.Fatal(err)
	}
	d := newSystem(t, dir, ktime.Real)
	d.recover()
	if got := stateOf(t, d, r.id); got.GetState() != string(abi.StateLost) {
		t.Errorf("it is %v", got)
	}
	if _, err := d.find(ended.id); errdefs.CodeOf(err) != errdefs.AgentNotFound {
		t.Errorf("one that had ended, and was to be removed then: %v", err)
	}
}

// TestDomainsThatCannotBeAdopted leaves files of domains behind that answer
// wrongly or not at all.
func TestDomainsThatCannotBeAdopted(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	wrong := startKernel(t, d, "wrong")
	if err := os.Rename(d.domainPath("wrong", ".json"), d.domainPath("renamed", ".json")); err != nil {
		t.Fatal(err)
	}
	dying := startKernel(t, d, "dying")
	dying.set(func() {
		dying.hook = func(method string) {
			if method == control.MethodList {
				go dying.die()
				<-dying.exited
			}
		}
	})
	r1, r2, r3 := saved(t, d, "renamed", nil), saved(t, d, "dying", nil), saved(t, d, "torn", nil)
	dying.set(func() { dying.agents = []control.AgentStatus{{ID: r2.id, State: "running"}} })
	for name, text := range map[string]string{
		"torn": `{"name":"torn","soc`, "empty": "", "nobody": `{"name":"nobody","socket":"/nowhere","pid":1,"start_tick":1}`, "null": "null",
	} {
		if err := os.WriteFile(d.domainPath(name, ".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.recover()
	for _, r := range []*record{r1, r2, r3} {
		if a := stateOf(t, d, r.id); a.GetState() != string(abi.StateLost) {
			t.Errorf("an agent of domain %s is %v", r.domName, a)
		}
	}
	if live := d.liveDomains(); len(live) != 0 {
		t.Errorf("adopted %v", live[0].name)
	}
	if left, _ := filepath.Glob(d.domainPath("*", ".json")); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
	within(t, "the kill", wrong.exited)
}

// TestDeathDuringAdoption kills the domain at a random moment of it, many
// times: its agent is lost, whenever that was.
func TestDeathDuringAdoption(t *testing.T) {
	for n := range 30 {
		dir := shortDir(t)
		d := newSystem(t, dir, ktime.Real)
		k := startKernel(t, d, "dom")
		r := saved(t, d, "dom", nil)
		k.set(func() { k.agents = []control.AgentStatus{{ID: r.id, State: "running"}} })
		go func() {
			time.Sleep(time.Duration(n) * 100 * time.Microsecond)
			k.die()
		}()
		d.recover()
		got, err := d.find(r.id)
		if err != nil {
			t.Fatal(err)
		}
		within(t, "the loss", got.settled)
		eventually(t, "the burial", func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return len(d.domains) == 0
		})
	}
}

// TestCutDuringAdoption cuts the connection at a random moment of it, many
// times: the domain lives, and is adopted.
func TestCutDuringAdoption(t *testing.T) {
	for n := range 30 {
		d := newSystem(t, shortDir(t), ktime.Real)
		k := startKernel(t, d, "dom")
		r := saved(t, d, "dom", nil)
		cut := make(chan struct{})
		// When the agents are on their way, and the process is known.
		k.set(func() {
			k.agents = []control.AgentStatus{{ID: r.id, State: "running"}}
			var once sync.Once
			k.hook = func(method string) {
				if method == control.MethodList {
					once.Do(func() {
						go func() {
							time.Sleep(time.Duration(n) * 30 * time.Microsecond)
							k.cut()
							close(cut)
						}()
					})
				}
			}
		})
		d.recover()
		within(t, "the cut", cut)
		eventually(t, "the agent's adoption", func() bool {
			select {
			case <-k.exited:
				t.Fatal("the process was killed")
			default:
			}
			d.mu.Lock()
			dom := d.domains["dom"]
			d.mu.Unlock()
			a := stateOf(t, d, r.id)
			return dom != nil && a.GetState() == string(abi.StateRunning) && dom.call(t.Context(), control.MethodList, struct{}{}, &control.ListReply{}) == nil
		})
	}
}

// adopted returns a daemon with a domain called "default".
func adopted(t testing.TB, clock ktime.Clock) (*System, *fakeKernel) {
	t.Helper()
	d := newSystem(t, shortDir(t), clock)
	testImage(t, d)
	k := startKernel(t, d, defaultDomain)
	d.recover()
	if len(d.liveDomains()) != 1 {
		t.Fatal("the domain was not adopted")
	}
	return d, k
}

func TestSpawnAndEnd(t *testing.T) {
	d, k := adopted(t, ktime.Real)
	resp, err := d.Spawn(context.Background(), spawnRequest("web"))
	if err != nil {
		t.Fatal(err)
	}
	if a := stateOf(t, d, "web"); a.GetId() != resp.GetId() || a.GetState() != "running" || a.GetDomain() != defaultDomain {
		t.Errorf("it is %v", a)
	}
	if _, err := d.Spawn(context.Background(), spawnRequest("web")); errdefs.CodeOf(err) != errdefs.AgentNameTaken || errdefs.FixOf(err) == "" {
		t.Error(err)
	}
	if _, err := d.Remove(context.Background(), &apiv1.RemoveRequest{Agent: "web"}); errdefs.CodeOf(err) != errdefs.AgentRunning {
		t.Error(err)
	}
	k.ends(resp.GetId(), 0, control.Exit{Code: 5})
	if w, err := d.Wait(context.Background(), &apiv1.WaitRequest{Agent: "web"}); err != nil || w.GetExit().GetCode() != 5 {
		t.Errorf("%v, %v", w, err)
	}
	if _, err := d.Signal(context.Background(), &apiv1.SignalRequest{Agent: "web", Signal: 9}); errdefs.CodeOf(err) != errdefs.AgentNotRunning {
		t.Error(err)
	}
	if _, err := d.Remove(context.Background(), &apiv1.RemoveRequest{Agent: "web"}); err != nil {
		t.Error(err)
	}
	if left := filesIn(t, d.paths.Agents); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
	if _, err := d.Spawn(context.Background(), spawnRequest("web")); err != nil { // The name is free.
		t.Error(err)
	}
}

// TestFailedSpawnsLeaveNothing fails at every stage.
func TestFailedSpawnsLeaveNothing(t *testing.T) {
	d, k := adopted(t, ktime.Real)
	check := func(what string, err error, want errdefs.Code) {
		t.Helper()
		if errdefs.CodeOf(err) != want {
			t.Errorf("%s: %v (%s), want %s", what, err, errdefs.CodeOf(err), want)
		}
		eventually(t, "tidying up after "+what, func() bool {
			return len(d.records()) == 0 && len(filesIn(t, d.paths.Agents)) == 0
		})
	}
	ctx := context.Background()
	req := spawnRequest("web")
	req.Image = "nosuch"
	_, err := d.Spawn(ctx, req)
	check("an unknown image", err, errdefs.ImageNotFound)
	req = spawnRequest("web")
	req.Process.Argv = nil
	_, err = d.Spawn(ctx, req)
	check("no program", err, errdefs.InvalidArgument)
	req = spawnRequest("web")
	req.Platform = "other"
	_, err = d.Spawn(ctx, req)
	check("another platform", err, errdefs.WrongState)

	k.set(func() {
		k.spawn = func(control.SpawnRequest) error {
			return errdefs.New(errdefs.ProgramNotFound, "no such program", errdefs.Fix("look"))
		}
	})
	_, err = d.Spawn(ctx, spawnRequest("web"))
	check("a refusal of the kernel", err, errdefs.ProgramNotFound)

	// The caller gives up; the agent may have started all the same.
	ids := make(chan string, 1)
	release := make(chan struct{})
	k.set(func() {
		k.spawn = func(r control.SpawnRequest) error {
			ids <- r.ID
			<-release
			return nil
		}
	})
	brief, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = d.Spawn(brief, spawnRequest("web"))
	check("a caller that gives up", err, errdefs.Cancelled)
	k.heard(t, call{control.MethodSignal, <-ids, 9})
	close(release)

	// The domain dies in the middle.
	k.set(func() {
		k.spawn = func(control.SpawnRequest) error {
			go k.die()
			<-k.exited
			return nil
		}
	})
	_, err = d.Spawn(ctx, spawnRequest("web"))
	check("a domain that dies", err, errdefs.DomainDied)
}

func TestOneOfManySpawnsGetsTheName(t *testing.T) {
	d, _ := adopted(t, ktime.Real)
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			switch _, err := d.Spawn(context.Background(), spawnRequest("web")); errdefs.CodeOf(err) {
			case "":
				won.Add(1)
			case errdefs.AgentNameTaken:
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || len(d.records()) != 1 {
		t.Errorf("%d spawns won, %d agents are known", won.Load(), len(d.records()))
	}
}

// TestRemoveAtTheEnd checks that an agent which is to go with its end is told
// of first: to whoever waits, or for a while to whoever may come.
func TestRemoveAtTheEnd(t *testing.T) {
	clock := ktime.NewFake(time.Unix(5000, 0))
	d, k := adopted(t, clock)
	spawn := func() string {
		req := spawnRequest("")
		req.Remove = true
		resp, err := d.Spawn(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetId()
	}
	gone := func(id string) func() bool {
		return func() bool {
			_, err := d.find(id)
			return err != nil && !slices.ContainsFunc(filesIn(t, d.paths.Agents), func(f string) bool { return strings.HasPrefix(f, id) })
		}
	}
	waited := spawn()
	result := make(chan *apiv1.WaitResponse)
	go func() {
		w, err := d.Wait(context.Background(), &apiv1.WaitRequest{Agent: waited})
		if err != nil {
			t.Error(err)
		}
		result <- w
	}()
	r, err := d.find(waited)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the wait", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.heard > 0
	})
	k.ends(waited, 0, control.Exit{Code: 6})
	if w := <-result; w.GetExit().GetCode() != 6 {
		t.Errorf("waited for %v", w)
	}
	eventually(t, "the removal", gone(waited))

	alone := spawn()
	k.ends(alone, 0, control.Exit{Code: 7})
	k.heard(t, call{method: control.MethodForget, id: alone})
	if w, err := d.Wait(context.Background(), &apiv1.WaitRequest{Agent: alone}); err != nil || w.GetExit().GetCode() != 7 {
		t.Errorf("%v, %v", w, err)
	}
	clock.Advance(unheard)
	eventually(t, "the removal", gone(alone))
}

// TestExitOvertakesExec has the news of a process's end come before the answer
// to its start.
func TestExitOvertakesExec(t *testing.T) {
	d, k := adopted(t, ktime.Real)
	resp, err := d.Spawn(context.Background(), spawnRequest("web"))
	if err != nil {
		t.Fatal(err)
	}
	k.ends(resp.GetId(), 1, control.Exit{Code: 8})
	r, err := d.find("web")
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the end", r.execOf(1).done)
	if w, err := d.Wait(context.Background(), &apiv1.WaitRequest{Agent: "web", ExecId: 1}); err != nil || w.GetExit().GetCode() != 8 {
		t.Errorf("%v, %v", w, err)
	}
	if _, err := d.Wait(context.Background(), &apiv1.WaitRequest{Agent: "web", ExecId: 2}); errdefs.CodeOf(err) != errdefs.NotFound {
		t.Error(err)
	}
}

func TestStopDomain(t *testing.T) {
	d, k := adopted(t, ktime.Real)
	resp, err := d.Spawn(context.Background(), spawnRequest("web"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.DomainStop(context.Background(), &apiv1.DomainStopRequest{Name: defaultDomain}); errdefs.CodeOf(err) != errdefs.AgentRunning {
		t.Error(err)
	}
	stopped, err := d.DomainStop(context.Background(), &apiv1.DomainStopRequest{Name: defaultDomain, Force: true})
	if err != nil || fmt.Sprint(stopped.GetAgents()) != "[web]" {
		t.Errorf("%v, %v", stopped, err)
	}
	k.heard(t, call{method: control.MethodShutdown})
	if a := stateOf(t, d, resp.GetId()); a.GetState() != string(abi.StateLost) {
		t.Errorf("it is %v", a) // The fake does not tell how it ended.
	}
	if _, err := d.DomainStop(context.Background(), &apiv1.DomainStopRequest{Name: defaultDomain}); errdefs.CodeOf(err) != errdefs.DomainNotFound {
		t.Error(err)
	}
}
