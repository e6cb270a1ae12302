package e2e

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lukechampine.com/blake3"
)

// program returns the text of a program, for agents that have no directories of the
// host.
func checkpointProgram(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile("testdata/checkpoint/" + name)
	must(t, err)
	return string(raw)
}

// numbered waits until an agent's log ends with n, and fails if it does not count.
func (in *install) numbered(t *testing.T, agent string, least int) int {
	t.Helper()
	last := 0
	eventually(t, fmt.Sprintf("%s counts to %d", agent, least), 90*time.Second, func() (bool, string) {
		text := in.wrote(t, agent, 0)
		last = strings.Count(text, "\n") - 1
		for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
			if line != "" && line != fmt.Sprintf("n%d.", i) {
				t.Fatalf("%s: line %d is %q", agent, i, line)
			}
		}
		return last >= least, text[max(0, len(text)-400):]
	})
	return last
}

// A domain with programs of many kinds is saved and goes on in another kernel
// process, again and again.
func TestDomainHibernates(t *testing.T) {
	need(t, "python3", "redis-server")
	rounds := 2 // The second saves what was restored.
	if soak() {
		rounds = 10
	}
	onEach(t, func(t *testing.T, in *install) {
		spawn := func(name string, argv ...string) {
			in.spawn(t, append([]string{"--name", name, "--grant", "net:loopback", "--"}, argv...)...)
		}
		spawn("world", "python3", "-c", checkpointProgram(t, "world.py"))
		spawn("redis", "python3", "-c", checkpointProgram(t, "redis.py"))
		spawn("lines", "bash", "-c", "for ((i=0;;i++)); do echo $i; sleep 0.03; done | cat | while read x; do echo n$x.; done")
		spawn("still", "sh", "-c", "i=0; while :; do echo n$i.; i=$((i+1)); sleep 0.05; done")
		agents := []string{"world", "redis", "lines"}
		in.numbered(t, "still", 5)
		in.ok(t, "pause", "still")
		stood := in.numbered(t, "still", 5)
		caps := string(in.ok(t, "cap", "ls", "world"))
		id := in.inspect(t, "world").ID
		for round := range rounds {
			counts := make(map[string]int)
			for _, a := range agents {
				counts[a] = in.numbered(t, a, 10*(round+1))
			}
			in.ok(t, "domain", "hibernate", "default")
			if a := in.inspect(t, "world"); a.State != "lost" || !strings.Contains(a.Exit.Reason, "was saved to") {
				t.Errorf("saved: %+v", a)
			}
			in.ok(t, "domain", "restore", "default")
			for _, a := range agents {
				in.numbered(t, a, counts[a]+10)
			}
			if a := in.inspect(t, "still"); a.State != "paused" {
				t.Errorf("it was paused, and is %s", a.State)
			}
		}
		if now := in.numbered(t, "still", 5); now != stood {
			t.Errorf("it was paused at %d, and is at %d", stood, now)
		}
		in.ok(t, "resume", "still")
		in.numbered(t, "still", stood+10)
		if now := string(in.ok(t, "cap", "ls", "world")); now != caps {
			t.Errorf("capabilities before:\n%s\nand now:\n%s", caps, now)
		}
		if a := in.inspect(t, "world"); a.ID != id {
			t.Errorf("it was %s, and is %s", id, a.ID)
		}
		// What is new is made as before, and what is taken is gone.
		if r := in.run(t, "exec", "world", "--", "sh", "-c", "echo $((6*7)); hostname"); !strings.HasPrefix(string(r.stdout), "42\nworld") {
			t.Errorf("exec: %s", r)
		}
		in.spawn(t, "--name", "fresh", "--", "sh", "-c", "i=0; while :; do echo n$i.; i=$((i+1)); sleep 0.05; done")
		in.numbered(t, "fresh", 3)
		var net string
		for _, line := range strings.Split(caps, "\n") {
			if f := strings.Fields(line); len(f) > 2 && f[2] == "net:loopback" {
				net = f[1]
			}
		}
		in.ok(t, "cap", "revoke", net)
		eventually(t, "the loss of the network ends it", 30*time.Second, func() (bool, string) {
			return in.inspect(t, "world").State == "exited", string(in.ok(t, "logs", "--tail", "3", "world"))
		})
		in.ok(t, "domain", "stop", "-f", "default")
	})
}

// What was taken back or made less after a checkpoint was made does not come back with
// it.
func TestRevokedStaysRevoked(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "holder", "--grant", "net:loopback", "--", "sleep", "1000")
		dir := filepath.Join(t.TempDir(), "saved")
		in.ok(t, "domain", "checkpoint", "default", "--to", dir)
		for _, line := range strings.Split(string(in.ok(t, "cap", "ls", "holder")), "\n") {
			if f := strings.Fields(line); len(f) > 2 && f[2] == "net:loopback" {
				in.ok(t, "cap", "revoke", f[1])
			} else if len(f) > 2 && strings.HasPrefix(f[2], "mem:self") {
				in.ok(t, "cap", "attenuate", f[1], "--limit", "bytes=50M")
			}
		}
		in.ok(t, "domain", "stop", "-f", "default")
		in.ok(t, "domain", "restore", dir, "--name", "again")
		if a := in.inspect(t, "holder"); a.State != "running" || a.Domain != "again" {
			t.Errorf("%+v", a)
		}
		if caps := string(in.ok(t, "cap", "ls", "holder")); strings.Contains(caps, "net:loopback") || !strings.Contains(caps, "mem:self,bytes=50M") {
			t.Errorf("it holds\n%s", caps)
		}
	})
}

// Every part of a checkpoint is refused by its name when it is not what was written.
func TestDamagedCheckpoint(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	in.spawn(t, "--name", "counts", "--", "sh", "-c", "i=0; while :; do echo n$i.; i=$((i+1)); sleep 0.05; done")
	in.numbered(t, "counts", 3)
	dir := filepath.Join(t.TempDir(), "saved")
	in.ok(t, "domain", "checkpoint", "default", "--to", dir, "--stop")
	files, err := os.ReadDir(dir)
	must(t, err)
	if len(files) != 4 {
		t.Fatalf("%d files", len(files))
	}
	refused := func(what, file, why string) {
		t.Helper()
		r := in.run(t, "domain", "restore", dir)
		if r.status == 0 || !strings.Contains(string(r.stderr), why) || !strings.Contains(string(r.stderr), file) {
			t.Errorf("%s: %s", what, r)
		}
		if a := in.inspect(t, "counts"); a.State != "lost" {
			t.Errorf("%s: the agent is %s", what, a.State)
		}
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		whole, err := os.ReadFile(path)
		must(t, err)
		damage := func(what string, raw []byte) {
			t.Helper()
			must(t, os.WriteFile(path, raw, 0o600))
			refused(f.Name()+" "+what, f.Name(), "")
		}
		damage("empty", nil)
		damage("half", whole[:len(whole)/2])
		damage("without its last byte", whole[:len(whole)-1])
		damage("longer", append(whole[:len(whole):len(whole)], 'x'))
		for i := range 7 {
			at := i * (len(whole) - 1) / 6
			flipped := append([]byte(nil), whole...)
			flipped[at] ^= 0x10
			damage(fmt.Sprintf("flipped at %d", at), flipped)
		}
		must(t, os.Remove(path))
		refused(f.Name()+" gone", f.Name(), "")
		must(t, os.WriteFile(path, whole, 0o600))
	}

	manifest := filepath.Join(dir, "manifest.json")
	whole, err := os.ReadFile(manifest)
	must(t, err)
	change := func(old, new string) {
		t.Helper()
		var file struct {
			Manifest json.RawMessage `json:"manifest"`
			Sum      string          `json:"sum"`
		}
		must(t, json.Unmarshal(whole, &file))
		if !strings.Contains(string(file.Manifest), old) {
			t.Fatalf("no %s in %s", old, file.Manifest)
		}
		file.Manifest = json.RawMessage(strings.Replace(string(file.Manifest), old, new, 1))
		sum := blake3.Sum256(file.Manifest)
		file.Sum = hex.EncodeToString(sum[:])
		raw, err := json.Marshal(file)
		must(t, err)
		must(t, os.WriteFile(manifest, raw, 0o600))
	}
	change(`"cpu_features":[`, `"cpu_features":["time_travel",`)
	refused("a feature that no CPU has", "time_travel", "lack what its agents were shown")
	change(`"aios":"`, `"aios":"other-`)
	refused("another version", "other-", "made by AIOS")
	must(t, os.WriteFile(manifest, whole, 0o600))
	must(t, os.Chmod(dir, 0o777))
	refused("writable for all", dir, "others could have written it")
	must(t, os.Chmod(dir, 0o700))

	in.ok(t, "domain", "restore", dir)
	in.numbered(t, "counts", in.numbered(t, "counts", 3)+5)
	refusedBecause := func(want string, args ...string) {
		t.Helper()
		if r := in.run(t, args...); r.status == 0 || !strings.Contains(string(r.stderr), want) {
			t.Errorf("%v: %s", args, r)
		}
	}
	refusedBecause("a domain of that name runs", "domain", "restore", dir)
	refusedBecause("still runs", "domain", "restore", dir, "--name", "twin")
	refusedBecause("no such domain runs", "domain", "checkpoint", "nothing")
	refusedBecause("there is no checkpoint", "domain", "restore", dir+"/nothing")

	in.ok(t, "domain", "checkpoint", "default")
	in.numbered(t, "counts", in.numbered(t, "counts", 3)+5)
}

// Directories of the host are there again: files that were open, mapped and held, at
// their place, and as long as the grant says.
func TestDirectoriesGoOn(t *testing.T) {
	need(t, "python3")
	onOne(t, func(t *testing.T, in *install) {
		dir := t.TempDir()
		in.spawn(t, "--name", "files", "--mount", dir+":/data:rw", "--", "python3", "-c", `
import fcntl, mmap, os, time
os.chdir("/data")
log = open("log", "w")
fcntl.flock(log, fcntl.LOCK_EX)
with open("map", "wb") as f:
    f.write(bytes(4096))
shared = open("map", "r+b")
m = mmap.mmap(shared.fileno(), 4096)
n = 0
while True:
    log.write(f"{n}\n")
    log.flush()
    m[:8] = n.to_bytes(8, "little")
    assert int.from_bytes(os.pread(shared.fileno(), 8, 0), "little") == n
    print(f"n{n}.", flush=True)
    n += 1
    time.sleep(0.02)`)
		in.numbered(t, "files", 10)
		in.ok(t, "domain", "hibernate", "default")
		in.ok(t, "domain", "restore", "default")
		in.numbered(t, "files", in.numbered(t, "files", 5)+20)
		in.ok(t, "pause", "files")
		wrote, err := os.ReadFile(filepath.Join(dir, "log"))
		must(t, err)
		for i, line := range strings.Split(strings.TrimSpace(string(wrote)), "\n") {
			if line != fmt.Sprint(i) {
				t.Fatalf("line %d of the file is %q", i, line)
			}
		}
		in.ok(t, "resume", "files")
		for _, line := range strings.Split(string(in.ok(t, "cap", "ls", "files")), "\n") {
			if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(f[2], "fs:") {
				in.ok(t, "cap", "revoke", f[1])
			}
		}
		eventually(t, "the loss of the directory ends it", 30*time.Second, func() (bool, string) {
			return in.inspect(t, "files").State == "exited", string(in.ok(t, "logs", "--tail", "3", "files"))
		})

		// A file that somebody else has changed is not the one that was open.
		in.spawn(t, "--name", "reads", "--mount", dir+":/data", "--", "sh", "-c", "sleep 1000 </data/map")
		eventually(t, "it has it open", 30*time.Second, func() (bool, string) {
			r := in.run(t, "exec", "reads", "--", "sh", "-c", "ls -l /proc/*/fd | grep data/map")
			return r.status == 0, r.String()
		})
		in.ok(t, "domain", "hibernate", "default")
		must(t, os.WriteFile(filepath.Join(dir, "map"), []byte("changed"), 0o600))
		if r := in.run(t, "domain", "restore", "default"); r.status == 0 || !strings.Contains(string(r.stderr), dir+"/map: it has changed") || !strings.Contains(string(r.stderr), "--force-files") {
			t.Errorf("a file that was changed: %s", r)
		}
		in.ok(t, "domain", "restore", "default", "--force-files")
		if r := in.run(t, "exec", "reads", "--", "cat", "/data/map"); string(r.stdout) != "changed" {
			t.Errorf("a file that was taken as it is: %s", r)
		}
	})
}

// A program that listens to events goes on listening; and the second checkpoint in a
// directory writes little.
func TestListenersGoOn(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	in.spawn(t, "--name", "listens", "--", "sh", "-c", "while read -r line; do echo heard; done </aios/events")
	heard := func() int { return strings.Count(string(in.ok(t, "logs", "listens")), "heard") }
	hears := func(when string) {
		t.Helper()
		before := heard()
		eventually(t, "it hears "+when, 30*time.Second, func() (bool, string) {
			in.ok(t, "exec", "listens", "--", "true")
			return heard() > before, in.run(t, "ps", "-a").String()
		})
	}
	hears("before")
	dir := filepath.Join(t.TempDir(), "saved")
	in.ok(t, "domain", "checkpoint", "default", "--to", dir)
	packs := func() (bytes int64) {
		left, err := filepath.Glob(filepath.Join(dir, "pages-*"))
		must(t, err)
		for _, path := range left {
			st, err := os.Stat(path)
			must(t, err)
			bytes += st.Size()
		}
		return bytes
	}
	first := packs()
	for range 3 {
		hears("between")
		in.ok(t, "domain", "checkpoint", "default", "--to", dir)
	}
	if n := packs(); n > 3*first {
		t.Errorf("a checkpoint has %d bytes of pages, and four of the same have %d", first, n)
	}
	in.ok(t, "domain", "stop", "-f", "default")
	in.ok(t, "domain", "restore", dir)
	hears("after")
}
