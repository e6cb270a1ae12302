package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// config writes the configuration file of the installation.
func (in *install) config(t testing.TB, text string) string {
	t.Helper()
	must(t, os.MkdirAll(in.state, 0o700))
	path := filepath.Join(in.state, "config.yaml")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestConfiguration: a bad file is refused with its place, before a daemon
// starts and while one runs; a good one counts at once.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	path := in.config(t, "version: 1\njurnal: {age: 1d}\n")
	refused := func(args ...string) {
		t.Helper()
		r := in.run(t, args...)
		if r.status != 125 || !strings.Contains(string(r.stderr), path+`:2:1: there is no key "jurnal"`) || !strings.Contains(string(r.stderr), "fix: write journal") {
			t.Errorf("aiosctl %s: %s", strings.Join(args, " "), r)
		}
	}
	refused("daemon", "check")
	refused("daemon", "start")

	in.config(t, "version: 1\njournal: {age: 1d}\n")
	in.ok(t, "daemon", "check")
	in.ok(t, "daemon", "start")
	if out := string(in.ok(t, "daemon", "status")); !strings.Contains(out, path) {
		t.Errorf("status: %s", out)
	}
	id := in.spawn(t, "--", "sleep", "1000")

	in.config(t, "version: 1\njurnal: {age: 1d}\n")
	refused("daemon", "reload")
	if r := in.run(t, "health"); r.status != 1 || !strings.Contains(string(r.stdout), "configuration") {
		t.Errorf("health: %s", r)
	}
	in.config(t, "version: 1\njournal: {age: 2d}\n")
	if out := string(in.ok(t, "daemon", "reload")); !strings.Contains(out, "journal.age") || !strings.Contains(out, "2d") {
		t.Errorf("reload: %s", out)
	}
	in.ok(t, "health")
	in.config(t, "version: 1\njournal: {age: 3d}\n")
	must(t, syscall.Kill(in.process(t, "serve"), syscall.SIGHUP))
	eventually(t, "the file is read again", 10*time.Second, func() (bool, string) {
		out := string(in.ok(t, "events", "--topic", "config.changed"))
		return strings.Contains(out, "before=2d after=3d") && strings.Contains(out, "by=SIGHUP"), out
	})
	if out := string(in.ok(t, "ps")); !strings.Contains(out, id) {
		t.Errorf("the agent is gone: %s", out)
	}
	in.ok(t, "daemon", "stop")

	other := filepath.Join(in.dir, "other.yaml")
	if r := in.run(t, "daemon", "start", "--config", other); r.status != 125 || !strings.Contains(string(r.stderr), other) {
		t.Errorf("a file that is not there: %s", r)
	}
	must(t, os.WriteFile(other, []byte("version: 1\n"), 0o600))
	in.ok(t, "daemon", "start", "--config", other)
	in.ok(t, "daemon", "start", "--config", other)
	if r := in.run(t, "daemon", "start", "--config", path); r.status == 0 || !strings.Contains(string(r.stderr), "runs already, with "+other) {
		t.Errorf("another file: %s", r)
	}
}
