package sentry

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// racerPage and the rest are the layout of what the racers and the test share;
// see struct shared in testdata/racer.c.
const (
	racerPage = 4096
	racerOps  = 112
	racerName = 16

	racerRound    = 0
	racerNarrowed = 4
	racerRevoked  = 8
	racerQuit     = 12
	racerNops     = 16
	racerNames    = 256

	racerDone = 0 // of a worker
	racerGood = 64
	racerBad  = racerGood + 4*racerOps
)

// board is that file. What the test writes to it a racer reads later; what a
// racer reads before it begins an operation was written before.
type board struct {
	t       testing.TB
	f       *os.File
	workers int
}

func (b *board) get(off int64) uint32 {
	var p [4]byte
	if _, err := b.f.ReadAt(p[:], off); err != nil {
		b.t.Fatal(err)
	}
	return binary.LittleEndian.Uint32(p[:])
}

func (b *board) set(off int64, v uint32) {
	if _, err := b.f.WriteAt(binary.LittleEndian.AppendUint32(nil, v), off); err != nil {
		b.t.Fatal(err)
	}
}

// await waits until every worker is done with round n.
func (b *board) await(n uint32) {
	b.t.Helper()
	for w := range b.workers {
		for deadline := time.Now().Add(60 * time.Second); b.get(int64(1+w)*racerPage+racerDone) < n; time.Sleep(100 * time.Microsecond) {
			if time.Now().After(deadline) {
				b.t.Fatalf("worker %d is not done with round %d", w, n)
			}
		}
	}
}

// counts adds up what the workers counted of each operation.
func (b *board) counts(what int64) map[string]uint32 {
	out := make(map[string]uint32)
	for i := range int64(b.get(racerNops)) {
		name := make([]byte, racerName)
		if _, err := b.f.ReadAt(name, racerNames+i*racerName); err != nil {
			b.t.Fatal(err)
		}
		key := strings.TrimRight(string(name), "\x00")
		for w := range b.workers {
			out[key] += b.get(int64(1+w)*racerPage + what + 4*i)
		}
	}
	return out
}

// racers are two agents that use one grant, which the first has from the test
// and the second from the first.
type racers struct {
	t         testing.TB
	boards    [2]*board
	agents    [2]*spawned
	key       string
	round     uint32
	rng       *rand.Rand
	sharedKey string
	sharedDir string
	cap, lent control.Cap
}

func newRacers(t testing.TB, workers int) *racers {
	t.Helper()
	r := &racers{t: t, rng: rand.New(rand.NewPCG(uint64(ktime.Real.Now().UnixNano()), 1))}
	_, r.key = racerDir(t)
	r.sharedDir, r.sharedKey = hostDir(t)
	for i := range r.agents {
		name := filepath.Join(r.sharedDir, fmt.Sprint("board", i))
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if err := f.Truncate(int64(1+workers) * racerPage); err != nil {
			t.Fatal(err)
		}
		r.boards[i] = &board{t, f, workers}
		r.agents[i] = spawn(t, []string{"/bin/racer", "/grant", "/shared/" + filepath.Base(name), fmt.Sprint(workers),
			fmt.Sprintf("/shared/mail%d", i), fmt.Sprintf("/shared/mail%d", 1-i)},
			ofRacer(t), func(q *control.SpawnRequest) { q.Process.Env = append(q.Process.Env, "WHO="+string(rune('a'+i))) },
			withFiles("fs:/shared:rw", r.sharedKey))
		r.agents[i].expect("ready")
	}
	return r
}

func (r *racers) set(off int64, v uint32) {
	for _, b := range r.boards {
		b.set(off, v)
	}
}

// begin grants anew and lets the workers loose.
func (r *racers) begin(spec string) {
	r.round++
	for tries := 1; ; tries++ {
		g, err := theKernel.CapGrant(control.GrantRequest{ID: r.agents[0].id, Grants: []control.Grant{{Spec: spec, Key: r.key}}})
		if err == nil {
			r.cap = g.Caps[0]
			break
		}
		if tries == 10 || errdefs.CodeOf(err) != errdefs.LeaseExpired { // On a slow machine it may be over already.
			r.t.Fatalf("grant %s: %v", spec, err)
		}
	}
	var err error
	r.lent, err = theKernel.CapDelegate(control.CapRequest{Cap: r.cap.ID, To: r.agents[1].id, Change: capability.Change{At: ptr("/grant")}})
	if err != nil && !strings.Contains(spec, "lease") {
		r.t.Fatalf("delegate: %v", err)
	}
	r.set(racerRound, r.round)
}

// end says that the grant is gone, and waits until everybody has tried.
func (r *racers) end() {
	r.set(racerRevoked, r.round)
	for _, b := range r.boards {
		b.await(r.round)
	}
}

// check fails if something succeeded that began too late.
func (r *racers) check(what string) {
	r.t.Helper()
	for i, b := range r.boards {
		for op, n := range b.counts(racerBad) {
			if n != 0 {
				r.t.Errorf("round %d, %s: agent %d: %s succeeded %d times too late", r.round, what, i, op, n)
			}
		}
	}
}

// seen waits until every operation has been counted.
func (r *racers) seen(what int64) {
	r.t.Helper()
	var missing []string
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		other := r.boards[1].counts(what)
		missing = missing[:0]
		for op, n := range r.boards[0].counts(what) {
			if n+other[op] == 0 {
				missing = append(missing, op)
			}
		}
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("never seen: %q", missing)
		}
	}
}

// linger lets the workers work for a while, mostly short.
func (r *racers) linger() {
	if r.rng.IntN(8) != 0 {
		time.Sleep(time.Duration(r.rng.ExpFloat64() * float64(20*time.Millisecond)))
	}
}

// TestRevokeRace takes a grant back while two agents use it in every way, and
// checks that nothing that began after the revocation had returned succeeded.
func TestRevokeRace(t *testing.T) {
	r := newRacers(t, 3)
	ways := map[string]func(){
		"revoke": func() {
			r.begin("fs:/grant:rw")
			r.linger()
			takeBack(t, r.cap.ID)
		},
		"narrow": func() {
			r.begin("fs:/grant:rw")
			r.linger()
			for _, c := range []control.Cap{r.lent, r.cap} {
				if _, err := theKernel.CapAttenuate(control.CapRequest{Cap: c.ID, Change: capability.Change{Rights: ptr(abi.FSRead | abi.FSExec)}}); err != nil {
					t.Fatal(err)
				}
			}
			r.set(racerNarrowed, r.round)
			r.linger()
			takeBack(t, r.cap.ID)
		},
		"lease": func() {
			r.begin("fs:/grant:rw,lease=" + time.Duration(10e6+r.rng.Int64N(40e6)).String())
			for i, c := range []control.Cap{r.cap, r.lent} {
				a := agentUnderTest(t, r.agents[i].id)
				eventually(t, func() bool { return a.grantOf(c.ID) == nil }) // Its files are closed then.
			}
		},
		"delegate meanwhile": func() {
			r.begin("fs:/grant:rw")
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					c, err := theKernel.CapDelegate(control.CapRequest{Cap: r.cap.ID, To: r.agents[i%2].id, Change: capability.Change{At: ptr(fmt.Sprintf("/tmp/d%d", i%3))}})
					if err == nil && i%2 == 0 {
						theKernel.CapRevoke(control.RevokeRequest{Cap: c.ID})
					}
				}
			}()
			r.linger()
			takeBack(t, r.cap.ID)
			r.set(racerRevoked, r.round) // What is delegated now is not from this one.
			close(stop)
			<-done
		},
		"twice at once": func() {
			r.begin("fs:/grant:rw")
			r.linger()
			done := make(chan struct{})
			go func() {
				theKernel.CapRevoke(control.RevokeRequest{Cap: r.lent.ID})
				close(done)
			}()
			takeBack(t, r.cap.ID)
			r.set(racerRevoked, r.round)
			<-done
		},
		"quota": func() {
			r.begin("fs:/grant:rw,quota=64M,inodes=1000")
			r.linger()
			takeBack(t, r.cap.ID)
		},
	}
	names := slices.Sorted(maps.Keys(ways))
	r.begin("fs:/grant:rw")
	r.seen(racerGood) // Else it would prove nothing.
	takeBack(t, r.cap.ID)
	r.end()
	end := ktime.Real.Now().Add(max(2*time.Second, soak(t)))
	for rounds := 0; rounds < 4*len(names) || ktime.Real.Now().Before(end); rounds++ {
		way := names[rounds%len(names)]
		ways[way]()
		r.end()
		if rounds%16 == 0 || ktime.Real.Now().After(end) {
			r.check(way)
		}
		if t.Failed() {
			return
		}
	}
	r.check("in all")
	tried := 0
	for _, b := range r.boards {
		for _, n := range b.counts(racerGood) {
			tried += int(n)
		}
	}
	t.Logf("%d rounds, %d operations in time", r.round, tried)
}

// TestDelegateAgainstRevoke hands a grant on while it is taken back: whatever
// was handed on is gone when that has returned, and so are its mounts.
func TestDelegateAgainstRevoke(t *testing.T) {
	dir, key := racerDir(t)
	if err := os.Mkdir(filepath.Join(dir, "sub", "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	a, b := spawn(t, []string{"sleep", "1000"}), spawn(t, []string{"sleep", "1000"})
	end := ktime.Real.Now().Add(max(time.Second, soak(t)/10))
	for n := 0; n < 100 || ktime.Real.Now().Before(end); n++ {
		c := give(t, a.id, "fs:/grant:rw", key)
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				for k := range 4 {
					d, err := theKernel.CapDelegate(control.CapRequest{Cap: c.ID, To: b.id, Change: capability.Change{
						Object: ptr("/grant/sub/deep"), At: ptr(fmt.Sprintf("/tmp/%d-%d", i, k)),
					}})
					if err == nil && k%2 == 0 {
						theKernel.CapRevoke(control.RevokeRequest{Cap: d.ID})
					}
				}
			})
		}
		if n%3 == 0 {
			time.Sleep(time.Duration(n%7) * 50 * time.Microsecond)
		}
		takeBack(t, c.ID)
		wg.Wait()
		for _, id := range []string{a.id, b.id} {
			agent := agentUnderTest(t, id)
			agent.grantsMu.Lock()
			left := len(agent.grants)
			agent.grantsMu.Unlock()
			if left != 0 {
				t.Fatalf("round %d: %d grants are left open", n, left)
			}
		}
	}
	if out := b.run("grep -c grantfs /proc/mounts"); out != "0 [1]" {
		t.Errorf("mounts that are left: %s\n%s", out, b.run("cat /proc/mounts"))
	}
}

// TestGrantAgainstEnd grants and hands on while givers and takers end.
func TestGrantAgainstEnd(t *testing.T) {
	_, key := racerDir(t)
	end := ktime.Real.Now().Add(max(time.Second, soak(t)/10))
	for n := 0; n < 20 || ktime.Real.Now().Before(end); n++ {
		agents := []*spawned{spawn(t, sh("exec sleep 1000"), detached), spawn(t, sh("exec sleep 1000"), detached)}
		var running []*Agent
		for _, s := range agents {
			running = append(running, agentUnderTest(t, s.id))
		}
		c := give(t, agents[0].id, "fs:/grant:rw,quota=1M", key)
		var wg sync.WaitGroup
		for i, s := range agents {
			wg.Go(func() {
				for k := range 6 {
					theKernel.CapGrant(control.GrantRequest{ID: s.id, Grants: []control.Grant{{Spec: fmt.Sprintf("fs:/grant:rw,at=/tmp/g%d", k), Key: key}, {Spec: "net:loopback"}}})
					theKernel.CapDelegate(control.CapRequest{Cap: c.ID, To: agents[1-i].id, Change: capability.Change{
						Object: ptr("/grant/sub"), At: ptr(fmt.Sprintf("/tmp/%d-%d", i, k)), Limits: &capability.Limits{Bytes: 1000},
					}})
				}
			})
		}
		time.Sleep(time.Duration(n%8) * 300 * time.Microsecond)
		for _, i := range []int{n % 2, 1 - n%2} {
			theKernel.Signal(control.SignalRequest{ID: agents[i].id, Signal: 9})
			exits.wait(t, agents[i].id, 0)
		}
		wg.Wait()
		for _, a := range running {
			eventually(t, func() bool { return agentGone(a.id) })
			a.grantsMu.Lock()
			left := len(a.grants)
			a.grantsMu.Unlock()
			if left != 0 || len(theKernel.space.List(a.id)) != 0 {
				t.Fatalf("round %d: %d grants are left open, %d capabilities alive", n, left, len(theKernel.space.List(a.id)))
			}
		}
	}
}

// TestRacersNotice says too early that a grant was revoked: the racers must see
// operations succeed too late. A few need another to have succeeded just before.
func TestRacersNotice(t *testing.T) {
	const few = 4
	r := newRacers(t, 2)
	r.begin("fs:/grant:rw")
	r.seen(racerGood)
	takeBack(t, r.cap.ID)
	r.end()
	var missed []string
	for n := 0; n == 0 || len(missed) > few && n < 50; n++ {
		r.begin("fs:/grant:rw")
		time.Sleep(20 * time.Millisecond)
		r.end()
		takeBack(t, r.cap.ID)
		missed = missed[:0]
		other := r.boards[1].counts(racerBad)
		for op, n := range r.boards[0].counts(racerBad) {
			if n+other[op] == 0 {
				missed = append(missed, op)
			}
		}
	}
	if len(missed) > few {
		t.Errorf("these were not seen to succeed too late: %q", missed)
	}
}

// soak returns for how long a test is to go on beyond its usual run: an hour
// with AIOS_SOAK=1, or what AIOS_SOAK says.
func soak(t *testing.T) time.Duration {
	text := os.Getenv("AIOS_SOAK")
	if text == "" || text == "0" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		d = time.Hour
	}
	t.Logf("soaking for %v", d)
	return d
}
