package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

func TestRecordsOutliveTheDaemon(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	rapid.Check(t, func(r *rapid.T) {
		id := string(abi.NewAgentID())
		spec := &apiv1.SpawnRequest{
			Name: rapid.StringMatching(`[a-z][a-z0-9.-]{0,20}`).Draw(r, "name"), Image: "img",
			Process: &apiv1.Process{Argv: rapid.SliceOf(rapid.String()).Draw(r, "argv")},
			Labels:  rapid.MapOf(rapid.String(), rapid.String()).Draw(r, "labels"),
			Remove:  rapid.Bool().Draw(r, "remove"),
		}
		rec := newRecord(id, spec, "dom", time.Unix(rapid.Int64Range(0, 1<<32).Draw(r, "created"), 5))
		rec.digest = "sha256:x"
		final := rapid.SampledFrom([]abi.State{"", abi.StateExited, abi.StateLost}).Draw(r, "state")
		if final != "" {
			rec.finish(final, &apiv1.Exit{Code: rapid.Int32().Draw(r, "code"), Reason: "because"}, time.Unix(9, 9))
		}
		if err := d.create(rec); err != nil {
			r.Fatal(err)
		}
		if err := d.save(rec); err != nil {
			r.Fatal(err)
		}
		got := d.loadRecords()[id]
		d.erase(id)
		if got == nil {
			r.Fatal("the record is gone")
		}
		if !proto.Equal(got.proto(), rec.proto()) || !proto.Equal(got.spec(), spec) || got.digest != rec.digest {
			r.Fatalf("saved %v, loaded %v", rec.proto(), got.proto())
		}
		select {
		case <-got.done:
			if final == "" {
				r.Fatal("an agent that has not ended is done")
			}
		default:
			if final != "" {
				r.Fatal("an agent that has ended is not done")
			}
		}
	})
}

// TestDamagedRecords puts everything into the directory that a crash or a
// person may leave there.
func TestDamagedRecords(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	good := newRecord(string(abi.NewAgentID()), &apiv1.SpawnRequest{Name: "good"}, "dom", time.Unix(1, 0))
	if err := d.save(good); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(d.recordPath(good.id))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(d.paths.Agents, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good.id+".log", "log")
	write(good.id+".json.new", "torn")
	bad := func(text string) {
		id := string(abi.NewAgentID())
		write(id+".json", text)
		write(id+".log", "log")
	}
	for cut := range len(whole) {
		bad(string(whole[:cut]))
	}
	bad(string(whole)) // Another agent's, copied.
	bad("[]")
	bad("\x00\xff")
	write(string(abi.NewAgentID())+".log", "of an agent without a record")
	write(string(abi.NewAgentID())+".json.new", "of a record that never was")
	write("README", "not ours")
	write("notes.json", "{}")
	if err := os.Mkdir(filepath.Join(d.paths.Agents, string(abi.NewAgentID())+".json"), 0o700); err != nil {
		t.Fatal(err)
	}
	got := d.loadRecords()
	if len(got) != 1 || got[good.id] == nil {
		t.Errorf("loaded %v", got)
	}
	want := []string{"README", good.id + ".json", good.id + ".log", "notes.json"}
	slices.Sort(want)
	left := filesIn(t, d.paths.Agents)
	if !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
}

func TestUnknownStateIsNotFinal(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	id := string(abi.NewAgentID())
	text := fmt.Sprintf(`{"agent":{"id":%q,"state":"flying","future":1},"later":{}}`, id)
	if err := os.WriteFile(d.recordPath(id), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d.recover()
	if a := stateOf(t, d, id); a.GetState() != string(abi.StateLost) || a.GetExit().GetReason() == "" {
		t.Errorf("it is %v", a)
	}
	if got := newSystem(t, d.paths.StateDir, ktime.Real).loadRecords()[id]; got == nil || !got.final() {
		t.Errorf("saved as %v", got)
	}
}

func TestNamesAreReservedOnce(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	for range 20 {
		var won atomic.Int32
		var winner atomic.Pointer[record]
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				r := newRecord(string(abi.NewAgentID()), &apiv1.SpawnRequest{Name: "web"}, "dom", time.Unix(1, 0))
				err := d.reserve(nil, r)
				switch errdefs.CodeOf(err) {
				case "":
					won.Add(1)
					winner.Store(r)
				case errdefs.AgentNameTaken:
					d.unreserve(r) // Of one who has not got it: no effect.
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d agents have the name", won.Load())
		}
		if r, err := d.find("web"); err != nil || r != winner.Load() {
			t.Fatalf("the name leads to %v, %v", r, err)
		}
		d.unreserve(winner.Load())
		if _, err := d.find("web"); errdefs.CodeOf(err) != errdefs.AgentNotFound {
			t.Fatal(err)
		}
	}
	if len(d.agents) != 0 || len(d.names) != 0 {
		t.Errorf("%v and %v are left", d.agents, d.names)
	}
}

func TestFinishIsOnce(t *testing.T) {
	r := newRecord("a000000000000", &apiv1.SpawnRequest{}, "dom", time.Unix(1, 0))
	early := r.execOf(1)
	var won atomic.Int32
	var wg sync.WaitGroup
	for n := range int32(20) {
		wg.Go(func() {
			if r.finish(abi.StateExited, &apiv1.Exit{Code: n}, time.Unix(2, 0)) {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("finished %d times", won.Load())
	}
	<-r.done
	<-early.done
	late := r.execOf(2)
	<-late.done // The event of its end can no longer come.
	if early.exit != r.exit || late.exit != r.exit {
		t.Errorf("further processes ended with %v and %v", early.exit, late.exit)
	}
	if _, err := r.running(); errdefs.CodeOf(err) != errdefs.AgentNotRunning {
		t.Error(err)
	}
}

func TestFullDisk(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	d.paths.Agents = "/dev/full/nowhere"
	r := newRecord("a000000000000", &apiv1.SpawnRequest{}, "dom", time.Unix(1, 0))
	if err := d.save(r); errdefs.CodeOf(err) != errdefs.HostIO {
		t.Error(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	_, err = full.WriteString("x")
	if err := diskError(err, "write record", "x"); errdefs.CodeOf(err) != errdefs.DiskFull || errdefs.FixOf(err) == "" {
		t.Error(err)
	}
}

func TestEndedExecsAreForgotten(t *testing.T) {
	r := newRecord(string(abi.NewAgentID()), &apiv1.SpawnRequest{}, "d", time.Unix(0, 0))
	running := r.execOf(1)
	for id := int32(2); id < 3*keptExecs; id++ {
		e := r.execOf(id)
		r.mu.Lock()
		e.finish(&apiv1.Exit{})
		r.mu.Unlock()
	}
	if r.execOf(1) != running {
		t.Error("a process that runs was forgotten")
	}
	if n := len(r.execs); n > keptExecs+1 {
		t.Errorf("%d processes are remembered", n)
	}
}
