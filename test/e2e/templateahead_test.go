package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// awaitAhead waits until a template has so many copies ready, of as many.
func (in *install) awaitAhead(t *testing.T, when string, want map[string]int) {
	t.Helper()
	eventually(t, when+": copies are ready", 30*time.Second, func() (bool, string) {
		var list []struct {
			Name   string
			Ahead  int
			Wanted int `json:"ahead_wanted"`
		}
		raw := in.ok(t, "template", "ls", "-o", "json")
		must(t, json.Unmarshal(raw, &list))
		got := make(map[string]int)
		for _, x := range list {
			if got[x.Name] = x.Ahead; x.Wanted != want[x.Name] {
				t.Fatalf("%s: %s", when, raw)
			}
		}
		return fmt.Sprint(got) == fmt.Sprint(want), string(raw)
	})
}

// A template has copies ready, more agents begin from it at once than there are, and
// others are made: also after its kernel process was killed, and its domain goes on
// from a checkpoint.
func TestTemplateAhead(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		const program = "import json, sys; exec(sys.stdin.read())"
		in.template(t, "py", "--", "python3", "-c", program)
		in.template(t, "none", "--ahead", "0", "--", "python3", "-c", program)
		in.template(t, "more", "--ahead", "3", "--", "cat")
		want := map[string]int{"py": 2, "none": 0, "more": 3}
		works := func(when string) {
			t.Helper()
			in.awaitAhead(t, when, want)
			var wg sync.WaitGroup
			for i := range 4 {
				for _, name := range []string{"py", "none"} {
					wg.Go(func() {
						agent := fmt.Sprintf("%s-%d", name, i)
						r := in.from(t, name, `print(__import__("os").uname().nodename, json.dumps(sys.argv), sum(range(1000))); sys.exit(3)`, "--name", agent)
						if r.status != 3 || !strings.HasPrefix(string(r.stdout), agent+" [") || !strings.HasSuffix(string(r.stdout), " 499500\n") {
							t.Errorf("%s: %s", when, r)
						}
					})
				}
			}
			wg.Wait()
			if got := string(in.ok(t, "ps", "-q")); got != "" {
				t.Errorf("%s: these run: %s", when, got)
			}
		}
		works("made")
		in.ok(t, "domain", "checkpoint", "default", "--every", "1h")
		restored := len(in.past(t, "domain.restore"))
		must(t, syscall.Kill(in.process(t, "kernel", "default"), syscall.SIGKILL))
		eventually(t, "it goes on", 60*time.Second, func() (bool, string) {
			return len(in.past(t, "domain.restore")) > restored, string(in.ok(t, "ps", "-a"))
		})
		works("killed")
		in.ok(t, "domain", "checkpoint", "default", "--every", "0")
		in.spawn(t, "--name", "worker", "--", "sleep", "1000")
		in.ok(t, "template", "create", "--agent", "worker", "--ahead", "1", "now")
		want["now"] = 1
		in.awaitAhead(t, "of an agent", want)
		if r := in.run(t, "template", "create", "--ahead", "65", "many", "--", "cat"); r.status != 125 || !strings.Contains(string(r.stderr), "the most is 64") {
			t.Errorf("%s", r)
		}
	})
}
