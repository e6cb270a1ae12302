package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// regionProgram builds the program of testdata/region, and returns the flags that
// show it to an agent.
func regionProgram(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "region"), "./testdata/region")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return []string{"--grant", "fs:" + dir + ":ro,at=/built", "--grant", "fs:" + absolute(t, "testdata/region") + ":ro,at=/p"}
}

// member starts an agent that may read and write a region, and holds back what it
// does until it may.
func member(t *testing.T, in *install, flags []string, region string, argv ...string) string {
	t.Helper()
	script := fmt.Sprintf("until test -e /aios/fabric/%s; do sleep 0.01; done; exec \"$@\"", region)
	agent := in.spawn(t, append(append(flags[:len(flags):len(flags)], "--", "sh", "-c", script, "sh"), argv...)...)
	if r := in.run(t, "fabric", "share", region, agent, "--rights", "read+write"); r.status != 0 {
		t.Fatalf("share: %s", r)
	}
	return agent
}

// Agents take a lock in turn, and send each other messages, while others of them
// are killed: nobody sees anything half done, and nothing that was sent is lost.
func TestFabricOutlivesMembers(t *testing.T) {
	need(t, "python3")
	flags := regionProgram(t)
	kills := 4
	if soak() {
		kills = 300
	}
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--", "sleep", "1000") // The domain stays.
		for _, name := range []string{"locks", "ring"} {
			if r := in.run(t, "fabric", "create", "--size", "1M", name); r.status != 0 {
				t.Fatal(r)
			}
		}
		ends := func(agent, want string) {
			t.Helper()
			if r := in.run(t, "wait", agent); r.status != 0 {
				t.Errorf("%s ends with %s, after %q", agent, r, in.run(t, "logs", agent).stdout)
			}
			if out := string(in.run(t, "logs", agent).stdout); !strings.Contains(out, want) {
				t.Errorf("%s says %q, not %q", agent, out, want)
			}
		}
		ends(member(t, in, flags, "ring", "/built/region", "make", "ring"), "")
		receive := func() string {
			agent := member(t, in, flags, "ring", "/built/region", "receive", "ring")
			for !strings.Contains(string(in.run(t, "logs", agent).stdout), "ready") {
				time.Sleep(10 * time.Millisecond)
			}
			return agent
		}
		receiver := receive()
		var last []string
		for n := range kills {
			a := member(t, in, flags, "locks", "/built/region", "locks", "locks", "100000000")
			b := member(t, in, flags, "ring", "/built/region", "send", "ring", fmt.Sprint(n%4), "100000000")
			time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
			last = append(last, member(t, in, flags, "locks", "/built/region", "locks", "locks", "2000"))
			for _, agent := range []string{a, b} {
				if r := in.run(t, "kill", "-s", "KILL", agent); r.status != 0 {
					t.Fatal(r)
				}
				in.run(t, "wait", agent)
			}
			if n%4 == 3 && n+1 < kills { // Their numbers begin anew.
				ends(member(t, in, flags, "ring", "/built/region", "end", "ring"), "")
				ends(receiver, "all came")
				receiver = receive()
			}
		}
		last = append(last, member(t, in, flags, "locks", "python3", "/p/region.py", "locks", "locks", "200"))
		for _, agent := range last {
			ends(agent, "")
		}
		ends(member(t, in, flags, "ring", "/built/region", "send", "ring", "5", "10000"), "")
		ends(member(t, in, flags, "ring", "/built/region", "end", "ring"), "")
		ends(receiver, "all came")
	})
}

// Python and Go use the same rings, locks and counters.
func TestFabricFromPython(t *testing.T) {
	need(t, "python3")
	flags := regionProgram(t)
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--", "sleep", "1000")
		if r := in.run(t, "fabric", "create", "--size", "1M", "r"); r.status != 0 {
			t.Fatal(r)
		}
		ends := func(agent, want string) {
			t.Helper()
			r := in.run(t, "wait", agent)
			if out := string(in.run(t, "logs", agent).stdout); r.status != 0 || !strings.Contains(out, want) {
				t.Errorf("%s says %q, not %q: %s", agent, out, want, r)
			}
		}
		ends(member(t, in, flags, "r", "/built/region", "make", "r"), "")
		py := member(t, in, flags, "r", "python3", "/p/region.py", "receive", "r")
		a := member(t, in, flags, "r", "/built/region", "send", "r", "1", "500")
		b := member(t, in, flags, "r", "python3", "/p/region.py", "send", "r", "2", "500")
		ends(a, "")
		ends(b, "")
		ends(member(t, in, flags, "r", "/built/region", "end", "r"), "")
		ends(py, "[(1, 500), (2, 500)]")
		counts := member(t, in, flags, "r", "python3", "/p/region.py", "count", "r", "100")
		for range 2 {
			ends(member(t, in, flags, "r", "python3", "/p/region.py", "advance", "r", "50"), "")
		}
		ends(counts, "100")
		ends(member(t, in, flags, "r", "python3", "/p/region.py", "rest", "r"),
			"BlockingIOError TimeoutError OSError OSError TimeoutError PermissionError 5 b'span' 200000")
	})
}

// What was committed of a persistent region is there again when the kernel process,
// the daemon or both are killed at any moment; in a domain of another name, too.
func TestPersistentRegion(t *testing.T) {
	need(t, "python3")
	rounds := 6
	if soak() {
		rounds = 100
	}
	const write = `import sys
with open("/aios/fabric/table", "r+b") as f:
    for at in (0, 3000000): f.seek(at); f.write(sys.argv[1].encode().ljust(8))`
	const read = `f = open("/aios/fabric/table", "rb")
for at in (0, 3000000): f.seek(at); print(f.read(8).decode().strip("\0 "), end=" ")`
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "w0", "--", "sleep", "1000")
		in.ok(t, "fabric", "create", "--persistent", "--owner", "w0", "--size", "4M", "--label", "draft", "--keep", "3", "table")
		in.noWith(t, "kept", "fabric", "create", "--persistent", "--size", "4M", "table")
		committed, version := 0, 0
		for round := range rounds {
			w := fmt.Sprintf("w%d", round)
			cut := make(chan struct{})
			go func() {
				time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
				for _, p := range in.processes() {
					isKernel := len(p.args) > 1 && p.args[1] == "kernel"
					if round%3 != 2 && isKernel != (round%3 == 0) {
						continue // One of them alone.
					}
					if proc, err := os.FindProcess(p.pid); err == nil && len(p.args) > 0 {
						proc.Kill()
					}
				}
				close(cut)
			}()
			tried := committed
			// A daemon that is gone is started by whoever needs one: nothing fails then.
			for ; !closed(cut); tried++ {
				next := fmt.Sprint(tried + 1)
				if r := in.run(t, "exec", w, "--", "python3", "-c", write, next); r.status != 0 {
					break
				}
				r := in.run(t, "fabric", "commit", "table", "--comment", next)
				if r.status != 0 {
					break
				}
				committed = tried + 1
				if _, err := fmt.Sscan(string(r.stdout), &version); err != nil {
					t.Fatal(r)
				}
			}
			<-cut
			in.run(t, "daemon", "start")
			w = fmt.Sprintf("w%d", round+1)
			domain := fmt.Sprintf("d%d", round+1)
			in.spawn(t, "--name", w, "--domain", domain, "--", "sleep", "1000")
			// The one before may not have noticed yet that its end has come.
			in.run(t, "kill", "-s", "KILL", fmt.Sprintf("w%d", round))
			in.run(t, "wait", fmt.Sprintf("w%d", round))
			eventually(t, "the region is closed", 20*time.Second, func() (bool, string) {
				r := in.run(t, "fabric", "open", "--owner", w, "table")
				return r.status == 0, r.String()
			})
			got := strings.Fields(string(in.ok(t, "exec", w, "--", "python3", "-c", read)))
			want := []string{fmt.Sprint(committed), fmt.Sprint(tried + 1)}
			if committed == 0 && len(got) == 0 {
				continue
			}
			if len(got) != 2 || got[0] != got[1] || !slices.Contains(want, got[0]) {
				t.Fatalf("round %d: it holds %v, %d was committed, %d perhaps", round, got, committed, tried+1)
			}
			fmt.Sscan(got[0], &committed)
		}
		if committed == 0 || version == 0 {
			t.Error("nothing was committed")
		}
		ls := string(in.ok(t, "fabric", "ls"))
		if !strings.Contains(ls, "COMMITTED") || !strings.Contains(ls, "draft") {
			t.Errorf("fabric ls says %q", ls)
		}
		// From inside, and what is open is in nobody else's way.
		last := fmt.Sprintf("w%d", rounds)
		if out := string(in.ok(t, "exec", last, "--", "python3", "-c", `import sys; sys.path.insert(0, "/aios/lib")
import aiosregion
with aiosregion.Region("table") as r: r.mem[8:12] = b"more"; print(r.commit())`)); !strings.Contains(in.show(t), fmt.Sprintf(`"committed":%s`, strings.TrimSpace(out))) {
			t.Errorf("committed %q from inside, and it shows %s", out, in.show(t))
		}
		in.noWith(t, "open", "fabric", "open", "table")
		in.ok(t, "fabric", "rm", "table")
		in.noWith(t, "--stored", "fabric", "rm", "table")
		path := filepath.Join(in.state, "fabric", "table.region")
		raw, err := os.ReadFile(path)
		must(t, err)
		raw[bytes.Index(raw, []byte("more"))] ^= 1
		must(t, os.WriteFile(path, raw, 0o600))
		in.noWith(t, "region table", "fabric", "open", "--owner", last, "table")
		in.ok(t, "fabric", "rm", "--stored", "table")
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Error("its file is still there")
		}
	})
}

// show is what is said of the region table.
func (in *install) show(t *testing.T) string {
	t.Helper()
	return strings.ReplaceAll(string(in.ok(t, "fabric", "show", "table", "-o", "json")), " ", "")
}

// A copy of an agent has the regions that the agent has open, by a right of its
// own: the same pages, until that is taken back.
func TestCloneSharesRegion(t *testing.T) {
	need(t, "python3")
	flags := regionProgram(t)
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, append(append([]string{"--name", "one"}, flags...), "--", "python3", "/p/twin.py")...)
		in.ok(t, "fabric", "create", "--owner", "one", "--size", "1M", "table")
		eventually(t, "it has the region", 20*time.Second, func() (bool, string) {
			out := string(in.run(t, "logs", "one").stdout)
			return strings.Contains(out, "ready"), out
		})
		at := func(agent string, off int) byte {
			t.Helper()
			out := in.ok(t, "exec", agent, "--", "python3", "-c", fmt.Sprintf("f = open('/aios/fabric/table', 'rb'); f.seek(%d); print(f.read(1)[0])", off))
			n := 0
			fmt.Sscan(string(out), &n)
			return byte(n)
		}
		changes := func(agent string, off int, want bool) {
			t.Helper()
			was, tries := at(agent, off), 0
			for ; tries < 20 && at(agent, off) == was; tries++ {
				time.Sleep(20 * time.Millisecond)
			}
			if got := tries < 20; got != want {
				t.Errorf("what is at %d in %s changes: %v", off, agent, got)
			}
		}
		changes("one", 64, true)
		changes("one", 128, false)
		in.ok(t, "clone", "--name", "two", "one")
		changes("one", 128, true)
		changes("two", 64, true)
		in.ok(t, "fabric", "revoke", "table", "two")
		if r := in.run(t, "wait", "two"); r.status != 128+7 {
			t.Errorf("without its pages the copy ends with %s, not with SIGBUS", r)
		}
		changes("one", 64, true)
		changes("one", 128, false)
	})
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
