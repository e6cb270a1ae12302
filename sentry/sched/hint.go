package sched

// Hint is what an agent says of what it does. It changes how soon and for how
// long at once its tasks run, and never gives them a larger share.
type Hint uint8

// Hints.
const (
	HintNone        Hint = iota
	HintInteractive      // somebody waits for each of its answers
	HintBatch            // nobody waits: few, long turns
	HintModel            // it sleeps until a model answers, then acts on that at once
	HintTool             // it runs a tool that a model waits for
	HintSpeculative      // what it does may never be needed

	hints = int(HintSpeculative) + 1
)

// HintParams is what a hint amounts to.
type HintParams struct {
	Name string
	// request is what a task asks for at once when it wakes, in nanoseconds; 0:
	// twice what it used before it last slept.
	request int64
	// fixed says that it asks for no more than that later.
	fixed bool
	// quick says that it takes the CPU of one that is not, however long that
	// has run, if it is owed time.
	quick bool
	// longer and lighter are factors: of what a task that computes asks for at
	// once, and of the weight, which is divided by it.
	longer, lighter int64
	Meaning         string
}

var hintTable = [hints]HintParams{
	HintNone:        {Name: "none", longer: 1, lighter: 1, Meaning: "what a task asks for at once follows what it used before it last slept"},
	HintInteractive: {Name: "interactive", request: 500_000, fixed: true, quick: true, longer: 1, lighter: 1, Meaning: "turns of 0.5 ms, and a task that wakes and is owed time runs at once"},
	HintBatch:       {Name: "batch", longer: 4, lighter: 1, Meaning: "turns four times as long, and fewer"},
	HintModel:       {Name: "waiting-for-model", request: 500_000, quick: true, longer: 1, lighter: 1, Meaning: "a task that wakes and is owed time runs at once, for 0.5 ms; then its turns become longer"},
	HintTool:        {Name: "tool-call", request: 500_000, quick: true, longer: 2, lighter: 1, Meaning: "the same, and they may become twice as long"},
	HintSpeculative: {Name: "speculative", longer: 2, lighter: 8, Meaning: "an eighth of the weight, turns twice as long"},
}

func (h Hint) params() *HintParams { return &hintTable[h] }

// String returns the name.
func (h Hint) String() string { return hintTable[h].Name }

// Hints returns all hints, in order.
func Hints() []HintParams { return hintTable[:] }

// ParseHint returns the hint of that name.
func ParseHint(name string) (Hint, bool) {
	for h := range hintTable {
		if hintTable[h].Name == name {
			return Hint(h), true
		}
	}
	return HintNone, false
}

// scale is a slice as the hint has it.
func (h Hint) scale(slice int64) int64 {
	p := h.params()
	if p.fixed {
		return p.request
	}
	return slice * p.longer
}
