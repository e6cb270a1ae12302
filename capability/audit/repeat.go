package audit

import "time"

// A refusal is written at once when it is new. The same refusal again, within
// the window, is counted, and the count is written when the window ends. An
// agent that is refused many different things has the rest counted as one, so
// that it cannot push older entries out of the log by asking.
const (
	maxKinds         = 4096
	maxKindsPerAgent = 64
)

// manyKinds is the reason of the entry that counts the rest.
const manyKinds = "further refusals, of other kinds"

type repeat struct {
	template Entry // with what varies left out
	until    time.Time
	count    uint64 // not written yet
}

// repeats is guarded by Log.mu.
type repeats struct {
	window   time.Duration
	kinds    map[Entry]*repeat
	perAgent map[string]int
}

func newRepeats(window time.Duration) *repeats {
	return &repeats{window: window, kinds: map[Entry]*repeat{}, perAgent: map[string]int{}}
}

// admit reports whether e is to be written now; if not, it was counted.
func (r *repeats) admit(e Entry, now time.Time) bool {
	if e.Op != OpDenied || r.window <= 0 {
		return true
	}
	key := e
	key.Seq, key.Time, key.Mono, key.Count, key.Correlation = 0, time.Time{}, 0, 0, ""
	key.Hash, key.Line = Hash{}, ""
	if k := r.kinds[key]; k != nil {
		k.count += max(e.Count, 1)
		return false
	}
	if len(r.kinds) < maxKinds && r.perAgent[key.Agent] < maxKindsPerAgent {
		r.kinds[key] = &repeat{template: key, until: now.Add(r.window)}
		r.perAgent[key.Agent]++
		return true
	}
	rest := Entry{Op: OpDenied, Domain: key.Domain, Agent: key.Agent, Reason: manyKinds}
	if len(r.kinds) >= maxKinds {
		rest.Domain, rest.Agent = "", ""
	}
	k := r.kinds[rest]
	if k == nil {
		k = &repeat{template: rest, until: now.Add(r.window)}
		r.kinds[rest] = k
		r.perAgent[rest.Agent]++
	}
	k.count += max(e.Count, 1)
	return false
}

// collect returns the counts that are due at now, or all of them, and begins
// new windows for these. A kind that did not repeat is forgotten.
func (r *repeats) collect(now time.Time, all bool) []Entry {
	var out []Entry
	for key, k := range r.kinds {
		if !all && now.Before(k.until) {
			continue
		}
		if k.count > 0 {
			e := k.template
			e.Count = k.count
			out = append(out, e)
			k.count, k.until = 0, now.Add(r.window)
		} else if !now.Before(k.until) {
			delete(r.kinds, key)
			if r.perAgent[key.Agent]--; r.perAgent[key.Agent] == 0 {
				delete(r.perAgent, key.Agent)
			}
		}
	}
	return out
}
