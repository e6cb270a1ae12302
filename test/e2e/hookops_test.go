package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestHooksOfEveryOperation has everything done to an agent that there are hooks for:
// they are asked and told of each, and what they refuse is not done.
func TestHooksOfEveryOperation(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		listen, told := in.listener(t, "listen", "")
		const asked = "exec, pause, resume, hibernate, clone, merge, specialize, split, upgrade, checkpoint, restore"
		open := filepath.Join(in.dir, "open")
		in.config(t, `version: 1
hooks:
  - {name: listen, on: [spawn, kill, exit, `+asked+`], agents: [web*], before: true, after: true, command: [`+listen+`], order: -1}
  - {name: policy, on: [`+asked+`], agents: [no*], before: true, command: [`+in.script(t, "policy", `echo "no $AIOS_OPERATION here" >&2; exit 1`)+`]}
  - {name: door, on: [checkpoint, restore], agents: [late], before: true, command: [`+in.script(t, "door", `[ -e `+open+` ] || { echo "not yet" >&2; exit 1; }`)+`]}
`)
		in.ok(t, "daemon", "start")
		const program = "sleep 1000 & exec sleep 1000"
		in.spawn(t, "--name", "web", "--", "sh", "-c", program)
		in.spawn(t, "--name", "other", "--domain", "other", "--", "sh", "-c", program)
		in.spawn(t, "--name", "no", "--domain", "other", "--", "sh", "-c", program)
		in.ok(t, "clone", "--name", "no-copy", "other")
		ops := func(agent, name, copied, domain string) map[string][]string {
			return map[string][]string{
				"exec": {"exec", agent, "--", "true"}, "pause": {"pause", agent}, "hibernate": {"hibernate", agent},
				"clone": {"clone", "--name", name, agent}, "merge": {"merge", copied}, "specialize": {"specialize", "--name", agent + "-less", agent},
				"split": {"split", "--name", agent + "-half", "--pid", "2", agent}, "upgrade": {"upgrade", agent, "--image", "host", "--timeout", "100ms", "--", "sleep", "1000"},
				"checkpoint": {"domain", "checkpoint", domain},
			}
		}
		for op, args := range ops("no", "no-second", "no-copy", "other") {
			in.noWith(t, "the hook policy refuses it: no "+op+" here", args...)
		}
		if all := in.ps(t); len(all) != 4 {
			t.Errorf("of what was refused there is %+v", all)
		}

		of := ops("web", "web-copy", "web-copy", "default")
		want := []string{"after spawn web"}
		for _, op := range []string{"exec", "pause", "resume", "hibernate", "clone", "merge", "specialize", "split", "checkpoint", "upgrade"} {
			args, agent := of[op], "web"
			switch op {
			case "resume":
				args = []string{"resume", "web"}
			case "merge":
				agent = "web-copy"
			case "upgrade": // All copies have a checkpoint as well.
				want = append(want, "after checkpoint web-less", "after checkpoint web-half")
			}
			in.ok(t, args...)
			want = append(want, "after "+op+" "+agent)
		}
		in.ok(t, "domain", "hibernate", "default")
		in.ok(t, "domain", "restore", "default")
		want = append(want, "after restore web", "after restore web-less", "after restore web-half", "before restore web", "before hibernate web")
		has := func(want []string) (bool, string) {
			var got []string
			for _, h := range told() {
				got = append(got, h.String()+" "+h.Agent.Name)
			}
			for _, w := range want {
				if !slices.Contains(got, w) {
					return false, fmt.Sprintf("%q is not in %q", w, got)
				}
			}
			return true, ""
		}
		eventually(t, "all is told", 20*time.Second, func() (bool, string) { return has(want) })

		// Who had agreed hears that nothing came of it, if another's hook did not agree.
		for _, name := range []string{"web-1", "web-2", "web-3", "late"} {
			in.spawn(t, "--name", name, "--domain", "mixed", "--", "sleep", "1000")
		}
		in.noWith(t, "not yet", "domain", "checkpoint", "mixed")
		must(t, os.WriteFile(open, nil, 0o600))
		in.ok(t, "domain", "hibernate", "mixed")
		must(t, os.Remove(open))
		in.noWith(t, "not yet", "domain", "restore", "mixed")
		must(t, os.WriteFile(open, nil, 0o600))
		in.ok(t, "domain", "restore", "mixed")
		eventually(t, "all is told", 20*time.Second, func() (bool, string) {
			return has([]string{"after restore web-1", "after restore web-2", "after restore web-3"})
		})
		done := make(map[string]int)
		for _, h := range told() {
			if h.Outcome != nil && h.Outcome.Done {
				done[h.Operation+" "+h.Agent.Name]++
			}
		}
		for _, what := range []string{"checkpoint web-1", "checkpoint web-2", "checkpoint web-3", "restore web-1", "restore web-2", "restore web-3"} {
			if done[what] != 1 {
				t.Errorf("that %s was done is told %d times", what, done[what])
			}
		}
		if h := in.hooks(t); h["policy"].Vetoes != 9 || h["door"].Vetoes != 2 {
			t.Errorf("%+v", h)
		}
	})
}
