package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWatchdog: an agent that does not feed its watchdog is started again, one
// that does goes on, and health shows both.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	in.ok(t, "daemon", "start")
	f := in.follow(t, "--topic", "watchdog.*", "--topic", "agent.*", "--topic", "fault.verdict")
	fed := in.spawn(t, "--name", "fed", "--watchdog", "3s", "--", "sh", "-c", "while :; do echo feed > /aios/self/watchdog; sleep 0.1; done")
	hung := in.spawn(t, "--name", "hung", "--watchdog", "1s", "--on-watchdog", "restart", "--", "sh", "-c", "echo started; exec sleep 1000")
	f.wait(t, "watchdog.expired", about(hung, "name", "agent", "action", "restart"))
	f.wait(t, "fault.verdict", about(hung, "action", "restart", "blame", "agent"))
	f.wait(t, "agent.exit", about(hung, "signal", "9"))
	f.wait(t, "agent.restart", about(hung, "from", "definition"))
	eventually(t, "it is started again", 20*time.Second, func() (bool, string) {
		out := string(in.ok(t, "logs", "hung"))
		return strings.Count(out, "started") >= 2, out
	})
	out := string(in.run(t, "health").stdout)
	for _, want := range []string{"agent fed", "agent hung", "as policies say"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	in.ok(t, "rm", "-f", "hung")
	if st := in.inspect(t, fed).State; st != "running" {
		t.Errorf("the agent that feeds its watchdog is %s", st)
	}
	for _, e := range f.all() {
		if e.topic() == "watchdog.expired" && e.Subject != hung {
			t.Errorf("%+v", e)
		}
	}
	for flags, want := range map[string]string{
		"--watchdog 10ms":                      "from 1s to 24h",
		"--watchdog 25h":                       "from 1s to 24h",
		"--watchdog 3s --on-watchdog deny":     "the actions are: deliver, dump",
		"--watchdog 3s --on-watchdog restart ": "--keep",
	} {
		r := in.run(t, append(append([]string{"run"}, strings.Fields(flags)...), "--", "true")...)
		if r.status != 125 || !strings.Contains(string(r.stderr), want) {
			t.Errorf("%s: %s", flags, r)
		}
	}
}

// TestHungKernel stops a kernel process as a lock that is held for ever would:
// it is named, its neighbours go on, and when it goes on all is well again.
func TestHungKernel(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	in.ok(t, "daemon", "start")
	f := in.follow(t, "--topic", "health.*", "--topic", "watchdog.*")
	in.spawn(t, "--name", "here", "--domain", "one", "--", "sh", "-c", counter)
	in.spawn(t, "--name", "there", "--domain", "two", "--", "sh", "-c", counter)
	pid := in.process(t, "kernel", "one")
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	defer syscall.Kill(pid, syscall.SIGCONT)
	f.wait(t, "watchdog.expired", func(e eventLine) bool { return e.Data["name"] == "domain one" })
	r := in.run(t, "health")
	if r.status != 2 || !strings.Contains(string(r.stdout), "does not answer") || !strings.Contains(string(r.stderr), "aiosctl domain stop one") {
		t.Errorf("health: %s", r)
	}
	in.countsOn(t, "there")
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	f.wait(t, "health.restored", func(e eventLine) bool { return e.Data["component"] == "domain one" })
	in.countsOn(t, "here")
	if r := in.run(t, "health"); r.status != 0 {
		t.Errorf("health: %s", r)
	}
}

// TestGoferKilled: files of the directory it served fail, nothing else does.
func TestGoferKilled(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"file": []byte("text\n")})
		in.spawn(t, "--name", "neighbour", "--", "sh", "-c", counter)
		before := map[int]bool{}
		for _, p := range in.processes() {
			before[p.pid] = true
		}
		in.spawn(t, "--name", "reader", "--mount", dir+":/d", "--", "sh", "-c", counter)
		if out := in.ok(t, "exec", "reader", "--", "cat", "/d/file"); string(out) != "text\n" {
			t.Fatalf("%q", out)
		}
		killed := 0
		for _, p := range in.processes() {
			if !before[p.pid] && len(p.args) > 1 && p.args[1] == "gofer" {
				kill9(t, p.pid)
				killed++
			}
		}
		if killed != 1 {
			t.Fatalf("%d gofers of the mount", killed)
		}
		r := in.run(t, "exec", "reader", "--", "sh", "-c", "ls /d || echo refused; echo works > /tmp/x; cat /tmp/x")
		if !strings.Contains(string(r.stdout), "refused") || !strings.Contains(string(r.stdout), "works") {
			t.Errorf("%s", r)
		}
		in.countsOn(t, "reader")
		in.countsOn(t, "neighbour")
		if r := in.run(t, "health"); r.status != 1 || !strings.Contains(string(r.stdout), "its gofer ended") {
			t.Errorf("health: %s", r)
		}
		in.ok(t, "kill", "reader") // Nobody else has the directory.
		eventually(t, "all is well without it", 10*time.Second, func() (bool, string) {
			r := in.run(t, "health")
			return r.status == 0, r.String()
		})
		if r := in.agent(t, "--mount", dir+":/d", "--", "cat", "/d/file"); string(r.stdout) != "text\n" {
			t.Errorf("a new agent: %s", r)
		}
		// The host image, too, is served again.
		for _, p := range in.processes() {
			if len(p.args) > 1 && p.args[1] == "gofer" {
				kill9(t, p.pid)
			}
		}
		eventually(t, "a new agent gets the host image", 20*time.Second, func() (bool, string) {
			r := in.agent(t, "--", "sh", "-c", "ls /usr/bin | wc -l")
			return r.status == 0 && len(r.stdout) > 2, r.String()
		})
	})
}

// TestImageGone takes the file of an image away: what runs goes on, what is new
// is refused with the reason.
func TestImageGone(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	root := t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "bin"), 0o755))
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("no busybox")
	}
	must(t, os.WriteFile(filepath.Join(root, "bin/sh"), busybox, 0o755))
	in.ok(t, "image", "import", "small", root)
	in.spawn(t, "--name", "old", "--image", "small", "--", "/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")
	in.countsOn(t, "old")
	files, _ := filepath.Glob(filepath.Join(in.state, "images", "*", "*"))
	removed := 0
	for _, path := range files {
		if strings.HasSuffix(path, ".erofs") {
			must(t, os.Remove(path))
			removed++
		}
	}
	if removed == 0 {
		t.Fatalf("no image among %v", files)
	}
	in.countsOn(t, "old")
	r := in.run(t, "spawn", "--domain", "fresh", "--image", "small", "--", "/bin/sh", "-c", "true")
	if r.status != 125 || !strings.Contains(string(r.stderr), "small") {
		t.Errorf("%s", r)
	}
	if got := in.sh(t, "echo on another image"); got != "on another image\n" {
		t.Errorf("%q", got)
	}
}

// TestBootBreaker: kernel processes that do not start are not tried for ever.
func TestBootBreaker(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	in.ok(t, "daemon", "start")
	f := in.follow(t, "--topic", "breaker.*")
	in.spawn(t, "--name", "runs", "--", "sh", "-c", counter)
	for i := range 5 { // A directory in the place of the log: it cannot be opened.
		name := fmt.Sprintf("broken%d", i)
		must(t, os.Mkdir(filepath.Join(in.state, "domains", name+".log"), 0o755))
		if r := in.run(t, "spawn", "--domain", name, "--", "true"); r.status != 125 || strings.Contains(string(r.stderr), "for now") {
			t.Errorf("%s", r)
		}
	}
	f.wait(t, "breaker.open", func(e eventLine) bool { return e.Data["name"] == "start of kernel processes" })
	r := in.run(t, "spawn", "--domain", "sixth", "--", "sleep", "1000")
	if r.status == 125 && !strings.Contains(string(r.stderr), "calls are not made for now") {
		t.Errorf("%s", r) // On a slow machine its second is over.
	}
	in.countsOn(t, "runs")
	eventually(t, "it is tried again, and works", 20*time.Second, func() (bool, string) {
		r := in.run(t, "spawn", "--domain", "later", "--", "sleep", "1000")
		return r.status == 0, r.String()
	})
	f.wait(t, "breaker.close", nil)
	if r := in.run(t, "health"); r.status != 0 || !strings.Contains(string(r.stdout), "start of kernel processes") {
		t.Errorf("health: %s", r)
	}
	for i := range 5 {
		os.RemoveAll(filepath.Join(in.state, "domains", fmt.Sprintf("broken%d.log", i)))
	}
}

// TestDiskFullAndMended: health says what is not kept, and when there is room
// again what is missing is counted where it is missing.
func TestDiskFullAndMended(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	if r := in.hostSh(t, "unshare -m true"); r.status != 0 {
		t.Skipf("mount namespaces are not permitted: %s", r)
	}
	const script = `
mkdir -p "$AIOS_STATE_DIR" && mount -t tmpfs -o size=6m,mode=700 tmpfs "$AIOS_STATE_DIR" || exit 77
trap '$ctl daemon stop --domains >/dev/null' EXIT
$ctl spawn --platform $platform --name busy -- sh -c 'while :; do /bin/true; done' >/dev/null || exit 2
$ctl health >/dev/null || exit 3
cat /dev/zero > "$AIOS_STATE_DIR/fill" 2>/dev/null
for i in $(seq 100); do $ctl health > health; status=$?; grep -q 'journal *degraded' health && grep -q 'audit trail *failed' health && break; $ctl cap grant busy net:loopback >/dev/null 2>&1; sleep 0.1; done
echo "full: $status"; cat health
$ctl exec busy -- echo lives
rm "$AIOS_STATE_DIR/fill"
for i in $(seq 100); do $ctl health > health && break; $ctl cap grant busy net:loopback >/dev/null 2>&1; sleep 0.1; done
echo "mended: $?"; cat health
$ctl audit verify && echo verified
for i in $(seq 100); do $ctl events --topic bus.lost | grep -m 1 'where=journal' && break; sleep 0.1; done
$ctl audit query --op audit.gap
$ctl rm -f busy`
	r := in.hostSh(t, "export platform="+in.platform+"; unshare -m bash -c '"+strings.ReplaceAll(script, "'", `'\''`)+"'")
	if r.status == 77 {
		t.Skipf("mounting is not permitted: %s", r)
	}
	full, mended, _ := strings.Cut(string(r.stdout), "mended: ")
	for _, want := range []string{"full: 2", "% of the file system", "events are not kept", "records are refused and counted", "lives"} {
		if !strings.Contains(full, want) {
			t.Errorf("no %q: %s", want, r)
		}
	}
	for _, want := range []string{"verified", "bus.lost", "audit.gap"} {
		if !strings.Contains(mended, want) {
			t.Errorf("no %q: %s", want, r)
		}
	}
	if !strings.HasPrefix(mended, "0") {
		t.Errorf("%s", r)
	}
}
