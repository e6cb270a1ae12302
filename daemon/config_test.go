package daemon

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/hub"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// writeConfig writes the configuration file of a daemon.
func writeConfig(t testing.TB, d *System, text string) {
	t.Helper()
	if err := os.WriteFile(d.paths.Config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// published returns the events of a topic that the journal has.
func published(t testing.TB, d *System, topic string) []event.Event {
	t.Helper()
	s, err := d.events.Subscribe(hub.Options{Topics: []string{topic}, Past: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out []event.Event
	for {
		e, missed, err := s.Next(context.Background())
		switch {
		case err == io.EOF:
			return out
		case err != nil || missed != nil:
			t.Fatal(missed, err)
		}
		out = append(out, e)
	}
}

func TestSettingsAreExamined(t *testing.T) {
	dir := t.TempDir()
	paths := config.Paths{Config: filepath.Join(dir, "c.yaml")}
	if exists, err := CheckConfig(paths); exists || err != nil {
		t.Errorf("no file: %v, %v", exists, err)
	}
	named := paths
	named.ConfigNamed = true
	if _, err := CheckConfig(named); errdefs.CodeOf(err) != errdefs.ConfigInvalid {
		t.Errorf("a file that was named and is not there: %v", err)
	}
	check := func(text string) error {
		if err := os.WriteFile(paths.Config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := CheckConfig(paths)
		return err
	}
	for _, good := range []string{"", "version: 1", "version: 1\nlog: {format: json, levels: 'gvisor=info,*=warning'}\njournal: {size: 16M, age: 1m}"} {
		if err := check(good); good != "" && err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for text, what := range map[string]string{
		"log: {format: json}":                     "c.yaml: version: the file does not say",
		"version: 2":                              "c.yaml:1:10: version: this release reads version 1, not 2",
		"version: 1\nlog: {format: xml}":          `c.yaml:2:15: log.format: "xml"`,
		"version: 1\nlog: {levels: loud}":         "c.yaml:2:15: log.levels: ",
		"version: 1\njournal: {size: 1M}":         "c.yaml:2:17: journal.size: ",
		"version: 1\njournal:\n  age: 10s":        "c.yaml:3:8: journal.age: ",
		"version: 1\nsomething: {of: the future}": `c.yaml:2:1: there is no key "something"`,
	} {
		err := check(text)
		if errdefs.CodeOf(err) != errdefs.ConfigInvalid || !strings.Contains(err.Error(), what) || errdefs.FixOf(err) == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTheEnvironmentCountsBeforeTheFile(t *testing.T) {
	s := &settings{Config: Config{Log: LogConfig{Format: "json", Levels: "gvisor=info"}}}
	for _, tc := range []struct {
		env  map[string]string
		json bool
		want string
	}{
		{nil, true, "gvisor=info"},
		{map[string]string{config.LogFormatEnv: "text"}, false, "gvisor=info"},
		{map[string]string{config.LogLevelEnv: "*=debug"}, true, "*=debug"},
	} {
		l, err := s.logging(config.Host{Getenv: func(k string) string { return tc.env[k] }})
		if err != nil || l.JSON != tc.json || l.Levels != tc.want {
			t.Errorf("%v: %+v, %v", tc.env, l, err)
		}
	}
}

// TestReload: what changes counts and is told; what cannot be read changes
// nothing.
func TestReload(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	ctx := context.Background()
	reload := func() (*apiv1.ConfigReloadResponse, error) { return d.ConfigReload(ctx, nil) }
	level := func() recovery.Level { return d.health.Worst() }

	if r, err := reload(); err != nil || r.GetExists() || len(r.GetChanges()) > 0 {
		t.Fatalf("no file: %v, %v", r, err)
	}
	writeConfig(t, d, "version: 1\njournal: {age: 2d}\n")
	r, err := reload()
	if err != nil || !r.GetExists() || len(r.GetChanges()) != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	if c := r.GetChanges()[0]; c.GetKey() != "journal.age" || c.GetBefore() != "" || c.GetAfter() != "2d" || !c.GetNeedsRestart() {
		t.Errorf("%v", c)
	}
	if r, err := reload(); err != nil || len(r.GetChanges()) > 0 {
		t.Errorf("the same again: %v, %v", r, err)
	}

	writeConfig(t, d, "version: 1\njournal: {age: 2d}\nlog: {format: yes}\n")
	if _, err := reload(); errdefs.CodeOf(err) != errdefs.ConfigInvalid || !strings.Contains(err.Error(), ":3:15: ") {
		t.Errorf("a bad file: %v", err)
	}
	st, err := d.ConfigStatus(ctx, nil)
	if err != nil || !strings.Contains(st.GetFailure(), "log.format") || d.configured.current().Journal.Age != 48*time.Hour || level() != recovery.Degraded {
		t.Errorf("after a bad file: %v, %v, %v", st, err, d.health.List())
	}

	writeConfig(t, d, "version: 1\n")
	if _, err := reload(); err != nil || d.configured.current().Journal.Age != 0 || level() != recovery.OK {
		t.Errorf("mended: %v, %v", err, d.health.List())
	}
	if st, _ := d.ConfigStatus(ctx, nil); st.GetFailure() != "" {
		t.Errorf("mended: %v", st)
	}

	all := published(t, d, "config.changed")
	if len(all) != 2 {
		t.Fatalf("%d events for two changes", len(all))
	}
	if p := all[1].Payload.(*eventv1.ConfigChanged); len(p.GetChanges()) != 1 || p.GetChanges()[0].GetBefore() != "2d" || p.GetFile() != d.paths.Config || p.GetBy() != "operator" {
		t.Errorf("%v", p)
	}
	if err := d.trail.Sync(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for e, err := range audit.Query(d.trail.Dir(), audit.Filter{Ops: []string{"config"}}) {
		if err != nil || e.Actor != "operator" || e.Target != d.paths.Config || !strings.Contains(e.Reason, "journal.age") {
			t.Errorf("%+v, %v", e, err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d entries in the audit trail", n)
	}
}

func TestReloadOnHangup(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	sub, err := d.events.Subscribe(hub.Options{Topics: []string{"config.changed"}})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	stop := d.reloadOnHangup()
	defer stop()
	writeConfig(t, d, "version: 1\n")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	e, _, err := sub.Next(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if p := e.Payload.(*eventv1.ConfigChanged); p.GetBy() != "SIGHUP" || !slices.ContainsFunc(p.GetChanges(), func(c *eventv1.ConfigChanged_Change) bool { return c.GetKey() == "version" }) {
		t.Errorf("%v", p)
	}
}
