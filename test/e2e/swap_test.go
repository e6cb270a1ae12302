package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// swapOf is what `aiosctl vm` says of an agent's swap.
type swapOf struct {
	OOMs uint64 `json:"ooms"`
	Swap struct {
		File      uint64
		FileLimit uint64 `json:"file_limit"`
	}
}

func (in *install) swap(t *testing.T, agent string) (v swapOf, raw string) {
	t.Helper()
	out := in.ok(t, "vm", "-o", "json", agent)
	must(t, json.Unmarshal(out, &v))
	return v, string(out)
}

// TestSwapLimit: an agent that may swap goes on with more than its memory limit, and has
// its swap whatever happens to it, its daemon and its kernel process.
func TestSwapLimit(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		const program = `
data = [bytes([i]) * (1 << 20) for i in range(128)]
print("right" if all(d == bytes([i]) * (1 << 20) for i, d in enumerate(data)) else "WRONG", flush=True)
import time; time.sleep(1000)`
		has := func(agent string, bytes uint64) {
			t.Helper()
			eventually(t, fmt.Sprintf("%s has %d bytes of swap", agent, bytes), patience, func() (bool, string) {
				v, raw := in.swap(t, agent)
				return v.Swap.FileLimit == bytes, raw
			})
		}
		f := in.follow(t)
		big := in.spawn(t, "--name", "big", "--limit", "memory=64M,swap=256M", "--", "python3", "-c", program)
		f.wait(t, "memory.swap", about(big))
		eventually(t, "all is right", patience, func() (bool, string) {
			out := string(in.ok(t, "logs", "big"))
			return strings.Contains(out, "right"), out
		})
		if v, raw := in.swap(t, "big"); v.OOMs != 0 || v.Swap.File == 0 || v.Swap.FileLimit != 256<<20 {
			t.Errorf("%s", raw)
		}
		in.ok(t, "kill", "big")

		small := in.spawn(t, "--name", "small", "--restart", "always", "--limit", "memory=64M,swap=128M", "--", "sleep", "1000")
		has("small", 128<<20)
		if out := string(in.ok(t, "inspect", "small")); !strings.Contains(out, "at most 128 MiB") {
			t.Errorf("%s", out)
		}
		if out := string(in.ok(t, "vm", "set", "small", "swap=96M")); out != "96 MiB, was 128 MiB\n" {
			t.Errorf("%q", out)
		}
		kill9(t, in.process(t, "serve"))
		has("small", 96<<20)
		f = in.follow(t)
		kill9(t, in.process(t, "kernel", "default"))
		f.wait(t, "agent.restart", about(small))
		eventually(t, "it runs again", patience, func() (bool, string) {
			st := in.inspect(t, "small").State
			return st == "running", st
		})
		has("small", 96<<20)
		in.ok(t, "clone", "small", "--name", "copy")
		has("copy", 48<<20)
		has("small", 48<<20)
		in.ok(t, "upgrade", "small", "--image", "host", "--timeout", "500ms", "--", "sleep", "1000")
		has("small", 48<<20)
		in.ok(t, "domain", "hibernate", "default")
		in.ok(t, "domain", "restore", "default")
		has("copy", 48<<20)
		has("small", 48<<20)
		if out := string(in.ok(t, "exec", "small", "--", "grep", "SwapTotal", "/proc/meminfo")); strings.Join(strings.Fields(out), " ") != "SwapTotal: 49152 kB" {
			t.Errorf("%q", out)
		}
		for _, try := range [][2]string{{"swap=1K", "give at least 1M"}, {"swap=x", "not a size"}} {
			if r := in.run(t, "spawn", "--limit", try[0], "--", "true"); r.status == 0 || !strings.Contains(string(r.stderr), try[1]) {
				t.Errorf("%s: %s", try[0], r)
			}
		}
	})
}
