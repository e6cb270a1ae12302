package sentry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
)

// begin has an agent begin in the restored domain: as a copy of a template, or of an
// agent, as verb says. It returns the agent, and what the kernel says.
func (r *resurrected) begin(verb string, of *spawned) (*spawned, string) {
	r.t.Helper()
	s := &spawned{t: r.t, id: string(abi.NewAgentID()), log: filepath.Join(r.t.TempDir(), "log")}
	r.spec.Logs[s.id] = s.log
	said := r.ask(strings.Join([]string{verb, of.id, s.id, s.log}, " "))
	return s, said
}

// beginIn does it there.
func beginIn(k *Kernel, verb, text string) error {
	f := strings.Fields(text)
	log, err := os.Create(f[2])
	if err != nil {
		return err
	}
	if verb == "clone" {
		_, err := k.Clone(control.CloneRequest{ID: f[0], Copies: []control.CloneCopy{{ID: f[1], Hostname: "box"}}}, []*os.File{log})
		return err
	}
	return k.Spawn(control.SpawnRequest{ID: f[1], From: f[0], Hostname: "box", Grants: grants(everyGrant...)}, []*os.File{log})
}

// endIn waits there until an agent has ended.
func endIn(id string) control.Exit {
	for range 3000 {
		exits.mu.Lock()
		e, ok := exits.got[id][0]
		exits.mu.Unlock()
		if ok {
			return e
		}
		time.Sleep(10 * time.Millisecond)
	}
	return control.Exit{Reason: "it has not ended"}
}

// A template is part of a checkpoint: what begins from it in the restored domain goes
// on from where the template was, whatever calls its threads waited in, once more
// after another checkpoint, and until it is removed.
func TestCheckpointKeepsTemplates(t *testing.T) {
	needBlocked(t)
	waits := warm(t, []string{"/bin/blocked", "template"}, inBlocked)
	reads := warm(t, sh(`echo one > /tmp/f; read x; cat /tmp/f /aios/self/template /aios/self/job; echo read $x.`))
	before := spawn(t, nil, from(reads), detached)
	c := takeCheckpoint(t, waits, reads, before)

	// Here they are what they were.
	s := spawn(t, nil, from(waits), func(r *control.SpawnRequest) { r.Process.Stdin = false })
	if out, _, e := s.output(); out != andAlarm || e.Code != 0 {
		t.Errorf("after the checkpoint, from the template: %q, %+v", out, e)
	}

	r := c.restore()
	time.Sleep(300 * time.Millisecond) // Timers of theirs end.
	for range 2 {
		a, said := r.begin("spawn", waits)
		if said != "spawned <nil>" {
			t.Fatal(said)
		}
		if got := r.expectText(a, "over\n"); got != andAlarm {
			t.Errorf("from the restored template: %q", got)
		}
		a, said = r.begin("spawn", reads)
		if want := "one\nfrom " + reads.id + "\n{\"args\":[],\"env\":{}}\nread .\n"; said != "spawned <nil>" || r.expectText(a, "read .") != want {
			t.Errorf("%s, %q, want %q", said, r.text(a.id), want)
		}
	}
	for _, tpl := range []*spawned{waits, reads} {
		if said := r.ask("state " + tpl.id); said != "template <nil>" {
			t.Errorf("it is %s", said)
		}
		if text := r.text(tpl.id); text != "" {
			t.Errorf("the template says %q", text)
		}
		if said := r.ask("resume " + tpl.id); !strings.Contains(said, "is not paused") {
			t.Errorf("resumed, it says %q", said)
		}
		if said := r.ask("account " + tpl.id); !strings.Contains(said, `"memory":{"now":`) || strings.Contains(said, `"memory":{"now":0,`) {
			t.Errorf("it counts for nothing: %s", said)
		}
	}
	if said := r.ask("kill " + reads.id); said != "killed <nil>" {
		t.Error(said)
	}
	if said := r.ask("ended " + reads.id); !strings.HasPrefix(said, "signal 9") {
		t.Errorf("removed, it %s", said)
	}
	if _, said := r.begin("spawn", reads); strings.HasSuffix(said, "<nil>") {
		t.Errorf("of one that is gone: %s", said)
	}
	r.ask("end")
}

// A template that was restored and has not run since is saved as it is.
func TestCheckpointOfARestoredTemplate(t *testing.T) {
	needBlocked(t)
	tpl := warm(t, []string{"/bin/blocked", "template"}, inBlocked)
	again := takeCheckpoint(t, tpl).restore().again(tpl)
	r := again.restore()
	a, said := r.begin("spawn", tpl)
	if said != "spawned <nil>" {
		t.Fatal(said)
	}
	if got := r.expectText(a, "over\n"); got != andAlarm {
		t.Errorf("from the template that was restored twice: %q", got)
	}
	r.ask("end")
}

// again saves the domain that was restored, and ends it.
func (r *resurrected) again(agents ...*spawned) *checkpointed {
	r.t.Helper()
	dir := r.t.TempDir()
	said := r.ask("save " + dir)
	if said != "saved <nil>" {
		r.t.Fatal(said)
	}
	r.ask("end")
	c := &checkpointed{t: r.t, spec: r.spec}
	c.spec.State, c.spec.Memory, c.spec.Packs = filepath.Join(dir, "state"), filepath.Join(dir, "memory"), []string{filepath.Join(dir, "pages")}
	c.spec.Logs = map[string]string{}
	for _, a := range agents {
		c.spec.Logs[a.id] = r.spec.Logs[a.id]
	}
	return c
}

// saveIn does it there.
func saveIn(k *Kernel, dir string) error {
	var files []*os.File
	for _, name := range []string{"state", "memory", "pages"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	_, err := k.Checkpoint(control.CheckpointRequest{}, files)
	return err
}

// An agent that was paused is copied after a restore before any of its threads has run.
func TestCloneOfARestoredAgent(t *testing.T) {
	needBlocked(t)
	s := spawn(t, []string{"/bin/blocked"}, inBlocked)
	s.expect("ready\n")
	s.pause()
	r := takeCheckpoint(t, s).restore()
	a, said := r.begin("clone", s)
	if said != "cloned <nil>" {
		t.Fatal(said)
	}
	if got := r.expectText(a, "over\n"); got != wasBlocked {
		t.Errorf("the copy says %q", got)
	}
	if said := r.ask("resume " + s.id); said != "resumed <nil>" {
		t.Error(said)
	}
	if got := r.expectText(s, "over\n"); got != "ready\n"+wasBlocked {
		t.Errorf("the original says %q", got)
	}
	r.ask("end")
}

// What becomes a template is waited for by somebody who is no part of the checkpoint.
func TestCheckpointRefusesWhatBecomesATemplate(t *testing.T) {
	s := spawn(t, sh("sleep 100"), func(r *control.SpawnRequest) {
		r.Attach, r.Template = false, &control.WarmUp{Timeout: 30 * time.Second}
	})
	if _, err := tryCheckpoint(t, s); err == nil || !strings.Contains(err.Error(), "about to become a template") {
		t.Errorf("it is saved: %v", err)
	}
}

// A timer that expires while a template stands still interrupts, in each copy, the call
// that it would have interrupted.
func TestTimersOfTemplatesInterrupt(t *testing.T) {
	needBlocked(t)
	const want = "read: -4, alarms: 1\n"
	tpl := warm(t, []string{"/bin/blocked", "alarm"}, inBlocked)
	c := takeCheckpoint(t, tpl)
	time.Sleep(150 * time.Millisecond)
	for range 2 {
		if out, _, e := spawn(t, nil, from(tpl)).output(); out != want || e.Code != 0 {
			t.Errorf("%q, %+v", out, e)
		}
	}
	r := c.restore()
	time.Sleep(150 * time.Millisecond)
	for range 2 {
		a, said := r.begin("spawn", tpl)
		if said != "spawned <nil>" {
			t.Fatal(said)
		}
		if got := r.expectText(a, "\n"); got != want {
			t.Errorf("restored: %q", got)
		}
	}
	r.ask("end")
}

// What a copy's programs are told of devices is part of a checkpoint.
func TestCheckpointKeepsDevices(t *testing.T) {
	look := "stat -c %d /file /tmp/file /bin/busybox"
	s := spawn(t, sh(`echo x > /file; echo x > /tmp/file; `+look+` > /before; echo ready; while usleep 100000; do `+look+` | cmp -s - /before && echo same || echo other; done`))
	s.expect("ready\n")
	c := s.clone(1)[0]
	r := takeCheckpoint(t, s, c).restore()
	for _, x := range []*spawned{s, c} {
		if got := r.expectText(x, "same\nsame\n"); strings.Contains(got, "other") {
			t.Errorf("%s says %q", x.id, got)
		}
	}
	r.ask("end")
}
