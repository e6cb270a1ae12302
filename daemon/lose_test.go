package daemon

import (
	"io"
	"log/slog"
	"os"
	"testing"

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
		if !d.lose(r, "a test", verdict{ok: true}) || d.lose(r, "a test", verdict{ok: true}) {
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
