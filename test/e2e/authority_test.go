package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// capability is what `cap ls -o json` prints.
type capability struct {
	ID, Agent, Domain, Spec, Left, Parent, Origin, Remote string
	AgentName                                             string `json:"agent_name"`
	Handle                                                uint64
	Sealed                                                bool
	LeaseNano                                             int64 `json:"lease_nano"`
}

func (in *install) caps(t testing.TB, agent ...string) []capability {
	t.Helper()
	var out []capability
	raw := in.ok(t, append([]string{"cap", "ls", "-o", "json"}, agent...)...)
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return out
}

// capOf returns the agent's capability whose grant begins with prefix.
func (in *install) capOf(t testing.TB, agent, prefix string) capability {
	t.Helper()
	all := in.caps(t, agent)
	i := slices.IndexFunc(all, func(c capability) bool { return strings.HasPrefix(c.Spec, prefix) })
	if i < 0 {
		t.Fatalf("%s has no %s: %+v", agent, prefix, all)
	}
	return all[i]
}

// auditEntry is a line of the audit trail.
type auditEntry struct {
	Seq                                                                                   uint64
	Op, Domain, Actor, Agent, Target, Cap, Parent, Spec, Errno, Code, Reason, Correlation string
	Count                                                                                 uint64
}

func (in *install) audit(t testing.TB, args ...string) []auditEntry {
	t.Helper()
	var out []auditEntry
	for _, line := range bytes.Split(bytes.TrimSpace(in.ok(t, append([]string{"audit", "query", "-o", "json"}, args...)...)), []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var e auditEntry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		out = append(out, e)
	}
	return out
}

// TestGrantUseRevoke is what the README shows.
func TestGrantUseRevoke(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"in/report": []byte("q3\n")})
		id := in.spawn(t, "--name", "web", "--", "sh", "-c", "while [ ! -d /data/in ]; do sleep 0.05; done; exec 3>>/data/log; while echo tick >&3; do sleep 0.05; done; echo lost; sleep 1000")
		in.ok(t, "cap", "grant", "web", "fs:"+dir+":rw,at=/data,quota=1M")
		log := filepath.Join(dir, "log")
		eventually(t, "it writes", 20*time.Second, func() (bool, string) {
			raw, _ := os.ReadFile(log)
			return bytes.Contains(raw, []byte("tick")), string(raw)
		})
		c := in.capOf(t, "web", "fs:")
		if c.Agent != id || c.AgentName != "web" || c.Handle == 0 {
			t.Errorf("%+v", c)
		}
		if r := in.run(t, "cap", "explain", "web", "open /data/log w"); r.status != 0 || !strings.Contains(string(r.stdout), c.ID) {
			t.Errorf("explain: %s", r)
		}
		if got := string(in.ok(t, "cap", "revoke", fmt.Sprintf("web#%d", c.Handle))); got != "revoked 1 capability of web\n" {
			t.Errorf("%q", got)
		}
		after, _ := os.ReadFile(log)
		eventually(t, "it notices", 20*time.Second, func() (bool, string) {
			out := string(in.ok(t, "logs", "web"))
			return strings.Contains(out, "lost"), out
		})
		if now, _ := os.ReadFile(log); !bytes.Equal(now, after) {
			t.Errorf("written after the revocation: %q", now[len(after):])
		}
		if r := in.run(t, "exec", "web", "--", "sh", "-c", "ls /data; grep -c grantfs /proc/mounts"); strings.Contains(string(r.stdout), "in") {
			t.Errorf("the files are there: %s", r)
		}
		if r := in.run(t, "cap", "explain", "web", "open /data/log w"); r.status != 1 {
			t.Errorf("explain: %s", r)
		}
		if r := in.run(t, "cap", "revoke", c.ID); r.status != 125 || !strings.Contains(string(r.stderr), "no such capability") {
			t.Errorf("revoked again: %s", r)
		}
		var ops []string
		for _, e := range in.audit(t, "--capability", c.ID) {
			ops = append(ops, e.Op)
			if e.Correlation == "" || e.Actor == "" || e.Agent != id || e.Domain != "default" {
				t.Errorf("%+v", e)
			}
		}
		if !slices.Equal(ops, []string{"mint", "revoke"}) {
			t.Errorf("audit: %v", ops)
		}
		eventually(t, "the refusal is recorded", 10*time.Second, func() (bool, string) {
			all := in.audit(t, "--op", "denied", "--agent", "web")
			return slices.ContainsFunc(all, func(e auditEntry) bool {
				return strings.HasSuffix(e.Target, "/log") && e.Errno == "EACCES"
			}), fmt.Sprintf("%+v", all)
		})
	})
}

// TestDelegation hands authority to neighbours, here and in another domain,
// and takes it all back at its root.
func TestDelegation(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"in/report": []byte("q3\n"), "secret": []byte("no\n")})
		if err := os.Symlink("../secret", filepath.Join(dir, "in/link")); err != nil {
			t.Fatal(err)
		}
		in.spawn(t, "--name", "giver", "--grant", "fs:"+dir+":rw,quota=1M,at=/data", "--", "sleep", "1000")
		in.spawn(t, "--name", "near", "--", "sleep", "1000")
		in.spawn(t, "--name", "far", "--domain", "elsewhere", "--", "sleep", "1000")
		c := in.capOf(t, "giver", "fs:")
		in.ok(t, "cap", "delegate", c.ID, "near", "--object", filepath.Join(dir, "in"), "--rights", "read", "--at", "/in")
		in.ok(t, "cap", "delegate", c.ID, "far", "--rights", "read", "--at", "/all", "--lease", "1h")
		for _, step := range []struct{ agent, script, want string }{
			{"near", "cat /in/report; cat /in/link 2>/dev/null; cat /in/../secret 2>/dev/null; echo $?", "q3\n1\n"},
			{"near", "echo x 2>/dev/null > /in/report; echo $?", "2\n"},
			{"far", "cat /all/in/report /all/secret", "q3\nno\n"},
		} {
			if r := in.run(t, "exec", step.agent, "--", "sh", "-c", step.script); string(r.stdout) != step.want {
				t.Errorf("%s in %s: %s", step.script, step.agent, r)
			}
		}
		// Nothing more than what there is, and nothing from what is sealed.
		for want, args := range map[string][]string{
			"RIGHTS":  {"cap", "delegate", in.capOf(t, "near", "fs:").ID, "giver", "--rights", "write"},
			"outside": {"cap", "delegate", in.capOf(t, "near", "fs:").ID, "giver", "--object", dir},
		} {
			if r := in.run(t, args...); r.status != 125 {
				t.Errorf("%s: %s", want, r)
			}
		}
		in.ok(t, "cap", "seal", in.capOf(t, "near", "fs:").ID)
		if r := in.run(t, "cap", "delegate", in.capOf(t, "near", "fs:").ID, "giver", "--at", "/x"); r.status != 125 || !strings.Contains(string(r.stderr), "seal") {
			t.Errorf("delegated what is sealed: %s", r)
		}
		tree := string(in.ok(t, "cap", "tree"))
		if !strings.Contains(tree, "├─ near#") || !strings.Contains(tree, "in elsewhere/") {
			t.Errorf("%s", tree)
		}
		if got := string(in.ok(t, "cap", "revoke", c.ID, "--reason", "test")); got != "revoked 4 capabilities of far, giver, near\n" {
			t.Errorf("%q", got)
		}
		for agent, at := range map[string]string{"near": "/in/report", "far": "/all/secret", "giver": "/data/secret"} {
			if r := in.run(t, "exec", agent, "--", "cat", at); r.status == 0 {
				t.Errorf("%s still reads %s: %s", agent, at, r)
			}
		}
		// By itself, when the giver ends.
		in.spawn(t, "--name", "brief", "--grant", "fs:"+dir+":ro,at=/data", "--", "sleep", "1000")
		b := in.capOf(t, "brief", "fs:")
		in.ok(t, "cap", "delegate", b.ID, "far", "--at", "/all")
		in.ok(t, "exec", "far", "--", "cat", "/all/secret")
		in.ok(t, "rm", "-f", "brief")
		eventually(t, "what a dead agent gave is gone", 10*time.Second, func() (bool, string) {
			r := in.run(t, "exec", "far", "--", "cat", "/all/secret")
			return r.status != 0, r.String()
		})
	})
}

// TestLeases lets authority end by itself, and prolongs it.
func TestLeases(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"f": []byte("x\n")})
		in.spawn(t, "--name", "a", "--grant", "fs:"+dir+":ro,at=/d,lease=3s", "--", "sleep", "1000")
		in.ok(t, "exec", "a", "--", "cat", "/d/f")
		c := in.capOf(t, "a", "fs:")
		if c.LeaseNano <= 0 || c.LeaseNano > int64(3*time.Second) {
			t.Errorf("%+v", c)
		}
		in.ok(t, "cap", "renew", c.ID, "1h")
		time.Sleep(3500 * time.Millisecond)
		in.ok(t, "exec", "a", "--", "cat", "/d/f")
		in.ok(t, "cap", "renew", c.ID, "300ms")
		eventually(t, "the lease ends", 10*time.Second, func() (bool, string) {
			r := in.run(t, "exec", "a", "--", "cat", "/d/f")
			return r.status != 0, r.String()
		})
		all := in.audit(t, "--capability", c.ID, "--op", "expire")
		if len(all) != 1 {
			t.Errorf("%+v", all)
		}
	})
}

// TestAttenuate narrows what is in use.
func TestAttenuate(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, nil)
		in.spawn(t, "--name", "a", "--grant", "fs:"+dir+":rw,at=/d", "--limit", "pids=50,memory=600M", "--", "sh", "-c",
			"exec 3>>/d/log; while echo tick >&3; do sleep 0.05; done; echo lost; cat /d/log | head -n 1; sleep 1000")
		log := filepath.Join(dir, "log")
		eventually(t, "it writes", 20*time.Second, func() (bool, string) {
			raw, _ := os.ReadFile(log)
			return len(raw) > 0, ""
		})
		in.ok(t, "cap", "attenuate", in.capOf(t, "a", "fs:").ID, "--rights", "read")
		eventually(t, "it can only read", 20*time.Second, func() (bool, string) {
			out := string(in.ok(t, "logs", "a"))
			return strings.Contains(out, "lost\ntick"), out
		})
		in.ok(t, "cap", "attenuate", in.capOf(t, "a", "proc:").ID, "--limit", "count=4")
		if r := in.run(t, "exec", "a", "--", "sh", "-c", "sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait"); !strings.Contains(string(r.stderr), "fork") {
			t.Errorf("more than four tasks: %s", r)
		}
		in.ok(t, "cap", "revoke", in.capOf(t, "a", "proc:").ID)
		if r := in.run(t, "exec", "a", "--", "sh", "-c", "ls; :"); !strings.Contains(string(r.stderr), "fork") {
			t.Errorf("forked without the right: %s", r)
		}
	})
}

// TestNetworkNeedsAGrant gives loopback, and cuts what is connected.
func TestNetworkNeedsAGrant(t *testing.T) {
	need(t, "python3")
	const talk = `
import socket, threading, sys
l = socket.create_server(("127.0.0.1", 7000)); c = socket.create_connection(("127.0.0.1", 7000)); s, _ = l.accept()
c.sendall(b"x"); s.recv(1); print("talks", flush=True)
for f, what in (lambda: s.recv(1), "recv"), (lambda: l.accept(), "accept"):
    try: print(what, f() or "end", flush=True)
    except OSError as e: print(what, e.strerror, flush=True)
try: socket.socket()
except OSError as e: print("socket", e.errno, flush=True)
`
	onOne(t, func(t *testing.T, in *install) {
		if r := in.agent(t, "--", "python3", "-c", "import socket\ntry: socket.socket()\nexcept OSError as e: print(e.errno)\nsocket.socket(socket.AF_UNIX)"); string(r.stdout) != "13\n" {
			t.Errorf("%s", r)
		}
		c := in.startAgent(t, "--name", "net", "--grant", "net:loopback", "--", "python3", "-c", talk)
		c.stdout.expect(t, "talks\n")
		in.ok(t, "cap", "revoke", in.capOf(t, "net", "net:").ID)
		c.stdout.expect(t, "recv")
		c.stdout.expect(t, "accept")
		c.stdout.expect(t, "socket 13")
	})
}

// TestInsideDoors uses /aios with a shell, Python and its module.
func TestInsideDoors(t *testing.T) {
	need(t, "python3")
	const program = `
import aios, os
c = [c for c in aios.caps() if c.cls == "fs"][0]
assert c.object and "write" in c.rights, c
lent = c.delegate("taker", rights="read")
assert not aios.explain("mount").allowed
c.attenuate(rights="read+write")
open("/d/f", "a").write("more\n")
try: os.remove("/d/f")
except OSError as e: print("remove", e.errno)
input()
lent.revoke()
print("revoked", flush=True)
input()
`
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"f": []byte("x\n")})
		in.spawn(t, "--name", "taker", "--", "sleep", "1000")
		in.spawn(t, "--name", "other", "--domain", "far", "--", "sleep", "1000")
		c := in.startAgent(t, "--name", "giver", "--grant", "fs:"+dir+":rw,at=/d", "-e", "PYTHONPATH=/aios/lib", "--", "python3", "-c", program)
		c.stdout.expect(t, "remove 13\n")
		at := "/granted/giver" + dir + "/f"
		if r := in.run(t, "exec", "taker", "--", "cat", at); string(r.stdout) != "x\nmore\n" {
			t.Errorf("%s", r)
		}
		h := in.capOf(t, "giver", "fs:").Handle
		if r := in.run(t, "exec", "giver", "--", "sh", "-c", fmt.Sprintf("echo delegate %d to=other rights=read at=/granted/giver/x > /aios/ctl", h)); r.status != 0 {
			t.Errorf("delegate to another domain: %s", r)
		}
		if r := in.run(t, "exec", "other", "--", "cat", "/granted/giver/x/f"); string(r.stdout) != "x\nmore\n" {
			t.Errorf("%s", r)
		}
		if r := in.run(t, "exec", "giver", "--", "sh", "-c", fmt.Sprintf("echo delegate %d to=taker rights=read at=/etc > /aios/ctl", h)); r.status == 0 {
			t.Error("an agent chose where its files appear in another")
		}
		c.write("\n")
		c.stdout.expect(t, "revoked\n")
		if r := in.run(t, "exec", "taker", "--", "cat", at); r.status == 0 {
			t.Errorf("after the revocation: %s", r)
		}
		if r := in.run(t, "exec", "giver", "--", "sh", "-c", fmt.Sprintf("echo revoke %d > /aios/ctl; cat /aios/self/caps", h)); strings.Contains(string(r.stdout), "fs:") {
			t.Errorf("%s", r)
		}
		if r := in.run(t, "exec", "other", "--", "cat", "/granted/giver/x/f"); r.status == 0 {
			t.Errorf("after the revocation, in another domain: %s", r)
		}
	})
}

// TestAgentCapability steers one agent from another.
func TestAgentCapability(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "worker", "--", "sleep", "1000")
		boss := in.spawn(t, "--name", "boss", "--grant", "agent:worker:signal+inspect", "--", "sleep", "1000")
		c := in.capOf(t, "boss", "agent:")
		ctl := func(command string) result {
			return in.run(t, "exec", "boss", "--", "sh", "-c", "echo "+command+" > /aios/ctl")
		}
		if r := ctl(fmt.Sprintf("inspect %d", c.Handle)); r.status != 0 {
			t.Errorf("%s", r)
		}
		if r := ctl(fmt.Sprintf("pause %d", c.Handle)); r.status == 0 {
			t.Error("paused without the right")
		}
		if r := ctl(fmt.Sprintf("signal %d KILL", c.Handle)); r.status != 0 {
			t.Errorf("%s", r)
		}
		if r := in.run(t, "wait", "worker"); r.status != 137 {
			t.Errorf("%s", r)
		}
		if kills := in.past(t, "agent.kill"); len(kills) != 1 || kills[0].Data["by"] != boss {
			t.Errorf("%+v", kills)
		}
		eventually(t, "the refusal is recorded", 10*time.Second, func() (bool, string) {
			all := in.audit(t, "--op", "denied", "--agent", "boss")
			return slices.ContainsFunc(all, func(e auditEntry) bool { return strings.Contains(e.Target, "pause") }), fmt.Sprintf("%+v", all)
		})
	})
}

// TestSeccompProfile applies an agent's own profile.
func TestSeccompProfile(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{
			"p.json":   []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}`),
			"bad.json": []byte("{\"defaultAction\":\"SCMP_ACT_ALLOW\",\n \"syscalls\":[{\"names\":[\"mkdir\"],\"action\":\"SCMP_ACT_NONSENSE\"}]}"),
		})
		r := in.agent(t, "--name", "s", "--keep", "--seccomp", filepath.Join(dir, "p.json"), "--", "python3", "-c", "import os\ntry: os.mkdir('/tmp/x')\nexcept OSError as e: print(e.errno)")
		if string(r.stdout) != "38\n" {
			t.Errorf("%s", r)
		}
		eventually(t, "the refusal is recorded", 10*time.Second, func() (bool, string) {
			all := in.audit(t, "--op", "denied", "--agent", "s")
			return slices.ContainsFunc(all, func(e auditEntry) bool { return strings.Contains(e.Target, "mkdir") && e.Code == "SYSCALL_DENIED" }), fmt.Sprintf("%+v", all)
		})
		if r := in.agent(t, "--seccomp", filepath.Join(dir, "bad.json"), "--", "true"); r.status != 125 || !strings.Contains(string(r.stderr), "SCMP_ACT_NONSENSE") || !strings.Contains(string(r.stderr), "fix:") {
			t.Errorf("%s", r)
		}
	})
}

// TestAuditSurvives kills the daemon while records flow, and edits the trail.
func TestAuditSurvives(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "a", "--", "sh", "-c", "while :; do mount -t tmpfs none /mnt 2>/dev/null; sleep 0.01; done")
		for range 4 {
			time.Sleep(300 * time.Millisecond)
			kill9(t, in.process(t, "serve"))
			in.ok(t, "cap", "ls", "a")
		}
		if r := in.run(t, "audit", "verify"); r.status != 0 || !strings.HasPrefix(string(r.stdout), "ok: ") {
			t.Errorf("%s", r)
		}
		before := len(in.audit(t, "--op", "denied", "--agent", "a"))
		eventually(t, "refusals are recorded again", 20*time.Second, func() (bool, string) {
			n := len(in.audit(t, "--op", "denied", "--agent", "a"))
			return n > before, fmt.Sprint(n)
		})
		in.ok(t, "rm", "-f", "a")
		in.ok(t, "audit", "verify")
		in.ok(t, "daemon", "stop", "--domains")
		segments, _ := filepath.Glob(filepath.Join(in.state, "audit", "*"))
		var edited string
		for _, f := range segments {
			if raw, err := os.ReadFile(f); err == nil && bytes.Contains(raw, []byte(`"op":"mint"`)) {
				edited = f
				must(t, os.WriteFile(f+".kept", raw, 0o600))
				must(t, os.WriteFile(f, bytes.Replace(raw, []byte(`"op":"mint"`), []byte(`"op":"mine"`), 1), 0o600))
			}
		}
		if edited == "" {
			t.Fatalf("no segment among %v", segments)
		}
		if r := in.run(t, "audit", "verify"); r.status != 1 || !strings.HasPrefix(string(r.stdout), "broken: ") {
			t.Errorf("an edit was not found: %s", r)
		}
		in.ok(t, "daemon", "stop")
		must(t, os.Remove(edited+".kept"))
		must(t, os.RemoveAll(filepath.Join(in.state, "audit")))
		must(t, os.RemoveAll(filepath.Join(in.state, "audit.key")))
	})
}

// TestLimitsBind checks --limit, and what an agent sees of it.
func TestLimitsBind(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		r := in.agent(t, "--limit", "memory=96M,pids=20,cpu=0.5", "--", "sh", "-c",
			"nproc; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max; grep MemTotal /proc/meminfo; grep -c ^processor /proc/cpuinfo")
		if string(r.stdout) != "1\n100663296\n20\n50000 100000\nMemTotal:          98304 kB\n1\n" {
			t.Errorf("%s", r)
		}
		need(t, "python3")
		r = in.agent(t, "--grant", "mem:self,bytes=500M,count=300", "--", "python3", "-c",
			"import mmap\nl = []\ntry:\n  while True: l.append(mmap.mmap(-1, 4096, flags=mmap.MAP_SHARED))\nexcept OSError as e: print(e.errno, len(l) < 300)")
		if string(r.stdout) != "12 True\n" {
			t.Errorf("mappings: %s", r)
		}
		in.spawn(t, "--name", "a", "--limit", "cpu=0.2", "--", "sh", "-c", "while :; do :; done")
		time.Sleep(2 * time.Second)
		var s struct {
			CPU struct {
				UserNS   uint64 `json:"user_ns"`
				SystemNS uint64 `json:"system_ns"`
			} `json:"cpu"`
		}
		must(t, json.Unmarshal(in.ok(t, "stats", "-o", "json", "a"), &s))
		if used := time.Duration(s.CPU.UserNS + s.CPU.SystemNS); used > 1500*time.Millisecond {
			t.Errorf("%v of CPU time in about two seconds at a fifth of a CPU", used)
		}
	})
}

// TestDeadDomain kills one of two domains between which something was
// delegated: neither half outlives the other.
func TestDeadDomain(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"f": []byte("x\n")})
		in.spawn(t, "--name", "giver", "--domain", "one", "--grant", "fs:"+dir+":rw,quota=1M,at=/d", "--", "sleep", "1000")
		in.spawn(t, "--name", "taker", "--domain", "two", "--", "sleep", "1000")
		c := in.capOf(t, "giver", "fs:")
		lend := func() {
			in.ok(t, "cap", "delegate", c.ID, "taker", "--at", "/d", "--limit", "quota=600K")
			in.ok(t, "exec", "taker", "--", "cat", "/d/f")
		}
		lend()
		if r := in.run(t, "cap", "delegate", c.ID, "taker", "--at", "/e", "--limit", "quota=600K"); r.status != 125 {
			t.Errorf("more than there is: %s", r)
		}
		in.ok(t, "cap", "revoke", in.capOf(t, "taker", "fs:").ID)
		eventually(t, "the giver has it back", 10*time.Second, func() (bool, string) {
			c := in.capOf(t, "giver", "fs:")
			return c.Left == "", c.Left
		})
		lend()
		kill9(t, in.process(t, "kernel", "two"))
		eventually(t, "the giver has it back from a dead domain", 10*time.Second, func() (bool, string) {
			c := in.capOf(t, "giver", "fs:")
			return c.Left == "", c.Left
		})
		in.spawn(t, "--name", "next", "--domain", "two", "--", "sleep", "1000")
		in.ok(t, "cap", "delegate", c.ID, "next", "--at", "/d", "--limit", "quota=600K")
		in.ok(t, "exec", "next", "--", "cat", "/d/f")
		kill9(t, in.process(t, "serve"))
		in.ok(t, "ps")
		kill9(t, in.process(t, "kernel", "one"))
		eventually(t, "what a dead domain gave is gone", 10*time.Second, func() (bool, string) {
			r := in.run(t, "exec", "next", "--", "cat", "/d/f")
			return r.status != 0, r.String()
		})
	})
}

// TestNoWayOutThroughAnotherDomain has an agent hand on a link that it has made
// below what it was given, to one whose domain opens the directory anew.
func TestNoWayOutThroughAnotherDomain(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		work := in.share(t, map[string][]byte{"in/f": []byte("inside\n")})
		outside := in.share(t, map[string][]byte{"secret": []byte("outside\n")})
		must(t, os.Symlink(outside, filepath.Join(work, "out")))
		in.spawn(t, "--name", "giver", "--domain", "one", "--grant", "fs:"+work+":rw,at=/w", "--", "sleep", "1000")
		in.spawn(t, "--name", "taker", "--domain", "two", "--", "sleep", "1000")
		in.spawn(t, "--name", "third", "--domain", "three", "--", "sleep", "1000")
		c := in.capOf(t, "giver", "fs:")
		inside := func(agent, object string) result {
			return in.run(t, "exec", "giver", "--", "sh", "-c", fmt.Sprintf("echo delegate %d to=%s object=%s at=/granted/giver/x > /aios/ctl", c.Handle, agent, object))
		}
		for _, object := range []string{work + "/out", work + "/out/.", outside} {
			if r := inside("taker", object); r.status == 0 {
				t.Errorf("%s was handed on: %s", object, r)
			}
			if r := in.run(t, "cap", "delegate", c.ID, "taker", "--object", object, "--at", "/x"); r.status == 0 {
				t.Errorf("%s was handed on: %s", object, r)
			}
		}
		if r := inside("taker", work+"/in"); r.status != 0 {
			t.Fatalf("a directory below: %s", r)
		}
		if got := string(in.ok(t, "exec", "taker", "--", "cat", "/granted/giver/x/f")); got != "inside\n" {
			t.Errorf("%q", got)
		}
		// What was handed on has become a link before it is handed on further.
		must(t, os.Rename(filepath.Join(work, "in"), filepath.Join(work, "was")))
		must(t, os.Symlink(outside, filepath.Join(work, "in")))
		d := in.capOf(t, "taker", "fs:")
		if r := in.run(t, "exec", "taker", "--", "sh", "-c", fmt.Sprintf("echo delegate %d to=third > /aios/ctl", d.Handle)); r.status == 0 {
			t.Errorf("it was handed on: %s", r)
		}
		if r := in.run(t, "exec", "third", "--", "sh", "-c", "cat /granted/*/*/secret /granted/*/*/*/*/*/secret "+outside+"/secret"); strings.Contains(string(r.stdout), "outside") {
			t.Errorf("%s", r)
		}
	})
}
