package sentry

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/control"
)

// testDaemon takes what the kernel pushes, as a daemon would: it writes audit
// records down and acknowledges them.
type testDaemon struct {
	mu      sync.Mutex
	records []control.AuditRecord
	last    uint64
	answer  func(control.Ask) control.Answer // nil: no daemon answers
}

var theDaemon testDaemon

// theKernelIsUp is closed when theKernel is there: it says things before.
var theKernelIsUp = make(chan struct{})

// keptRecords bounds what the test daemon remembers.
const keptRecords = 2000

func (d *testDaemon) push(event string, body any) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch b := body.(type) {
	case control.AuditBatch:
		for i, r := range b.Records {
			if n := b.First + uint64(i); n > d.last {
				d.last = n
				d.records = append(d.records, r)
			}
		}
		d.records = d.records[max(0, len(d.records)-keptRecords):]
		last := d.last
		go func() {
			<-theKernelIsUp
			theKernel.trail.ack(last)
		}()
	case control.Ask:
		if d.answer == nil {
			return 0
		}
		answer := d.answer
		go func() { theKernel.Answer(answer(b)) }() // Without d.mu: it may ask for more.
	}
	return 1
}

// forget drops the records that nobody asks for any more.
func (d *testDaemon) forget() {
	theKernel.trail.flush()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.records = nil
}

// recorded waits for a record of agent that ok accepts.
func (d *testDaemon) recorded(t testing.TB, agent string, ok func(control.AuditRecord) bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		theKernel.trail.flush()
		d.mu.Lock()
		mine := slices.DeleteFunc(slices.Clone(d.records), func(r control.AuditRecord) bool { return r.Agent != agent })
		d.mu.Unlock()
		if slices.ContainsFunc(mine, ok) {
			return
		}
		if time.Now().After(deadline) {
			var lines []string
			for _, r := range mine {
				lines = append(lines, strings.Join([]string{r.Op, string(r.Cap), r.Spec, r.Target, r.Errno, r.Reason}, " "))
			}
			t.Fatalf("no such record of agent %s:\n%s", agent, strings.Join(lines, "\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}
