package control

import (
	"bytes"
	"reflect"
	"testing"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
)

func someTrace() *sched.Trace {
	return &sched.Trace{
		Begin: 5, End: 900, CPUs: 2, Switches: 7, Dropped: 3, Groups: []string{"a1"},
		Tasks: []sched.TracedTask{{TaskName: sched.TaskName{PID: 1, TID: 2, Name: "x\n\"é"}}},
		Entries: []sched.TraceEntry{
			{At: 5, Kind: sched.TraceRun, CPU: 1, Before: true}, {At: 6, Kind: sched.TraceThrottled, CPU: -1, Waiting: 4}, {At: 800, Took: 1 << 40, Kind: sched.TraceLeave, CPU: 1},
		},
	}
}

// TestSchedTraceArrives as it was sent, and what was not is refused.
func TestSchedTraceArrives(t *testing.T) {
	var b bytes.Buffer
	if err := WriteSchedTrace(&b, someTrace()); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	got, err := ReadSchedTrace(bytes.NewReader(raw))
	if err != nil || !reflect.DeepEqual(got, someTrace()) {
		t.Errorf("%+v %v", got, err)
	}
	for n := range len(raw) {
		if _, err := ReadSchedTrace(bytes.NewReader(raw[:n])); errdefs.CodeOf(err) != errdefs.Protocol {
			t.Fatalf("%d of %d bytes: %v", n, len(raw), err)
		}
	}
	for what, change := range map[string]func(*sched.Trace){
		"a task": func(t *sched.Trace) { t.Entries[0].Who = 1 }, "a group": func(t *sched.Trace) { t.Entries[1].Who = 1 }, "a CPU": func(t *sched.Trace) { t.Entries[0].CPU = 2 },
		"back": func(t *sched.Trace) { t.Entries[2].At = 5 }, "of no group": func(t *sched.Trace) { t.Tasks[0].Group = 1 }, "end": func(t *sched.Trace) { t.End = 1 },
		"CPUs": func(t *sched.Trace) { t.CPUs = 1 << 20 },
	} {
		tr := someTrace()
		change(tr)
		b.Reset()
		WriteSchedTrace(&b, tr)
		if _, err := ReadSchedTrace(&b); errdefs.CodeOf(err) != errdefs.Protocol {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzSchedTrace(f *testing.F) {
	var b bytes.Buffer
	WriteSchedTrace(&b, someTrace())
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		tr, err := ReadSchedTrace(bytes.NewReader(raw))
		if err != nil {
			return
		}
		last := tr.Begin
		for _, e := range tr.Entries {
			if tr.Check(e, last) != nil {
				t.Fatalf("%+v", e)
			}
			last = e.At
		}
	})
}
