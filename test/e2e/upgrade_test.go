package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// version imports an image of busybox that says its name in /version.
func (in *install) version(t *testing.T, name string) {
	t.Helper()
	root := t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "bin"), 0o755))
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("no busybox")
	}
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755))
	for _, l := range []string{"sh", "cat", "touch", "test", "sleep"} {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", l)))
	}
	must(t, os.WriteFile(filepath.Join(root, "version"), []byte(name+"\n"), 0o644))
	in.ok(t, "image", "import", name, root)
}

// isOf waits until an agent runs from an image, and says so.
func (in *install) isOf(t *testing.T, agent, image string) {
	t.Helper()
	eventually(t, agent+" is of "+image, 30*time.Second, func() (bool, string) {
		r := in.run(t, "exec", agent, "--", "/bin/cat", "/version")
		return r.status == 0 && string(r.stdout) == image+"\n" && in.inspect(t, agent).Image == image, r.String()
	})
}

// A new image for the same agent; if its program is not well, the old one goes on
// without a gap.
func TestUpgrade(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		in.version(t, "one")
		in.version(t, "two")
		dir := t.TempDir()
		id := in.spawn(t, "--name", "web", "--image", "one", "--restart", "always", "--grant", "fs:"+dir+":rw,at=/data", "--", "/bin/sh", "-c", counter)
		in.countsOn(t, "web")
		in.ok(t, "exec", "web", "--", "/bin/sh", "-c", "echo kept > /mine; mkdir -p /usr/local; echo deep > /usr/local/made")
		caps := fmt.Sprint(in.caps(t, "web"))
		for _, try := range []struct{ says, args string }{
			{"ended with status 3", "--image two -- /bin/sh -c|echo x > /mine; exit 3"},
			{"did not succeed within", "--image two --timeout 500ms --health-cmd false -- /bin/sh -c|echo x > /mine; sleep 1000"},
			{"no such program", "--image two -- /bin/nosuch"},
			{"nosuch", "--image nosuch"},
		} {
			words, script, _ := strings.Cut(try.args, "|")
			args := append([]string{"upgrade", "web"}, strings.Fields(words)...)
			if script != "" {
				args = append(args, script)
			}
			if r := in.run(t, args...); r.status == 0 || !strings.Contains(string(r.stderr), try.says) {
				t.Errorf("%v: %s", args, r)
			}
			in.countsOn(t, "web")
		}
		for i, line := range strings.Fields(string(in.ok(t, "logs", "web"))) {
			if line != strconv.Itoa(i+1) {
				t.Fatalf("line %d of the log is %q", i+1, line)
			}
		}
		in.isOf(t, "web", "one")
		in.ok(t, "upgrade", "web", "--image", "two", "--health-cmd", "test -e /up", "--", "/bin/sh", "-c", "touch /up; "+counter)
		in.isOf(t, "web", "two")
		if got := string(in.ok(t, "exec", "web", "--", "/bin/cat", "/mine", "/usr/local/made")); got != "kept\ndeep\n" {
			t.Errorf("its files are %q", got)
		}
		if a := in.inspect(t, "web"); a.ID != id || fmt.Sprint(in.caps(t, "web")) != caps {
			t.Errorf("it is %+v with %v", a, in.caps(t, "web"))
		}
		if l := in.audit(t, "--op", "upgrade"); len(l) != 4 || l[0].Code != "UPGRADE_FAILED" || l[3].Code != "" || l[3].Target != "two" {
			t.Errorf("the trail has %+v", l)
		}
		// It is started again as what it has become.
		in.run(t, "exec", "web", "--", "/bin/sh", "-c", "kill -9 1")
		in.isOf(t, "web", "two")
		// From the host's image, what was made among its directories comes along.
		in.spawn(t, "--name", "host", "--", "sh", "-c", "mkdir -p /usr/local/share/x; echo made > /usr/local/share/x/f; echo t > /tmp/t; echo ready; exec sleep 1000")
		eventually(t, "the host's is ready", 20*time.Second, func() (bool, string) {
			l := string(in.ok(t, "logs", "host"))
			return l == "ready\n", l
		})
		in.ok(t, "upgrade", "host", "--image", "one", "--timeout", "200ms", "--", "/bin/sleep", "1000")
		if got := string(in.ok(t, "exec", "host", "--", "/bin/cat", "/version", "/usr/local/share/x/f", "/tmp/t")); got != "one\nmade\nt\n" {
			t.Errorf("it has %q", got)
		}
	})
}

// Whoever is killed while an upgrade is undecided, the agent is the old one or the new
// one after.
func TestUpgradeKilled(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.version(t, "one")
		in.version(t, "two")
		dir := t.TempDir()
		in.spawn(t, "--name", "web", "--image", "one", "--restart", "always", "--grant", "fs:"+dir+":rw,at=/data", "--", "/bin/sh", "-c", counter)
		in.countsOn(t, "web")
		try := func(name, timeout string) { // What was a file for an agent, and is removed here, it may not miss at once.
			in.start(t, "upgrade", "web", "--image", "two", "--timeout", timeout, "--health-cmd", "test -e /data/well-"+name, "--",
				"/bin/sh", "-c", "touch /data/"+name+"; "+counter)
			eventually(t, "the new program runs", 20*time.Second, func() (bool, string) {
				_, err := os.Stat(filepath.Join(dir, name))
				return err == nil, fmt.Sprint(err)
			})
		}
		// The daemon, and it is not well.
		try("first", "2s")
		kill9(t, in.process(t, "serve"))
		in.isOf(t, "web", "one")
		in.countsOn(t, "web")
		next := 1 // What the new program and others have said is among it.
		for _, line := range strings.Fields(string(in.ok(t, "logs", "web"))) {
			n, err := strconv.Atoi(line)
			if err == nil && n > next {
				t.Fatalf("it has counted %d, and before it no more than %d", n, next-1)
			}
			if n == next {
				next++
			}
		}
		// The daemon, and it is.
		try("second", "30s")
		kill9(t, in.process(t, "serve"))
		must(t, os.WriteFile(filepath.Join(dir, "well-second"), nil, 0o644))
		in.isOf(t, "web", "two")
		// The kernel process: the agent was lost, and is started again as what it was.
		in.ok(t, "rm", "-f", "web")
		in.spawn(t, "--name", "web", "--image", "one", "--restart", "always", "--grant", "fs:"+dir+":rw,at=/data", "--", "/bin/sh", "-c", counter)
		try("third", "30s")
		kill9(t, in.process(t, "kernel"))
		in.isOf(t, "web", "one")
		in.countsOn(t, "web")
	})
}
