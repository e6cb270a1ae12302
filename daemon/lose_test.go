package daemon

import (
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/config"
	"aios.dev/aios/ktime"
)

// TestLostAgentsAreForgottenAsAsked checks that the death of a domain leaves
// the records of agents that were to be kept, and no others.
func TestLostAgentsAreForgottenAsAsked(t *testing.T) {
	d := &System{
		paths: config.Paths{Agents: t.TempDir()}, clock: ktime.Real, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		domains: map[string]*domain{}, agents: map[string]*record{}, names: map[string]*record{},
	}
	for id, spec := range map[string]*apiv1.SpawnRequest{
		"a00000000000a": {Name: "kept"},
		"a00000000000b": {Name: "dropped", Remove: true},
	} {
		r := newRecord(id, spec, defaultDomain, d.clock.Now())
		r.hear() // A client waits.
		if err := d.reserve(nil, r); err != nil {
			t.Fatal(err)
		}
		if err := d.create(r); err != nil {
			t.Fatal(err)
		}
		if !d.lose(r, "a test", verdict{ok: true}, false) || d.lose(r, "a test", verdict{ok: true}, false) {
			t.Errorf("%s was not lost once", id)
		}
		<-r.settled
		if r.exitOf().GetReason() != "a test" {
			t.Errorf("%s ended with %v", id, r.exitOf())
		}
		_, known := d.find(id)
		_, file := os.Stat(d.recordPath(id))
		if kept := !spec.GetRemove(); (known == nil) != kept || (file == nil) != kept {
			t.Errorf("%s: known %v, file %v", id, known, file)
		}
	}
}

// TestLostTemplatesWait for what becomes of their domain, which goes on from its
// checkpoint or does not.
func TestLostTemplatesWait(t *testing.T) {
	d := &System{
		paths: config.Paths{Agents: t.TempDir()}, clock: ktime.Real, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		domains: map[string]*domain{}, agents: map[string]*record{}, names: map[string]*record{},
	}
	for _, goesOn := range []bool{false, true} {
		r := newRecord("a00000000000c", &apiv1.SpawnRequest{Name: "py", Remove: true, Template: &apiv1.TemplatePolicy{}}, defaultDomain, d.clock.Now())
		r.hear()
		if err := d.reserve(nil, r); err != nil {
			t.Fatal(err)
		}
		d.lose(r, "a test", verdict{ok: true}, goesOn)
		if _, err := d.find(r.id); (err == nil) != goesOn || !r.lostWithDomain() {
			t.Errorf("it goes on: %v, and the template is known: %v", goesOn, err)
		}
	}
}

// TestForgottenLaterIfItHasNotGoneOn: an agent that is not to be kept is forgotten some
// time after it was lost, but not if it has come back from a checkpoint by then.
func TestForgottenLaterIfItHasNotGoneOn(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1e9, 0))
	d := &System{
		paths: config.Paths{Agents: t.TempDir()}, clock: clock, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		domains: map[string]*domain{}, agents: map[string]*record{}, names: map[string]*record{},
	}
	spec := &apiv1.SpawnRequest{Name: "brief", Remove: true}
	r := newRecord("a00000000000d", spec, defaultDomain, clock.Now())
	if err := d.reserve(nil, r); err != nil {
		t.Fatal(err)
	}
	d.lose(r, "a test", verdict{ok: true}, true)
	back := newRecord(r.id, spec, defaultDomain, clock.Now())
	d.addRecord(back)
	clock.Advance(unheard)
	if got, err := d.find(r.id); got != back {
		t.Errorf("what came back is forgotten: %v", err)
	}
}
