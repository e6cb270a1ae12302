package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A copy with less authority does less, at once, and whatever an operator tries it is
// given nothing.
func TestSpecialize(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		dir := t.TempDir()
		for _, d := range []string{"in", "out"} {
			if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		in.spawn(t, "--name", "worker", "--cpu", "weight=200", "--grant", "fs:"+dir+":rw,at=/data", "--grant", "net:loopback", "--", "sleep", "1000")
		in.spawn(t, "--name", "other", "--grant", "net:loopback", "--", "sleep", "1000")
		in.ok(t, "specialize", "--name", "reader", "--keep", "fs:"+dir+"/in:ro", "--cpu", "class=idle", "worker")
		in.ok(t, "exec", "worker", "--", "sh", "-c", "echo x > /data/in/x; echo y > /data/out/y")
		if got := string(in.ok(t, "exec", "reader", "--", "cat", "/data/in/x")); got != "x\n" {
			t.Errorf("it reads %q", got)
		}
		for _, script := range []string{"echo z > /data/in/z", "cat /data/out/y", "python3 -c 'import socket; socket.socket().connect((\"127.0.0.1\", 9))' 2>&1 | grep -q refused"} {
			if r := in.run(t, "exec", "reader", "--", "sh", "-c", script); r.status == 0 {
				t.Errorf("%s: %s", script, r)
			}
		}
		net := in.capOf(t, "other", "net:")
		in.ok(t, "clone", "--name", "reader-copy", "reader")
		for _, who := range []string{"reader", "reader-copy"} {
			for _, args := range [][]string{
				{"cap", "grant", who, "net:loopback"}, {"cap", "grant", who, "fs:" + dir + ":rw"}, {"cap", "delegate", net.ID, who},
				{"sched", "set", who, "weight=100"},
			} {
				if r := in.run(t, args...); r.status == 0 || !strings.Contains(string(r.stderr), "specialised") {
					t.Errorf("%v: %s", args, r)
				}
			}
			if c := in.capOf(t, who, "cpu:"); !strings.Contains(c.Spec, "idle=1") {
				t.Errorf("its CPU time is %s", c.Spec)
			}
			if got := string(in.ok(t, "inspect", "-o", "json", who)); !strings.Contains(got, `"specialized": true`) {
				t.Errorf("%s", got)
			}
		}
		in.ok(t, "template", "create", "--agent", "reader", "frozen")
		if r := in.run(t, "run", "--from", "frozen", "--grant", "net:loopback", "--", "true"); r.status == 0 || !strings.Contains(string(r.stderr), "specialised") {
			t.Errorf("%s", r)
		}
		if r := in.run(t, "specialize", "--keep", "net:*", "worker"); r.status == 0 || !strings.Contains(string(r.stderr), "nothing that covers it") {
			t.Errorf("%s", r)
		}
		if l := in.audit(t, "--op", "specialize"); len(l) != 1 || !strings.Contains(l[0].Reason, "idle=1") {
			t.Errorf("the trail has %+v", l)
		}
	})
}
