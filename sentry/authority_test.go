package sentry

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// idle is an agent that waits to be used.
func idle(t testing.TB, opts ...func(*control.SpawnRequest)) *spawned {
	t.Helper()
	return spawn(t, []string{"sleep", "100000"}, append([]func(*control.SpawnRequest){ofRacer(t)}, opts...)...)
}

func named(name string) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.Name = name }
}

// want runs a script in s's agent and compares what comes of it.
func (s *spawned) want(script, want string) {
	s.t.Helper()
	if got := s.run(script); got != want {
		s.t.Errorf("%s\n\tgives %q\n\twant  %q", script, got, want)
	}
}

// recordOf is a record of an operation on a capability.
func recordOf(op string, id capability.ID) func(control.AuditRecord) bool {
	return func(r control.AuditRecord) bool { return r.Op == op && r.Cap == id }
}

// own returns what an agent holds of a class.
func own(t testing.TB, id, class string) control.Cap {
	t.Helper()
	r, err := theKernel.CapList(control.CapListRequest{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Caps {
		if strings.HasPrefix(c.Spec, class+":") {
			return c
		}
	}
	t.Fatalf("agent %s holds nothing of %s: %+v", id, class, r.Caps)
	return control.Cap{}
}

// TestLeasesEnd lets leases run out, and prolongs one.
func TestLeasesEnd(t *testing.T) {
	t.Parallel()
	_, key := racerDir(t)
	s := idle(t)
	c := give(t, s.id, "fs:/grant:rw,lease=2s", key)
	h := s.hold()
	if got := h.does("touchw"); got != 0 {
		t.Fatalf("touchw: %d", got)
	}
	time.Sleep(300 * time.Millisecond)
	if _, err := theKernel.CapRenew(control.CapRequest{Cap: c.ID, Lease: 4 * time.Second}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if got := h.does("touchw"); got != 0 {
		t.Errorf("after it was renewed, touchw gives %d", got)
	}
	theDaemon.recorded(t, s.id, recordOf(capability.OpRenew, c.ID))
	theDaemon.recorded(t, s.id, recordOf(capability.OpExpire, c.ID))
	if a := agentUnderTest(t, s.id); a.grantOf(c.ID) != nil {
		eventually(t, func() bool { return a.grantOf(c.ID) == nil })
	}
	for what, want := range map[string]int{"pread": int(unix.EACCES), "touchw": -int(unix.SIGBUS)} {
		if got := h.does(what); got != want {
			t.Errorf("%s gives %d, want %d", what, got, want)
		}
	}
	_, err := theKernel.CapRenew(control.CapRequest{Cap: c.ID, Lease: time.Second})
	if err == nil {
		t.Error("a lease that has ended was renewed")
	}
	// A class that is not files: the gate forgets it.
	bare := idle(t, granted("mem:self", "proc:self", "cpu:self", "io:self"))
	g := give(t, bare.id, "net:loopback,lease=2s", "")
	bare.want("nc 127.0.0.1 80", "nc: can't connect to remote host (127.0.0.1): Connection refused [1]")
	theDaemon.recorded(t, bare.id, recordOf(capability.OpExpire, g.ID))
	bare.want("nc 127.0.0.1 80", "nc: socket: Permission denied [1]")
}

// TestAgentsHandOn uses the control file from a shell.
func TestAgentsHandOn(t *testing.T) {
	_, key := racerDir(t)
	giver := idle(t, named("giver"))
	taker := idle(t, named("taker"))
	c := give(t, giver.id, "fs:/grant:rw", key)
	ctl := func(s *spawned, command string) string {
		return s.run(fmt.Sprintf("exec 3<>/aios/ctl; echo '%s' >&3; cat <&3", command))
	}
	out := ctl(giver, fmt.Sprintf("delegate %d to=taker rights=read object=/grant/sub", c.Handle))
	if !strings.HasPrefix(out, "ok ") {
		t.Fatal(out)
	}
	taker.want("cat /granted/giver/grant/sub/in", "in sub [0]")
	taker.want("cat /granted/giver/grant/f", "cat: can't open '/granted/giver/grant/f': No such file or directory [1]")
	taken := own(t, taker.id, "fs")
	if out := ctl(taker, fmt.Sprintf("attenuate %d rights=rw", taken.Handle)); !strings.Contains(out, "RIGHTS_EXCEED") {
		t.Error(out)
	}
	if out := ctl(taker, "revoke "+string(c.ID)); !strings.Contains(out, "error CAPABILITY_NOT_FOUND") {
		t.Error(out)
	}
	if out := ctl(giver, "revoke-children "+fmt.Sprint(c.Handle)); !strings.HasPrefix(out, "ok revoked=1") {
		t.Error(out)
	}
	taker.want("cat /granted/giver/grant/sub/in", "cat: can't open '/granted/giver/grant/sub/in': No such file or directory [1]")
	giver.want("cat /grant/sub/in", "in sub [0]")
	theDaemon.recorded(t, giver.id, recordOf(capability.OpDelegate, taken.ID))
	theDaemon.recorded(t, taker.id, func(r control.AuditRecord) bool { return r.Op == capability.OpLost && r.Actor == giver.id })
	if out := ctl(giver, fmt.Sprintf("move %d to=taker", c.Handle)); !strings.HasPrefix(out, "ok ") {
		t.Error(out)
	}
	giver.want("cat /grant/sub/in", "cat: can't open '/grant/sub/in': No such file or directory [1]")
	taker.want("cat /granted/giver/grant/sub/in", "in sub [0]")
	if out := ctl(taker, fmt.Sprintf("seal %d", own(t, taker.id, "fs").Handle)); !strings.HasPrefix(out, "ok") {
		t.Error(out)
	}
	if out := ctl(taker, fmt.Sprintf("delegate %d to=giver", own(t, taker.id, "fs").Handle)); !strings.Contains(out, "CAPABILITY_SEALED") {
		t.Error(out)
	}
}

// TestBudgets hands parts of what agents are made of from one to another.
func TestBudgets(t *testing.T) {
	giver := idle(t, instead("mem:self,bytes=256M"), instead("proc:self,count=40"), instead("cpu:self,cpu=1.5"))
	taker := idle(t, instead("mem:self,bytes=64M"), instead("proc:self,count=8"), instead("cpu:self,cpu=0.5"))
	show := "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max"
	giver.want(show, fmt.Sprintf("%d\n40\n150000 100000 [0]", 256<<20))
	var caps []capability.ID
	for class, l := range map[string]capability.Limits{"mem": {Bytes: 128 << 20}, "proc": {Count: 30}, "cpu": {MilliCPU: 1000}} {
		caps = append(caps, handOn(t, own(t, giver.id, class), taker.id, capability.Change{Limits: &l}).ID)
	}
	giver.want(show, fmt.Sprintf("%d\n10\n50000 100000 [0]", 128<<20))
	taker.want(show, fmt.Sprintf("%d\n38\n150000 100000 [0]", 192<<20))
	forks := "n=0; while [ $n -lt 20 ] && (sleep 100 & echo $! >> /tmp/p) 2>/dev/null; do n=$((n+1)); done; echo $n; kill $(cat /tmp/p) 2>/dev/null"
	taker.want(forks, "20 [0]")
	_, err := theKernel.CapDelegate(control.CapRequest{Cap: own(t, giver.id, "proc").ID, To: taker.id, Change: capability.Change{Limits: &capability.Limits{Count: 11}}})
	wantCode(t, err, errdefs.BudgetExhausted)
	for _, id := range caps {
		takeBack(t, id)
	}
	giver.want(show, fmt.Sprintf("%d\n40\n150000 100000 [0]", 256<<20))
	taker.want(show, fmt.Sprintf("%d\n8\n50000 100000 [0]", 64<<20))
	// It is real: a program that fits into the sum does not fit any more.
	out, errout, exit := taker.execIn(sh("exec dd if=/dev/zero of=/dev/null bs=100M count=1")).output()
	if exit == (control.Exit{}) {
		t.Errorf("beyond its memory: %q %q %+v", out, errout, exit)
	}
}

// TestNetworkIsCut revokes the network under connections and listeners.
func TestNetworkIsCut(t *testing.T) {
	s := idle(t, granted("mem:self", "proc:self", "cpu:self", "io:self"))
	s.want("nc 127.0.0.1 80", "nc: socket: Permission denied [1]")
	c := give(t, s.id, "net:loopback", "")
	server := s.execIn(sh("nc -l -p 4000; echo server $?"), func(p *control.Process) { p.Stdin = true })
	waiting := s.execIn(sh("nc -l -p 4001; echo waiting $?"))
	client := s.execIn(sh("until nc 127.0.0.1 4000 2>/dev/null; do :; done; echo client"), func(p *control.Process) { p.Stdin = true })
	time.Sleep(200 * time.Millisecond)
	client.send("hello\n")
	server.expect("hello")
	takeBack(t, c.ID)
	for _, x := range []*spawned{server, waiting, client} {
		x.wait()
	}
	s.want("nc 127.0.0.1 4000", "nc: socket: Permission denied [1]")
	give(t, s.id, "net:loopback", "")
	again := s.execIn(sh("nc -l -p 4000"))
	s.want("until echo anew | nc 127.0.0.1 4000 2>/dev/null; do :; done", "[0]")
	again.expect("anew")
}

// TestOtherDomains plays the daemon that reaches them.
func TestOtherDomains(t *testing.T) {
	_, key := racerDir(t)
	s := idle(t, named("exporter"))
	c := give(t, s.id, "fs:/grant:rw", key)
	var origin capability.ID
	asked := make(chan control.Ask, 4)
	theDaemon.mu.Lock()
	theDaemon.answer = func(q control.Ask) control.Answer {
		asked <- q
		if q.Kind != control.AskDelegate {
			return control.NewAnswer(q.Seq, nil, nil)
		}
		made, err := theKernel.CapExport(control.CapRequest{Cap: q.Cap.Cap, To: "elsewhere/far", Change: q.Cap.Change, Actor: q.Actor})
		if err != nil {
			return control.NewAnswer(q.Seq, nil, err)
		}
		origin = made.ID
		return control.NewAnswer(q.Seq, &control.Cap{ID: "c000000000001", Origin: made.ID}, nil)
	}
	theDaemon.mu.Unlock()
	t.Cleanup(func() {
		theDaemon.mu.Lock()
		theDaemon.answer = nil
		theDaemon.mu.Unlock()
	})
	ctl := func(command string) string {
		return s.run(fmt.Sprintf("exec 3<>/aios/ctl; echo '%s' >&3; cat <&3", command))
	}
	if out := ctl(fmt.Sprintf("delegate %d to=far rights=read", c.Handle)); !strings.HasPrefix(out, "ok ") {
		t.Fatal(out)
	}
	if q := <-asked; q.Kind != control.AskDelegate || q.Agent != s.id || q.Cap.Cap != c.ID {
		t.Errorf("%+v", q)
	}
	if out := ctl("revoke " + string(origin)); !strings.HasPrefix(out, "ok revoked=1") {
		t.Error(out)
	}
	if q := <-asked; q.Kind != control.AskRevoke || len(q.Exports) != 1 || q.Exports[0].Origin != origin || q.Exports[0].Remote != "elsewhere/far" {
		t.Errorf("%+v", q)
	}
	// An operator's revocation tells the daemon in the reply.
	if out := ctl(fmt.Sprintf("delegate %d to=far rights=read", c.Handle)); !strings.HasPrefix(out, "ok ") {
		t.Fatal(out)
	}
	<-asked
	if r := takeBack(t, c.ID); len(r.Exports) != 1 || r.Exports[0].Origin != origin {
		t.Errorf("%+v", r)
	}

	// The other way round: an image dies with its original.
	r, err := theKernel.CapGrant(control.GrantRequest{ID: s.id, Origin: "c0123456789ab", Grants: []control.Grant{{Spec: "fs:/grant:ro", Key: key}}})
	if err != nil {
		t.Fatal(err)
	}
	s.want("cat /grant/sub/in", "in sub [0]")
	for _, want := range []int{1, 0} {
		rep, err := theKernel.CapRevoke(control.RevokeRequest{Origin: "c0123456789ab"})
		if err != nil || rep.Count != want {
			t.Errorf("%+v, %v; want %d", rep, err, want)
		}
	}
	s.want("cat /grant/sub/in", "cat: can't open '/grant/sub/in': No such file or directory [1]")
	theDaemon.recorded(t, s.id, recordOf(capability.OpRevoke, r.Caps[0].ID))

	// Nobody there to ask.
	theDaemon.mu.Lock()
	theDaemon.answer = nil
	theDaemon.mu.Unlock()
	c = give(t, s.id, "fs:/grant:rw", key)
	if out := ctl(fmt.Sprintf("delegate %d to=far rights=read", c.Handle)); !strings.Contains(out, "DAEMON_UNREACHABLE") {
		t.Error(out)
	}
}

// TestEndOfTheGiver kills an agent that had handed something on.
func TestEndOfTheGiver(t *testing.T) {
	_, key := racerDir(t)
	giver, taker := idle(t), idle(t)
	c := give(t, giver.id, "fs:/grant:rw", key)
	d := lend(t, c, taker.id, capability.Change{At: ptr("/grant")})
	moved := give(t, giver.id, "fs:/moved:rw", key)
	lentAway, err := theKernel.CapDelegate(control.CapRequest{Cap: moved.ID, To: taker.id, Move: true, Change: capability.Change{At: ptr("/moved")}})
	if err != nil {
		t.Fatal(err)
	}
	h := taker.hold()
	giver.signal(9)
	giver.wait()
	theDaemon.recorded(t, taker.id, recordOf(capability.OpLost, c.ID))
	eventually(t, func() bool { return agentUnderTest(t, taker.id).grantOf(d.ID) == nil })
	if got := h.does("pread"); got != int(unix.EACCES) {
		t.Errorf("pread gives %d", got)
	}
	taker.want("cat /moved/sub/in", "in sub [0]") // What was moved away is the taker's.
	takeBack(t, lentAway.ID)
	taker.want("cat /moved/sub/in", "cat: can't open '/moved/sub/in': No such file or directory [1]")
}

// TestRevokeAllOfAnAgent takes everything from an agent.
func TestRevokeAllOfAnAgent(t *testing.T) {
	_, key := racerDir(t)
	s := idle(t)
	give(t, s.id, "fs:/grant:rw", key)
	// A program that is being loaded ends by itself, with 127.
	s.want("until grep -q '^1 (sleep) S' /proc/1/stat; do :; done; echo up", "up [0]")
	r, err := theKernel.CapRevoke(control.RevokeRequest{Agent: s.id, Reason: "test"})
	if err != nil || r.Count == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	// Without memory there is no agent.
	if exit := exits.wait(t, s.id, 0); exit.Signal != 9 || !strings.Contains(exit.Reason, "taken back") {
		t.Errorf("%+v", exit)
	}
}
