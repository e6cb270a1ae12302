package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

// Several programs of the corpus at once are saved at a random moment with their
// domain, which ends, and go on in a new kernel process as if nothing had happened:
// AIOS_INSTANTS times each on each platform, and without a number a few of them once.
func TestCheckpointPrograms(t *testing.T) {
	const together = 4
	flags := corpusFlags(t)
	instants := 0
	if soak() {
		instants = 20
	}
	if n, err := strconv.Atoi(os.Getenv("AIOS_INSTANTS")); err == nil {
		instants = n
	}
	f := func(t *testing.T, in *install) {
		in.agent(t, "--", "true")
		door := in.dial(t)
		var all []*catching
		for _, i := range rand.Perm(len(cloneCorpus)) {
			if p := cloneCorpus[i]; hostHas(p.need) && (instants > 0 || len(all) < together) {
				all = append(all, &catching{in: in, door: door, args: append(append(flags[:len(flags):len(flags)], "--"), p.argv...)})
				all[len(all)-1].alone(t)
			}
		}
		alive, saves := 0, 0
		for n := 0; n < max(1, instants) || alive == 0 && n < 10; n++ {
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			for some := range slices.Chunk(all, together) {
				alive += saved(t, in, some)
				saves++
			}
		}
		if alive == 0 {
			t.Error("all had ended each time")
		}
		t.Logf("%d times saved, with %d programs that had not ended", saves, alive)
	}
	if instants > 0 {
		onEach(t, f)
	} else {
		onOne(t, f)
	}
}

// saved runs programs, saves and ends their domain meanwhile, has it go on, and
// looks what has become of them. It returns how many had not ended.
func saved(t *testing.T, in *install, programs []*catching) (alive int) {
	t.Helper()
	dir := t.TempDir()
	var all []*caught
	began := time.Now()
	for _, c := range programs {
		all = append(all, &caught{id: in.spawn(t, c.args...)})
	}
	time.Sleep(time.Until(began.Add(time.Duration(rand.Float64() * float64(programs[rand.IntN(len(programs))].takes[0])))))
	after := time.Since(began)
	if r := in.run(t, "domain", "checkpoint", "default", "--to", dir, "--stop"); r.status == 0 {
		in.ok(t, "domain", "restore", dir)
	} else if !strings.Contains(string(r.stderr), "no agent runs in it") { // All have ended.
		t.Fatal(r)
	}
	for i, x := range all {
		c := programs[i]
		if s := c.stateOf(t, x.id); s == "running" {
			alive++
		}
		if !c.await(t, x) {
			continue
		}
		if got := string(x.log[0]); !x.well() || got != c.want {
			t.Errorf("%q, saved after %v of about %v: %s with %s, stdout %q, stderr %q; want %q", c.args[len(c.args)-1], after, c.takes[0],
				x.info.GetState(), x.exit.GetReason(), short(x.log[0]), short(x.log[1]), c.want)
		}
		in.ok(t, "rm", x.id)
	}
	return alive
}

// stateOf returns what state an agent is in.
func (c *catching) stateOf(t *testing.T, id string) string {
	t.Helper()
	i, err := c.door.Inspect(context.Background(), &apiv1.InspectRequest{Agent: id})
	must(t, err)
	return i.GetAgent().GetState()
}
