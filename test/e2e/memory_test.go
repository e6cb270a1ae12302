package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestMemoryPolicies starts agents that run out of memory, and says and changes
// what is done about it.
func TestMemoryPolicies(t *testing.T) {
	need(t, "python3")
	onOne(t, func(t *testing.T, in *install) {
		const hog = `python3 -c 'x = [b"x" * (1 << 20) for _ in range(5000)]'; echo "ended $?"`
		f := in.follow(t)
		in.spawn(t, "--name", "web", "--limit", "memory=96M", "--on-oom", "kill-process", "--", "sh", "-c", hog+"; sleep 1000")
		f.wait(t, "memory.oom", func(e eventLine) bool { return e.Data["action"] == "kill-process" && e.Data["scope"] == "process" })
		var m struct {
			Limit, Used, Kernel uint64
			OnOOM               string `json:"on_oom"`
			OOMs                uint64 `json:"ooms"`
			OOMKills            uint64 `json:"oom_kills"`
			Processes           []struct{ Name string }
		}
		eventually(t, "the shell goes on", patience, func() (bool, string) {
			out := string(in.ok(t, "logs", "web"))
			return strings.Contains(out, "ended 137"), out
		})
		eventually(t, "what the process had is given back", patience, func() (bool, string) {
			raw := in.ok(t, "vm", "-o", "json", "web")
			must(t, json.Unmarshal(raw, &m))
			return m.Used <= m.Limit, string(raw)
		})
		if m.Limit != 96<<20 || m.Used == 0 || m.Kernel == 0 || m.OnOOM != "kill-process" || m.OOMs != 1 || m.OOMKills != 1 || len(m.Processes) < 1 {
			t.Errorf("%+v", m)
		}
		if out := string(in.ok(t, "vm", "web")); !strings.Contains(out, "on oom   kill-process; 1 times out of memory, 1 processes ended") || !strings.Contains(out, "sh") {
			t.Errorf("%s", out)
		}
		if out := string(in.ok(t, "vm", "set", "web", "on-oom=freeze")); out != "freeze, was kill-process\n" {
			t.Errorf("%q", out)
		}
		in.start(t, "exec", "web", "--", "python3", "-c", `x = [b"x" * (1 << 20) for _ in range(5000)]`)
		f.wait(t, "memory.oom", func(e eventLine) bool { return e.Data["action"] == "freeze" })
		f.wait(t, "agent.pause", nil)
		in.ok(t, "kill", "--force", "web")
		eventually(t, "both are in the trail", patience, func() (bool, string) {
			entries := in.audit(t, "--op", "oom")
			return len(entries) == 2, fmt.Sprint(entries)
		})
		if r := in.run(t, "spawn", "--on-oom", "deny", "--", "true"); r.status == 0 {
			t.Errorf("a policy that there is not: %s", r)
		}
	})
}

// TestHibernateAgent: what an idle program has is swapped out, and it goes on with
// all of it when there is input; one that is busy is refused.
func TestHibernateAgent(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		const program = `
import hashlib, sys
block = lambda i: hashlib.sha256(b"%d" % i).digest() * 500
data = [block(i) for i in range(2000)]
rest = {i: str(i) * 3 for i in range(20000)}
print("ready", flush=True)
while True:
    line = sys.stdin.readline().strip()
    if line == "busy":
        print("busy", flush=True)
        while True: pass
    right = all(d == block(i) for i, d in enumerate(data)) and all(rest[i] == str(i) * 3 for i in rest)
    data[int(line)] = block(int(line))
    print("right" if right else "WRONG", line, flush=True)
`
		bot := in.startAgent(t, "-i", "--name", "bot", "--", "python3", "-c", program)
		bot.stdout.expect(t, "ready")
		var r struct{ Before, After, Taken uint64 }
		for i := range 4 {
			eventually(t, "it is idle", patience, func() (bool, string) {
				h := in.run(t, "hibernate", "-o", "json", "bot")
				return h.status == 0 && json.Unmarshal(h.stdout, &r) == nil, h.String()
			})
			if i == 0 && (r.Taken < 16<<20 || r.After > r.Before/2) {
				t.Errorf("%+v", r)
			}
			bot.write(fmt.Sprintln(i))
			bot.stdout.expect(t, fmt.Sprint("right ", i))
		}
		var vm struct {
			Swap struct {
				In  uint64 `json:"in_pages"`
				Out uint64 `json:"out_pages"`
			}
		}
		must(t, json.Unmarshal(in.ok(t, "vm", "-o", "json", "bot"), &vm))
		if vm.Swap.In == 0 || vm.Swap.Out < 16<<20/4096 {
			t.Errorf("%+v", vm)
		}
		bot.write("busy\n")
		bot.stdout.expect(t, "busy")
		if h := in.run(t, "hibernate", "bot"); h.status == 0 || !strings.Contains(h.String(), "not idle") {
			t.Errorf("%s", h)
		}
		in.ok(t, "kill", "--force", "bot")
	})
}
