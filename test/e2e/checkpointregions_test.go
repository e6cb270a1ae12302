package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// regionFacts is what is the same of a region before it is saved and after.
type regionFacts struct {
	Name      string   `json:"name"`
	Owner     string   `json:"owner"`
	Size      uint64   `json:"size"`
	Address   uint64   `json:"address"`
	Labels    []string `json:"labels"`
	Lineage   string   `json:"lineage"`
	Digest    string   `json:"digest"`
	Charged   uint64   `json:"charged"`
	Mapped    uint64   `json:"mapped"`
	Versions  uint32   `json:"version_count"`
	Members   uint32   `json:"members"`
	Committed uint64   `json:"committed"`
}

// Regions go on with their domain: what is in them, who has them mapped, and who has a
// lock or waits for one; and what is kept of persistent ones counts on.
func TestRegionsGoOn(t *testing.T) {
	need(t, "python3")
	onOne(t, func(t *testing.T, in *install) {
		spawn := func(name, arg string) {
			in.spawn(t, "--name", name, "--", "python3", "-c", checkpointProgram(t, "regions.py"), arg)
		}
		in.spawn(t, "--name", "owner", "--", "sleep", "1000")
		spawn("one", "0")
		in.ok(t, "fabric", "create", "--owner", "owner", "--size", "1M", "--fixed", "--label", "draft", "shared")
		in.ok(t, "fabric", "create", "--owner", "owner", "--size", "256K", "--persistent", "--keep", "3", "kept")
		in.ok(t, "exec", "owner", "--", "sh", "-c", "echo first 1<>/aios/fabric/kept")
		in.ok(t, "fabric", "commit", "kept")
		in.ok(t, "exec", "owner", "--", "sh", "-c", "echo again 1<>/aios/fabric/kept")
		spawn("two", "1")
		for _, who := range []string{"one", "two"} {
			in.ok(t, "fabric", "share", "shared", who, "--rights", "read+write")
		}
		in.numbered(t, "two", 10)
		for range 10 { // Who writes is held back meanwhile, and goes on.
			in.ok(t, "fabric", "snapshot", "shared")
		}
		in.ok(t, "fabric", "fork", "shared", "1", "trial", "--owner", "two")
		in.ok(t, "fabric", "seal", "trial")
		facts := func() string {
			t.Helper()
			var list []regionFacts
			must(t, json.Unmarshal(in.ok(t, "fabric", "ls", "-o", "json"), &list))
			raw, err := json.MarshalIndent(list, "", " ")
			must(t, err)
			return string(raw)
		}
		var before string
		for range 2 {
			in.numbered(t, "two", in.numbered(t, "one", 10)+5)
			before = facts()
			in.ok(t, "domain", "hibernate", "default")
			in.ok(t, "domain", "restore", "default")
			if now := facts(); now != before {
				t.Errorf("before:\n%s\nand now:\n%s", before, now)
			}
			in.numbered(t, "two", in.numbered(t, "one", 10)+10)
		}
		if r := in.run(t, "exec", "owner", "--", "head", "-c", "5", "/aios/fabric/kept"); string(r.stdout) != "again" {
			t.Errorf("what was not committed: %s", r)
		}
		if got := strings.TrimSpace(string(in.ok(t, "fabric", "commit", "kept"))); got != "2" {
			t.Errorf("version %s is committed", got)
		}
		in.ok(t, "fabric", "revoke", "shared", "two")
		eventually(t, "the loss of the region ends it", 30*time.Second, func() (bool, string) {
			return in.inspect(t, "two").State == "exited", string(in.ok(t, "logs", "--tail", "3", "two"))
		})
		in.ok(t, "fabric", "rollback", "shared", "1")
		in.ok(t, "domain", "hibernate", "default")
		in.ok(t, "domain", "restore", "default")
		in.ok(t, "fabric", "rm", "kept")
		in.ok(t, "fabric", "open", "--owner", "owner", "kept")
		if r := in.run(t, "exec", "owner", "--", "head", "-c", "5", "/aios/fabric/kept"); string(r.stdout) != "again" {
			t.Errorf("what was committed: %s", r)
		}
	})
}
