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

// rateProgram says how fast its clock goes, whenever what is to be said of that changes.
const rateProgram = `
import time
def both(): # As close together as may be.
    a, w, b = min(((time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for i in range(20)), key=lambda x: x[2] - x[0])
    return w, a
told, was, last = "", "", 0
while True:
    a = both()
    time.sleep(0.05) # So long by any clock of an agent.
    b = both()
    if b[0] < a[0] or a[0] < last: raise SystemExit("it ran backwards")
    last, now = b[0], "%.2g" % ((b[0] - a[0]) / (b[1] - a[1]))
    if now == was and now != told:
        told = now
        print("goes", told, flush=True)
    was = now
`

// TestClockRate has clocks go faster and slower: in the VDSO alone, in a program that
// runs, in a copy of it, and in another kernel process.
func TestClockRate(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		dir := in.program(t, "rate")
		profile := filepath.Join(in.share(t, map[string][]byte{"p.json": []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
			{"names": ["clock_gettime", "gettimeofday", "time"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`)}), "p.json")
		measured := make(chan result, 1)
		go func() {
			measured <- in.agent(t, "--clock", "offset=-30d,rate=60", "--seccomp", profile, "--mount", dir+":/t", "--", "/t/rate")
		}()

		goes := func(agent, rate string) {
			t.Helper()
			eventually(t, agent+" goes "+rate, 10*time.Second, func() (bool, string) {
				text := string(in.ok(t, "logs", agent))
				return strings.HasSuffix(text, "goes "+rate+"\n"), text
			})
		}
		in.spawn(t, "--name", "own", "--domain", "other", "--clock", "wall=2031-06-01T00:00:00Z,rate=2", "--", "python3", "-c", rateProgram)
		goes("own", "2")
		type clock struct {
			Offset int64 `json:"offset_ns"`
			Rate   float64
			Time   time.Time
		}
		shown := func(args ...string) (c clock) {
			t.Helper()
			must(t, json.Unmarshal(in.ok(t, append(append([]string{"clock"}, args...), "-o", "json")...), &c))
			return c
		}
		began, before := time.Now(), shown("own")
		after := shown("set", "own", "rate=60")
		if most := time.Since(began) * 60; before.Rate != 2 || after.Rate != 60 || after.Time.Sub(before.Time) > most || after.Offset-before.Offset > int64(most) || after.Offset < before.Offset {
			t.Errorf("from %+v it becomes %+v", before, after)
		}
		goes("own", "60")
		if got := string(in.ok(t, "inspect", "own")); !strings.Contains(got, ", rate=60") {
			t.Errorf("inspect says %s", got)
		}
		if got := string(in.ok(t, "audit", "query", "--op", "clock", "--agent", "own")); !strings.Contains(got, ",rate=60") || !strings.Contains(got, ",rate=2") {
			t.Errorf("the trail says %s", got)
		}
		in.ok(t, "clone", "own", "--name", "copy")
		if c := shown("copy"); c.Rate != 60 || c.Offset < after.Offset {
			t.Errorf("that of a copy is %+v, after %+v", c, after)
		}
		in.ok(t, "clock", "set", "copy", "rate=0.5")
		goes("copy", "0.5")

		in.ok(t, "domain", "checkpoint", "other", "--stop")
		in.ok(t, "domain", "restore", "other")
		if c := shown("own"); c.Rate != 60 || c.Offset < after.Offset || c.Offset > after.Offset+int64(time.Since(began)*60) {
			t.Errorf("restored, it is %+v, after %+v", c, after)
		}
		in.ok(t, "clock", "set", "own", "rate=1")
		goes("own", "1")
		if c := shown("set", "own", "offset=0,rate=1"); c.Offset != 0 || c.Rate != 1 {
			t.Errorf("as the host's it is %+v", c)
		}
		if c := shown("copy"); c.Rate != 0.5 {
			t.Errorf("restored, that of the copy is %+v", c)
		}

		in.refused(t, "a clock neither stands still nor runs backwards", "clock", "set", "own", "rate=0")
		in.refused(t, "more than 1000 times as fast", in.runArgs("--clock", "rate=1000.5", "--", "true")...)
		text, _ := in.issue(t, "--op", "inspect,grant", "--agent", "*")
		in.bearing("", text).refused(t, "does not give sys:clock", "clock", "set", "own", "rate=2")

		r := <-measured
		rate, waited, _ := strings.Cut(strings.TrimSpace(string(r.stdout)), " ")
		if n, err := strconv.ParseFloat(rate, 64); err != nil || n < 59.9 || n > 60.1 {
			t.Errorf("it goes %s", r)
		}
		// Three seconds of its own.
		if n, err := strconv.ParseFloat(waited, 64); err != nil || n < 0.049 || n > 2 {
			t.Errorf("it waited %s", r)
		}
	})
}
