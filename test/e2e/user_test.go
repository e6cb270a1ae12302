package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestOrdinaryUser does what matters most without any privilege.
func TestOrdinaryUser(t *testing.T) {
	const uid = 54321
	onOne(t, func(t *testing.T, in *install) {
		in.asUser(t, uid)
		if got := in.sh(t, "echo hello; id -u; hostname", "--name", "job"); got != "hello\n0\njob\n" {
			t.Errorf("%q", got)
		}
		if r := in.agent(t, "--", "sh", "-c", "exit 7"); r.status != 7 {
			t.Errorf("%s", r)
		}
		for _, p := range in.processes() {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
			if err == nil && !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", uid)) {
				t.Errorf("%v runs as another user:\n%s", p, status)
			}
		}
		// Files: what the user may do, the agent may do.
		dir := filepath.Join(in.dir, "mine")
		must(t, os.Mkdir(dir, 0o700))
		must(t, os.Chown(dir, uid, uid))
		roots := filepath.Join(in.dir, "roots")
		must(t, os.Mkdir(roots, 0o755))
		must(t, os.WriteFile(filepath.Join(roots, "secret"), []byte("secret"), 0o600))
		in.sh(t, "echo written > /m/f && cat /m/f", "--mount", dir+":/m:rw")
		raw, err := os.ReadFile(filepath.Join(dir, "f"))
		if string(raw) != "written\n" {
			t.Errorf("%q %v", raw, err)
		}
		if fi, err := os.Stat(filepath.Join(dir, "f")); err != nil || fi.Sys().(*syscall.Stat_t).Uid != uid {
			t.Errorf("the file's owner: %v %v", fi, err)
		}
		if r := in.agent(t, "--mount", roots+":/m:rw", "--", "sh", "-c", "cat /m/secret; touch /m/x"); r.status == 0 || strings.Contains(string(r.stdout), "secret") {
			t.Errorf("the agent of a user reads and writes what is root's: %s", r)
		}
		// The rest of an agent's life.
		data := noise(8, 1<<20)
		if r := in.runWith(t, bytes.NewReader(data), in.runArgs("--", "cat")...); !bytes.Equal(r.stdout, data) {
			t.Errorf("%d bytes of %d, or others", len(r.stdout), len(data))
		}
		in.spawn(t, "--name", "counter", "--", "sh", "-c", counter)
		in.countsOn(t, "counter")
		kill9(t, in.process(t, "serve"))
		in.countsOn(t, "counter")
		in.ok(t, "pause", "counter")
		in.ok(t, "resume", "counter")
		if got := string(in.ok(t, "exec", "counter", "--", "id", "-u")); got != "0\n" {
			t.Errorf("%q", got)
		}
		if r := in.agent(t, "--memory", "100M", "--", "python3", "-c", "a = [b'x' * (1 << 20 | i) for i in range(1000)]"); r.status != 137 {
			t.Errorf("a memory hog: %s", r)
		}
		in.ok(t, "rm", "-f", "counter")
		if r := in.run(t, "doctor"); r.status != 0 {
			t.Errorf("doctor: %s", r)
		}
		// Root and the user are served, nobody else.
		stranger := *in
		stranger.uid = uid + 1
		if r := stranger.run(t, "ps"); r.status != 125 || !strings.Contains(string(r.stderr), "fix: ") {
			t.Errorf("another user: %s", r)
		}
		root := *in
		root.uid = 0
		root.ok(t, "ps")
	})
}
