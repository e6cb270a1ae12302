package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// zoneProbe prints two moments of a year as the C library has them.
const zoneProbe = `
#include <stdio.h>
#include <time.h>
int main(void) {
	time_t moments[] = {1767268800, 1782907200};
	for (int i = 0; i < 2; i++) {
		char s[64];
		strftime(s, sizeof s, "%Y-%m-%d %H:%M %z %Z", localtime(&moments[i]));
		puts(s);
	}
}`

// TestZones has programs in agents with a time zone tell it: by TZ and without, in
// the first process and in further ones, in the host image and in one that knows
// of no zones.
func TestZones(t *testing.T) {
	need(t, "gcc", "python3")
	t.Parallel()
	in := newInstall(t, platforms()[0])
	dir := in.share(t, map[string][]byte{"probe.c": []byte(zoneProbe), "probe.py": []byte(`
import time
for t in 1767268800, 1782907200: print(time.strftime("%Y-%m-%d %H:%M %z %Z", time.localtime(t)))
`)})
	bare := filepath.Join(dir, "bare")
	must(t, os.MkdirAll(filepath.Join(bare, "bin"), 0o755))
	if out, err := exec.Command("gcc", "-static", "-o", filepath.Join(bare, "bin", "probe"), filepath.Join(dir, "probe.c")).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	in.ok(t, "image", "import", "bare", bare)
	// One in which no zone can be put where it belongs.
	must(t, os.WriteFile(filepath.Join(bare, "usr"), nil, 0o644))
	in.ok(t, "image", "import", "barer", bare)
	const date = `date -d @1767268800 "+%Y-%m-%d %H:%M %z %Z"; date -d @1782907200 "+%Y-%m-%d %H:%M %z %Z"`
	for _, name := range []string{"Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC"} {
		l, err := time.LoadLocation(name)
		must(t, err)
		want := ""
		for _, at := range []int64{1767268800, 1782907200} {
			want += time.Unix(at, 0).In(l).Format("2006-01-02 15:04 -0700 MST") + "\n"
		}
		tells := func(what string, args ...string) {
			t.Helper()
			r := in.run(t, args...)
			if r.status != 0 || string(r.stdout) != want {
				t.Errorf("%s, %s: not %q: %s", name, what, want, r)
			}
		}
		mount := dir + ":/p"
		tells("date", "run", "--tz", name, "--", "sh", "-c", date)
		tells("date without TZ", "run", "--tz", name, "--", "env", "-u", "TZ", "sh", "-c", date)
		tells("Python", "run", "--tz", name, "--mount", mount, "--", "python3", "/p/probe.py")
		tells("C", "run", "--tz", name, "--mount", mount, "--", "/p/bare/bin/probe")
		tells("C without TZ", "run", "--tz", name, "--mount", mount, "--", "env", "-u", "TZ", "/p/bare/bin/probe")
		tells("C in an image without zones", "run", "--tz", name, "--image", "bare", "--", "/bin/probe")
		tells("C in an image that has no room for zones", "run", "--tz", name, "--image", "barer", "--", "/bin/probe")
		in.spawn(t, "--name", "long", "--tz", name, "--", "sleep", "1000")
		tells("a further program", "exec", "long", "--", "sh", "-c", date)
		if out := string(in.ok(t, "exec", "long", "--", "cat", "/etc/timezone")); out != name+"\n" {
			t.Errorf("/etc/timezone: %q", out)
		}
		if out := string(in.ok(t, "inspect", "long")); !strings.Contains(out, name) {
			t.Errorf("inspect: %s", out)
		}
		in.ok(t, "rm", "-f", "long")
	}
	// What is asked for with -e counts; who has no zone is as before.
	if r := in.agent(t, "--tz", "Europe/Berlin", "-e", "TZ=UTC", "--", "date", "-d", "@1767268800", "+%H:%M"); string(r.stdout) != "12:00\n" {
		t.Errorf("-e TZ: %s", r)
	}
	if r := in.agent(t, "--", "sh", "-c", "echo ${TZ-none}"); string(r.stdout) != "none\n" {
		t.Errorf("without a zone: %s", r)
	}
	for name, fix := range map[string]string{"Berlin": "write Europe/Berlin", "../../etc/shadow": "name one of the IANA database", "Mars/Phobos": "name one of the IANA database"} {
		r := in.run(t, "run", "--tz", name, "--", "true")
		if r.status != 125 || !strings.Contains(string(r.stderr), fmt.Sprintf("%q: there is no such time zone", name)) || !strings.Contains(string(r.stderr), "fix: "+fix) {
			t.Errorf("%s: %s", name, r)
		}
	}
}
