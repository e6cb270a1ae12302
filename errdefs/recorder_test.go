package errdefs

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// steps is a clock that moves by a second at every look.
func steps() func() time.Time {
	at := time.Unix(0, 0)
	return func() time.Time { at = at.Add(time.Second); return at }
}

func denied(agent, resource string) *Error {
	return New(CapabilityDenied, "no", Op("open"), Resource("%s", resource), Agent(agent), Domain("d"), Fix("grant it"))
}

func TestRecorderCountsWhatRepeats(t *testing.T) {
	r := NewRecorder(8, steps())
	for i := range 3 {
		if n := r.Record(denied("a", "/x").With(Correlation(fmt.Sprint("r", i)))); n != uint64(i)+1 {
			t.Errorf("time %d is counted as %d", i, n)
		}
	}
	r.Record(denied("a", "/y"))
	r.Record(Wrap(denied("a", "/x"), Internal, "")) // A layer that adds nothing: the same.
	if n := r.Record(New(NotFound, "x")) + r.Record(nil); n != 0 {
		t.Error("what nobody is to be told of was recorded")
	}
	got := r.List()
	if len(got) != 2 {
		t.Fatalf("recorded %+v", got)
	}
	want := Record{Code: CapabilityDenied, Message: got[0].Message, Fix: "grant it", Agent: "a", Domain: "d", Count: 4, First: time.Unix(1, 0), Last: time.Unix(5, 0)}
	if got[0] != want || !strings.Contains(want.Message, "open /x: no") || got[1].Count != 1 {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestRecorderIsBoundedAndFair(t *testing.T) {
	r := NewRecorder(4, func() time.Time { return time.Unix(1, 0) })
	r.Record(denied("quiet", "/q"))
	for i := range 100 {
		r.Record(denied("loud", fmt.Sprint("/", i)))
	}
	var got []string
	for _, e := range r.List() {
		got = append(got, e.Message)
	}
	want := "open /99: no|open /98: no|open /97: no|open /q: no"
	if strings.Join(got, "|") != want || r.Dropped() != 97 {
		t.Errorf("kept %q, dropped %d", got, r.Dropped())
	}
}

func TestRecorderBoundsTexts(t *testing.T) {
	r := NewRecorder(1, steps())
	long := strings.Repeat("é", 1<<16)
	r.Record(New(CapabilityDenied, long, Resource("%s", long), Agent(long), Fix("%s", long)))
	for k, e := range r.entries {
		for _, s := range []string{k.resource, e.Agent, e.Message, e.Fix} {
			if len(s) > maxRecordedText || !utf8.ValidString(s) || !strings.HasSuffix(s, "…") {
				t.Errorf("%d bytes: %.20q", len(s), s)
			}
		}
	}
}

func TestRecorderIsSafeForConcurrentUse(t *testing.T) {
	r := NewRecorder(3, func() time.Time { return time.Unix(1, 0) })
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				r.Record(denied("a", fmt.Sprint("/", (g+i)%5)))
				if n := len(r.List()); n > 3 {
					t.Errorf("%d entries", n)
				}
			}
		})
	}
	wg.Wait()
}
