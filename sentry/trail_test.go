package sentry

import (
	"fmt"
	"testing"
	"time"

	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/ktime"
)

// trailOf returns a trail by itself, and what it sends.
func trailOf(t *testing.T) (l *trail, clock *ktime.Fake, sent *[]control.AuditBatch) {
	t.Helper()
	clock, sent = ktime.NewFake(time.Unix(1_800_000_000, 0)), new([]control.AuditBatch)
	l = new(trail)
	l.init(&Kernel{cfg: Config{Clock: clock, Push: func(_ string, body any) int {
		*sent = append(*sent, body.(control.AuditBatch))
		return 1
	}}})
	return l, clock, sent
}

// flatten checks that batches follow each other, and returns the records.
func flatten(t *testing.T, batches []control.AuditBatch) (all []control.AuditRecord) {
	t.Helper()
	for _, b := range batches {
		if b.First != uint64(len(all))+1 {
			t.Fatalf("a batch begins with %d after %d records", b.First, len(all))
		}
		if b.Lost != 0 || len(b.Records) == 0 || len(b.Records) > trailBatch {
			t.Fatalf("a batch of %d, %d lost", len(b.Records), b.Lost)
		}
		all = append(all, b.Records...)
	}
	return all
}

// TestTrailOfATree sends the end of what was named before whoever ended it is
// answered, and what thousands of others lost little by little.
func TestTrailOfATree(t *testing.T) {
	for _, c := range []struct{ before, tops, losses int }{
		{0, 1, 0}, {0, 1, trailFirst}, {0, 1, 2000}, {0, 3, 1000}, {700, 1, 2000}, {0, 2, 3 * trailBatch}, {5, 40, 10},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			l, clock, sent := trailOf(t)
			put := func(op string, count uint64) {
				l.put(control.AuditRecord{Record: capability.Record{Op: op, Count: count}})
			}
			for range c.before { // Of another tree, still on their way.
				put(capability.OpLost, 10)
			}
			last := c.before // The last that has to be on record.
			for i := range c.tops {
				put(capability.OpRevoke, uint64(10*c.losses+1))
				last = c.before + i*(c.losses+1)
				for range c.losses {
					put(capability.OpLost, 10)
				}
			}
			total := c.before + c.tops*(c.losses+1)
			l.flushSoon()
			got := len(flatten(t, *sent))
			if got <= last {
				t.Errorf("%d records were sent, the revocation is the one after %d", got, last)
			}
			if most := last + 1 + trailFirst; got > most {
				t.Errorf("%d records were sent, and whoever revoked waited for %d", got, got-most)
			}
			for range 2 + total/trailBatch {
				n := len(*sent)
				clock.Advance(trailPause)
				if len(*sent) > n+1 {
					t.Errorf("%d batches at once", len(*sent)-n)
				}
			}
			if got := len(flatten(t, *sent)); got != total {
				t.Errorf("%d records were sent of %d", got, total)
			}
		})
	}
}

// TestTrailDoesNotLinger sends without pauses before anything is dropped.
func TestTrailDoesNotLinger(t *testing.T) {
	l, clock, sent := trailOf(t)
	for range trailMax {
		l.put(control.AuditRecord{Record: capability.Record{Op: capability.OpLost, Count: 1}})
	}
	clock.Advance(trailPause)
	if got := len(flatten(t, *sent)); got != trailMax {
		t.Errorf("%d records were sent of %d", got, trailMax)
	}
	l.ack(trailMax)
	*sent = nil
	l.put(control.AuditRecord{Record: capability.Record{Op: opDenied, Count: 1}})
	clock.Advance(trailDelay)
	if len(*sent) != 1 || (*sent)[0].First != trailMax+1 {
		t.Errorf("a single record: %v", *sent)
	}
}
