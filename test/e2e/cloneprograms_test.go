package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
)

// cloneCorpus are programs that end by themselves and print what they have seen,
// the same every time.
var cloneCorpus = []struct {
	name string
	need string
	argv []string
}{
	{"python threads", "python3", []string{"python3", "/p/threads.py"}},
	{"python asyncio", "python3", []string{"python3", "/p/loop.py"}},
	{"python multiprocessing", "python3", []string{"python3", "/p/processes.py"}},
	{"python manager", "python3", []string{"python3", "/p/manager.py"}},
	{"sqlite with a journal", "python3", []string{"python3", "/p/transactions.py"}},
	{"sqlite with a write-ahead log", "python3", []string{"env", "WAL=1", "python3", "/p/transactions.py"}},
	{"node", "node", []string{"node", "/p/node.js"}},
	{"gcc", "gcc", []string{"sh", "/p/compile.sh"}},
	{"git", "git", []string{"bash", "/p/git.sh"}},
	{"pipelines and jobs", "bash", []string{"bash", "/p/jobs.sh"}},
	{"calls of C", "gcc", []string{"/built/calls-c"}},
	{"vfork", "gcc", []string{"/built/vfork-c"}},
	{"calls of Go", "sh", []string{"/built/calls-go"}},
	{"server of Go", "sh", []string{"/built/server-go"}},
	{"TCP of Python", "python3", []string{"python3", "/p/tcp.py"}},
	{"backlog", "python3", []string{"python3", "/p/backlog.py"}},
	{"redis", "redis-server", []string{"sh", "/p/redis.sh"}},
	{"nginx", "nginx", []string{"sh", "/p/nginx.sh"}},
	{"make", "gcc", []string{"sh", "/p/make.sh"}},
	{"perl", "perl", []string{"perl", "/p/perl.pl"}},
	{"python pools", "python3", []string{"python3", "/p/pool.py"}},
	{"python waits", "python3", []string{"python3", "/p/waits.py"}},
	{"shared memory and locks", "python3", []string{"python3", "/p/shared.py"}},
	{"xargs and fifos", "sh", []string{"bash", "/p/xargs.sh"}},
	{"server of node", "node", []string{"node", "/p/server.js"}},
	{"inotify", "python3", []string{"python3", "/p/inotify.py"}},
	{"datagrams", "python3", []string{"python3", "/p/datagrams.py"}},
	{"terminals", "python3", []string{"python3", "/p/terminals.py"}},
	{"System V", "python3", []string{"python3", "/p/sysv.py"}},
	{"asynchronous I/O", "python3", []string{"python3", "/p/aio.py"}},
	{"java", "javac", []string{"java", "-cp", "/built", "Busy"}},
	{"tmux", "tmux", []string{"bash", "/p/tmux.sh"}},
	{"postgres", "postgres", []string{"bash", "/p/postgres.sh"}},
}

// seldom are programs that few hosts have: without them nothing fails.
var seldom = []string{"javac", "tmux", "postgres"}

// catchesPerRun is how often a program and its copies are copied in one run, and
// pausedPerRun how often one is whose copies wait until it has ended. Each copy has
// half of what was left of its original's budget, so it is not more.
const catchesPerRun, pausedPerRun = 8, 4

// soakPatience is how long a program may take that is copied many times beside other
// work.
const soakPatience = 5 * time.Minute

// Programs are caught at random moments, AIOS_INSTANTS of them on each platform:
// original and copy both end as if nothing had happened. Without a number, each
// program is caught once, on a platform that changes from run to run.
func TestClonePrograms(t *testing.T) {
	flags := corpusFlags(t)
	instants, turn := 1, rand.IntN(2)
	if soak() {
		instants, turn = 200, -1
	}
	if n, err := strconv.Atoi(os.Getenv("AIOS_INSTANTS")); err == nil {
		instants, turn = n, -1
	}
	if len(platforms()) == 1 {
		turn = -1
	}
	if instants == 1 {
		flags = append(flags, "--env", "SHORT=1") // They repeat less of the same.
	}
	onEach(t, func(t *testing.T, in *install) {
		in.agent(t, "--", "true") // The kernel has begun.
		door := in.dial(t)
		for i, p := range cloneCorpus {
			if turn >= 0 && platforms()[(i+turn)%2] != in.platform {
				continue
			}
			t.Run(p.name, func(t *testing.T) {
				if slices.Contains(seldom, p.need) && !hostHas(p.need) {
					t.Skip("it needs " + p.need)
				}
				need(t, p.need)
				c := &catching{in: in, door: door, args: append(append(flags[:len(flags):len(flags)], "--"), p.argv...)}
				c.alone(t)
				c.catch(t, instants)
			})
		}
	})
}

// corpusFlags builds what the corpus needs, and returns the flags of who runs it.
func corpusFlags(t *testing.T) []string {
	t.Helper()
	built, sources := t.TempDir(), absolute(t, "testdata/clone")
	for _, name := range []string{"calls", "server"} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(built, name+"-go"), "./testdata/clone/"+name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if hostHas("gcc") {
		for _, name := range []string{"calls", "vfork"} {
			if out, err := exec.Command("gcc", "-O1", "-o", filepath.Join(built, name+"-c"), "testdata/clone/"+name+".c", "-lpthread", "-lrt").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	if hostHas("javac") {
		if out, err := exec.Command("javac", "-d", built, "testdata/clone/Busy.java").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return []string{"--grant", "net:loopback", "--grant", "fs:" + sources + ":ro,at=/p", "--grant", "fs:" + built + ":ro,at=/built"}
}

// dial returns a client: a command takes longer to begin than some programs take.
func (in *install) dial(t *testing.T) *client.Client {
	t.Helper()
	paths, err := config.Resolve(in.state)
	must(t, err)
	door, err := client.Dial(context.Background(), client.Options{Paths: paths, NoStart: true})
	must(t, err)
	t.Cleanup(func() { door.Close() })
	return door
}

// catching is a program that is caught again and again.
type catching struct {
	in      *install
	door    *client.Client
	args    []string
	want    string           // what it prints, alone
	takes   [2]time.Duration // how long it has run the last time, with copies that run beside it and without
	copies  int
	tenths  [10]int // of its life: how many copies were made in each
	missed  int     // how often everybody had ended
	refused int
}

// caught is a program in one run, or a copy of it.
type caught struct {
	id    string
	of    *caught // nil for the first
	parts int     // of the budget, how many it has left
	still bool    // it waits
	wrote int     // how much the other had written when this was made, at most
	info  *apiv1.Agent
	exit  *apiv1.Exit
	log   [2][]byte
	gone  bool
}

// alone notes what the program does if nothing happens.
func (c *catching) alone(t *testing.T) {
	t.Helper()
	x := &caught{id: c.in.spawn(t, c.args...)}
	if !c.await(t, x) || !x.well() || len(x.log[0]) == 0 {
		t.Fatalf("alone: %v: %s%s", x.exit, x.log[0], x.log[1])
	}
	c.want, c.takes = string(x.log[0]), [2]time.Duration{lifeOf(x.info), lifeOf(x.info)}
}

// well reports whether it has ended as it should.
func (x *caught) well() bool {
	return x.info.GetState() == "exited" && client.ExitStatus(x.exit) == 0 && len(x.log[1]) == 0
}

// catch has the program copied at so many moments. Copies that run beside it slow it
// down, the more of them the more, so that it is caught early mostly; so every other
// time they wait until it has ended, as those of clone --pause do.
func (c *catching) catch(t *testing.T, instants int) {
	for rounds := 0; c.copies < instants; rounds++ {
		if rounds > 10+2*instants || c.refused > 2+instants/10 {
			t.Fatalf("copied %d times of %d only", c.copies, instants)
		}
		still, most := rounds%2 == 0 && instants > 1, catchesPerRun
		if still {
			most = pausedPerRun
		}
		at := make([]float64, min(most, instants-c.copies))
		for i := range at {
			at[i] = rand.Float64()
		}
		slices.Sort(at)
		c.round(t, at, still)
	}
	t.Logf("%d copies, made in tenths of the program's life: %v; it had ended before %d more, and %d were refused", c.copies, c.tenths, c.missed, c.refused)
}

// round runs the program once, copies it or one of its copies at these moments, of
// what it takes, and checks what all of them come to.
func (c *catching) round(t *testing.T, at []float64, still bool) {
	t.Helper()
	takes := &c.takes[0]
	if still {
		takes = &c.takes[1]
	}
	began := time.Now()
	all := []*caught{{id: c.in.spawn(t, c.args...), parts: 2 * catchesPerRun}}
	defer func() {
		for _, x := range all {
			c.door.Remove(context.Background(), &apiv1.RemoveRequest{Agent: x.id, Force: true})
		}
	}()
	for _, share := range at {
		time.Sleep(time.Until(began.Add(time.Duration(share * float64(*takes)))))
		if x := c.copy(t, all, still); x != nil {
			all = append(all, x)
		}
	}
	for _, x := range all {
		if x.still {
			_, err := c.door.Resume(context.Background(), &apiv1.ResumeRequest{Agent: x.id})
			must(t, err)
		}
		if !c.await(t, x) {
			return
		}
	}
	first := all[0].info
	*takes = lifeOf(first)
	for _, x := range all {
		life := time.Duration(x.info.GetCreatedUnixNano() - first.GetCreatedUnixNano())
		got, from, to := string(x.log[0]), 0, 0
		if x.of != nil { // It goes on where the other had come to.
			from = len(c.want) - len(x.of.log[0])
			to = from + x.wrote
			c.copies++
			c.tenths[max(0, min(9, int(10*life/max(1, *takes))))]++
		}
		if begins := len(c.want) - len(got); !x.well() ||
			!strings.HasSuffix(c.want, got) || begins < from || begins > to {
			t.Errorf("made %v of %v into it: %s with %d %s, stdout %q, stderr %q; want %q from between %d and %d", life, *takes,
				x.info.GetState(), client.ExitStatus(x.exit), x.exit.GetReason(), short(x.log[0]), short(x.log[1]), c.want, from, to)
		}
	}
}

// lifeOf is how long an agent that has ended was there.
func lifeOf(a *apiv1.Agent) time.Duration {
	return time.Duration(a.GetEndedUnixNano() - a.GetCreatedUnixNano())
}

// copy copies whoever has most left of the budget and has not ended.
func (c *catching) copy(t *testing.T, all []*caught, still bool) *caught {
	t.Helper()
	for {
		var from *caught
		for _, x := range all {
			if !x.gone && !x.still && x.parts > 1 && (from == nil || x.parts > from.parts) {
				from = x
			}
		}
		if from == nil {
			c.missed++
			return nil
		}
		resp, err := c.door.Clone(context.Background(), &apiv1.CloneRequest{Agent: from.id, Pause: still})
		if errdefs.CodeOf(err) == errdefs.AgentNotRunning {
			from.gone = true
			continue
		}
		if err != nil {
			c.refused++
			t.Errorf("%v: %s", err, errdefs.FixOf(err))
			return nil
		}
		from.parts /= 2
		log := c.logged(t, from.id)
		return &caught{id: resp.GetCopies()[0].GetId(), of: from, parts: from.parts, still: still, wrote: len(log[0])}
	}
}

// await waits for an end, and notes what it was. An agent that does not end is told
// of.
func (c *catching) await(t *testing.T, x *caught) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soakPatience)
	defer cancel()
	w, err := c.door.Wait(ctx, &apiv1.WaitRequest{Agent: x.id})
	if err != nil {
		t.Errorf("it does not end: %v: %s", err, c.in.run(t, "inspect", x.id))
		return false
	}
	i, err := c.door.Inspect(context.Background(), &apiv1.InspectRequest{Agent: x.id})
	must(t, err)
	x.info, x.exit, x.log = i.GetAgent(), w.GetExit(), c.logged(t, x.id)
	return true
}

// logged returns what an agent has written: output, and errors.
func (c *catching) logged(t *testing.T, id string) [2][]byte {
	t.Helper()
	out, err := logged(context.Background(), c.door, id, 0)
	must(t, err)
	return out
}
