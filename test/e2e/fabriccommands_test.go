package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestFabricCommands is what an operator does with regions, and what agents see of it:
// labels, versions, forks, seals, leases that leave zeros, and who has how much.
func TestFabricCommands(t *testing.T) {
	need(t, "python3")
	onOne(t, func(t *testing.T, in *install) {
		for _, name := range []string{"writer", "reader"} {
			in.spawn(t, "--name", name, "--", "sleep", "1000")
		}
		in.spawn(t, "--name", "net", "--grant", "net:*", "--", "sleep", "1000")
		fabric := func(args ...string) string {
			t.Helper()
			return string(in.ok(t, append([]string{"fabric"}, args...)...))
		}
		write := func(text string, at int) {
			t.Helper()
			in.ok(t, "exec", "writer", "--", "python3", "-c", fmt.Sprintf("f = open('/aios/fabric/table', 'r+b'); f.seek(%d); f.write(%q.encode())", at, text))
		}
		read := func(agent, region string, n int) string {
			t.Helper()
			return string(in.ok(t, "exec", agent, "--", "head", "-c", fmt.Sprint(n), "/aios/fabric/"+region))
		}
		fabric("create", "--owner", "writer", "--size", "1M", "--label", "secret", "--label", "origin=test", "--keep", "2", "--fixed", "--zeros", "table")
		in.noWith(t, "it is secret, and the agent has network", "fabric", "share", "table", "net")
		fabric("share", "table", "reader", "--rights", "read", "--lease", "4s")

		// Who has it mapped has it at the same place, and reads zeros there when its lease ends.
		const look = `import mmap, time
f = open("/aios/fabric/table", "rb")
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
print(next(l.split("-")[0] for l in open("/proc/self/maps") if "fabric/table" in l), flush=True)
print(m[0], flush=True)
while m[0]: time.sleep(0.02)
print(m[0], flush=True)
try: open("/aios/fabric/table", "rb")
except OSError as e: print(type(e).__name__)`
		write("hello", 0)
		looks := in.start(t, "exec", "reader", "--", "python3", "-c", look)

		if got := fabric("snapshot", "table", "--comment", "first"); got != "1\n" {
			t.Errorf("the version is %q", got)
		}
		write("WORLD", 8192)
		if got := fabric("diff", "table", "1"); !strings.Contains(got, "0x2000   0x3000   4 KiB\n4 KiB differ") {
			t.Errorf("what differs is\n%s", got)
		}
		if got := fabric("fork", "table", "1", "other", "--owner", "reader", "--label", "draft"); !strings.Contains(got, "table@1") || !strings.Contains(got, "origin=test,secret") {
			t.Errorf("the fork is\n%s", got)
		}
		write("HELLO", 0)
		fabric("rollback", "table", "1")
		if got := read("writer", "table", 5); got != "hello" {
			t.Errorf("then it holds %q", got)
		}
		if got := read("reader", "other", 5); got != "hello" {
			t.Errorf("the fork holds %q", got)
		}
		for range 2 {
			fabric("snapshot", "table")
		}
		in.noWith(t, "the region has no such version", "fabric", "diff", "table", "1") // Two are kept.
		fabric("drop", "table", "3")
		in.noWith(t, "`aiosctl fabric show table` lists them", "fabric", "rollback", "table", "3")

		// The same contents have the same name, and do not change.
		digest := strings.TrimSpace(fabric("seal", "other"))
		fabric("fork", "table", "2", "twin", "--owner", "writer")
		if got := strings.TrimSpace(fabric("seal", "twin")); got != digest || !strings.HasPrefix(got, "blake3:") {
			t.Errorf("sealed they are %q and %q", digest, got)
		}
		in.noWith(t, "its contents are sealed", "fabric", "rollback", "other", "1")
		if r := in.run(t, "exec", "reader", "--", "sh", "-c", "echo x > /aios/fabric/other"); r.status == 0 {
			t.Error("what is sealed was written to")
		}

		var usage []struct {
			Tag           string
			Regions       int
			Size, Charged uint64
		}
		for by, want := range map[string]string{
			"label":   "secret 3 3145728, origin=test 3 3145728, draft 1 1048576",
			"owner":   "writer 2 2097152, reader 1 1048576",
			"lineage": "table 3 3145728",
		} {
			usage = nil
			must(t, json.Unmarshal(in.ok(t, "fabric", "usage", "--by", by, "-o", "json"), &usage))
			var got []string
			for _, u := range usage {
				got = append(got, fmt.Sprint(u.Tag, " ", u.Regions, " ", u.Size))
			}
			for _, w := range strings.Split(want, ", ") {
				if !strings.Contains(strings.Join(got, ", "), w) || len(got) != strings.Count(want, ",")+1 {
					t.Errorf("by %s: %q, want %q", by, got, want)
				}
			}
		}

		var shown struct{ Address uint64 }
		must(t, json.Unmarshal(in.ok(t, "fabric", "show", "table", "-o", "json"), &shown))
		r := looks.wait()
		if want := fmt.Sprintf("%x", shown.Address) + "\n104\n0\nPermissionError\n"; string(r.stdout) != want && string(r.stdout) != strings.Replace(want, "PermissionError", "FileNotFoundError", 1) {
			t.Errorf("who had it mapped says %s", r)
		}
		eventually(t, "it is told", 10*time.Second, func() (bool, string) {
			gone := in.past(t, "region.unmap")
			return len(gone) > 0, fmt.Sprint(gone)
		})
		for _, name := range []string{"table", "other", "twin"} {
			fabric("rm", name)
		}
		in.noWith(t, "no domain that runs has such a region", "fabric", "show", "table")
	})
}
