package e2e

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// clockProgram waits as programs do that are written in Python, and prints what time it
// is.
const clockProgram = `
import asyncio, os, subprocess, threading, time
def check(ok, what):
    if not ok: raise SystemExit(what)
for clock in time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME:
    # The C library reads the VDSO; time.time() is that, too.
    before = time.clock_gettime_ns(clock)
    time.sleep(0.02)
    check(0 < time.clock_gettime_ns(clock) - before < 60e9, "a sleep")
c = threading.Condition()
with c:
    began = time.monotonic()
    check(not c.wait(0.05) and time.monotonic() - began >= 0.05, "a condition")
check(not threading.Event().wait(0.01), "an event")
async def tick():
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(0.05)
    # asyncio allows itself to be early by the resolution of its clock.
    check(loop.time() - began >= 0.05 - 1e-6, "asyncio")
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.02)
        check(False, "a time-out")
    except TimeoutError: pass
asyncio.run(tick())
check(abs(int(subprocess.check_output(["date", "+%s"])) - time.time()) < 60, "date")
up = float(open("/proc/uptime").read().split()[0])
check(abs(up - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60, "uptime")
print(int(time.time()))
`

// TestOwnClock has programs of an agent read and wait by its clock: in the VDSO alone,
// in Python; it is set, shown and told.
func TestOwnClock(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		ahead := func(text string) time.Duration {
			t.Helper()
			seconds, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			must(t, err)
			return time.Until(time.Unix(seconds, 0))
		}
		near := func(what, text string, want time.Duration) {
			t.Helper()
			if got := ahead(text); (got - want).Abs() > 10*time.Minute {
				t.Errorf("%s is ahead by %v, not %v", what, got, want)
			}
		}
		const days = 24 * time.Hour
		dir := in.program(t, "reads")
		profile := filepath.Join(in.share(t, map[string][]byte{"p.json": []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
			{"names": ["clock_gettime", "gettimeofday", "time"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`)}), "p.json")
		r := in.agent(t, "--clock", "offset=400d,monotonic=1000h", "--seccomp", profile, "--mount", dir+":/t", "--", "/t/reads")
		if r.status != 0 {
			t.Fatalf("%s", r)
		}
		near("the VDSO", string(r.stdout), 400*days)
		near("Python", in.sh(t, "python3 -c '"+strings.ReplaceAll(clockProgram, "'", `"`)+"'", "--clock", "offset=-30d"), -30*days)
		if got := in.sh(t, "date -u +%Y", "--clock", "wall=2031-06-01T00:00:00Z"); got != "2031\n" {
			t.Errorf("it is %q", got)
		}

		in.spawn(t, "--name", "own", "--clock", "offset=36h", "--", "sleep", "1000")
		date := func() string { t.Helper(); return string(in.ok(t, "exec", "own", "--", "date", "+%s")) }
		near("date", date(), 36*time.Hour)
		if got := string(in.ok(t, "inspect", "own")); !strings.Contains(got, "offset=+1d12h") {
			t.Errorf("inspect says %s", got)
		}
		if got := string(in.ok(t, "clock", "set", "own", "offset=-30d")); !strings.Contains(got, "offset      -30d\n") {
			t.Errorf("set, it is %s", got)
		}
		near("date", date(), -30*days)
		var shown struct {
			Offset int64 `json:"offset_ns"`
			Time   time.Time
		}
		must(t, json.Unmarshal(in.ok(t, "clock", "own", "-o", "json"), &shown))
		if shown.Offset != int64(-30*days) || (time.Until(shown.Time)+30*days).Abs() > 10*time.Minute {
			t.Errorf("it is shown as %+v", shown)
		}
		in.published(t, "agent.clock")
		if got := string(in.ok(t, "audit", "query", "--op", "clock", "--agent", "own")); !strings.Contains(got, "offset=-720h0m0s") || strings.Count(got, "\n") != 2 {
			t.Errorf("the trail says %s", got)
		}
		in.ok(t, "clone", "own", "--name", "copy")
		near("a copy's", string(in.ok(t, "exec", "copy", "--", "date", "+%s")), -30*days)

		// Who may.
		in.refused(t, "would be before 1970", "clock", "set", "own", "offset=-30000d")
		if r := in.agent(t, "--", "date", "-s", "2031-01-01"); r.status == 0 || !strings.Contains(string(r.stderr), "Operation not permitted") {
			t.Errorf("without the right to: %s", r)
		}
		if got := in.sh(t, "date -s 2031-01-01 >/dev/null; date +%Y", "--grant", "sys:clock"); got != "2031\n" {
			t.Errorf("with it, it is %q", got)
		}
		text, _ := in.issue(t, "--op", "spawn,attach,list,inspect,wait,signal,remove,grant", "--agent", "*")
		b := in.bearing("", text)
		b.refused(t, "does not give sys:clock", b.runArgs("--clock", "offset=1h", "--", "true")...)
		b.refused(t, "does not give sys:clock", "clock", "set", "own", "offset=1h")
		b.ok(t, "clock", "own")
		text, _ = in.issue(t, "--op", "spawn,attach,list,inspect,wait,signal,remove,grant", "--agent", "*", "--grant", "sys:clock")
		b = in.bearing("", text)
		near("a bearer's", b.sh(t, "date +%s", "--clock", "offset=1h"), time.Hour)
		b.ok(t, "clock", "set", "own", "offset=0")
		near("date", date(), 0)
	})
}
