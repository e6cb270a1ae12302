package chrome

import (
	"bytes"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// file is the format, as its readers know it.
type file struct {
	DisplayTimeUnit string
	OtherData       struct {
		Domain            string
		Switches, Dropped uint64
	}
	TraceEvents []struct {
		Name, Ph string
		TS       float64
		PID, TID int
		Args     map[string]any
	}
}

type track struct{ pid, tid int }

// parsed reads what was written, and looks whether readers can make sense of it:
// time does not go back, what begins on a track ends there, nothing overlaps, and
// every track has a name.
func parsed(t testing.TB, b []byte) (f file) {
	t.Helper()
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	open, names, last := make(map[track]string), make(map[track]string), 0.0
	for i, e := range f.TraceEvents {
		at := track{e.PID, e.TID}
		if e.Ph != "M" {
			if e.TS < last {
				t.Errorf("event %d is at %v, after %v", i, e.TS, last)
			}
			last = e.TS
		}
		switch e.Ph {
		case "M":
			if e.Name == "thread_name" || e.Name == "process_name" {
				names[at] = e.Args["name"].(string)
			}
		case "B":
			if open[at] != "" || e.Name == "" {
				t.Errorf("event %d, %q, begins on %+v in %q", i, e.Name, at, open[at])
			}
			if open[at] = e.Name; names[at] == "" || names[track{e.PID, 0}] == "" {
				t.Errorf("the track %+v has no name", at)
			}
		case "E":
			if open[at] == "" {
				t.Errorf("event %d ends what did not begin on %+v", i, at)
			}
			delete(open, at)
		case "C":
		default:
			t.Errorf("event %d is %q", i, e.Ph)
		}
	}
	if len(open) > 0 {
		t.Errorf("these do not end: %v", open)
	}
	return f
}

// wicked is what an agent might call a thread.
const wicked = "\",\"ph\":\"X\"}]}\n\x00\x1b[2J</script>\u2028\\ é"

func small() *sched.Trace {
	return &sched.Trace{
		Begin: 1_000_000, End: 9_000_500, CPUs: 2, Switches: 2, Groups: []string{"a1", "a2"},
		Tasks: []sched.TracedTask{{Group: 0, TaskName: sched.TaskName{PID: 1, TID: 1, Name: "sh"}}, {Group: 1, TaskName: sched.TaskName{PID: 3, TID: 4, Name: wicked}}},
		Entries: []sched.TraceEntry{
			{At: 1_000_000, Kind: sched.TraceRun, Who: 0, CPU: 1, Before: true},
			{At: 2_000_000, Kind: sched.TraceWait, Who: 1, CPU: -1, Waiting: 1},
			{At: 2_000_300, Kind: sched.TraceLeave, Who: 0, CPU: 1, Took: 250, Waiting: 1},
			{At: 2_000_300, Kind: sched.TraceRun, Who: 1, CPU: 1, Took: 300},
			{At: 2_000_300, Kind: sched.TraceWait, Who: 0, CPU: -1, Waiting: 1},
			{At: 3_000_000, Kind: sched.TraceThrottled, Who: 1, CPU: -1},
			{At: 3_000_001, Kind: sched.TraceGone, Who: 0, CPU: -1},
			{At: 8_000_000, Kind: sched.TraceResumed, Who: 1, CPU: -1},
		},
	}
}

// TestFile compares a small trace with the file that it should be.
func TestFile(t *testing.T) {
	var out bytes.Buffer
	if err := Write(&out, small(), Options{Domain: "default", Names: []string{"web", ""}}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "small.json")
	if *update {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(want, out.Bytes()) {
		t.Errorf("%v; it is\n%s\nwant\n%s", err, out.Bytes(), want)
	}
	f := parsed(t, out.Bytes())
	seen := false
	for _, e := range f.TraceEvents {
		seen = seen || e.Args["thread"] == wicked
	}
	if !seen || f.OtherData.Switches != 2 || f.OtherData.Domain != "default" {
		t.Errorf("%+v", f)
	}
	for _, c := range out.String() {
		if c < ' ' && c != '\n' {
			t.Errorf("it has the character %q", c)
		}
	}
}

// TestWhatMakesNoSense is refused.
func TestWhatMakesNoSense(t *testing.T) {
	for what, change := range map[string]func(*sched.Trace){
		"a task": func(t *sched.Trace) { t.Entries[0].Who = 2 }, "a group": func(t *sched.Trace) { t.Entries[5].Who = 2 },
		"a CPU": func(t *sched.Trace) { t.Entries[0].CPU = 2 }, "no CPU": func(t *sched.Trace) { t.Entries[2].CPU = -1 },
		"back": func(t *sched.Trace) { t.Entries[4].At = 5 }, "later": func(t *sched.Trace) { t.Entries[7].At = t.End + 1 },
		"kind": func(t *sched.Trace) { t.Entries[4].Kind = 77 }, "no time": func(t *sched.Trace) { t.Entries[3].Took = -1 }, "ends": func(t *sched.Trace) { t.End = 3 }, "no group": func(t *sched.Trace) { t.Tasks[1].Group = 2 },
	} {
		tr := small()
		change(tr)
		if err := Write(&bytes.Buffer{}, tr, Options{}); err == nil || errdefs.CodeOf(err) == errdefs.Internal {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestAnything writes traces of anything in any order: the file makes sense even
// so.
func TestAnything(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		tr := &sched.Trace{Begin: 5, End: 1 << 40, CPUs: 1 + r.IntN(3), Groups: []string{"", "a1", "a2"}[r.IntN(2):], Dropped: uint64(r.IntN(2))}
		for i := range 1 + r.IntN(5) {
			tr.Tasks = append(tr.Tasks, sched.TracedTask{Group: uint32(r.IntN(len(tr.Groups))), TaskName: sched.TaskName{PID: 1, TID: int32(i), Name: string([]byte{byte(r.IntN(256)), '"', byte(r.IntN(256))})}})
		}
		at := tr.Begin
		for range r.IntN(200) {
			at += r.Int64N(3000)
			e := sched.TraceEntry{At: at, Kind: sched.TraceKind(r.IntN(6)), CPU: int16(r.IntN(tr.CPUs)), Who: uint32(r.IntN(len(tr.Tasks)))}
			if e.Kind == sched.TraceThrottled || e.Kind == sched.TraceResumed {
				e.Who = uint32(r.IntN(len(tr.Groups)))
			}
			tr.Entries = append(tr.Entries, e)
		}
		var out bytes.Buffer
		if err := Write(&out, tr, Options{Names: []string{strings.Repeat("n", r.IntN(3))}}); err != nil {
			t.Fatal(seed, err)
		}
		if parsed(t, out.Bytes()); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
