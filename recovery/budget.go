package recovery

import (
	"math/rand/v2"
	"sync"
	"time"

	"aios.dev/aios/ktime"
)

// Defaults of a budget.
const (
	DefaultRestarts = 10
	DefaultWindow   = 10 * time.Minute
	DefaultFirst    = 100 * time.Millisecond
	DefaultLongest  = time.Minute
	DefaultStable   = 30 * time.Second
)

// BudgetConfig describes a budget. Only Clock must be given.
type BudgetConfig struct {
	Clock ktime.Clock
	// Restarts is how many are allowed within Window; 0: the defaults. Less
	// than 0: as many as the waits between them let be.
	Restarts int
	Window   time.Duration
	// First is the wait before the second restart in a row (the first is at
	// once); it doubles with each, up to Longest. 0: the defaults.
	First, Longest time.Duration
	// Stable is how long it must run for the wait to begin anew and for earlier
	// restarts to be forgotten; 0: DefaultStable.
	Stable time.Duration
	// Rand returns numbers in [0,1), by which a wait is up to a quarter
	// shorter, so that many things that ended together do not start together;
	// nil: those of math/rand/v2.
	Rand func() float64
}

// BudgetState is what a budget remembers; it may be kept in a file. Times are
// of the wall clock.
type BudgetState struct {
	// Total is how many restarts there were, ever.
	Total uint64
	// Streak is how many there were since it last ran stably.
	Streak int
	// Recent are the restarts within the window, oldest first.
	Recent []time.Time
	// Running is when it was last started; zero when it does not run.
	Running time.Time
}

// Budget says whether and when something that ended may be started again.
type Budget struct {
	cfg BudgetConfig

	mu sync.Mutex
	s  BudgetState // +checklocks:mu
}

// NewBudget returns a budget that remembers s; the zero BudgetState is one of
// something that was never started.
func NewBudget(cfg BudgetConfig, s BudgetState) *Budget {
	def := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	if cfg.Restarts == 0 {
		cfg.Restarts = DefaultRestarts
	}
	def(&cfg.Window, DefaultWindow)
	def(&cfg.First, DefaultFirst)
	def(&cfg.Longest, DefaultLongest)
	def(&cfg.Stable, DefaultStable)
	cfg.Longest = max(cfg.Longest, cfg.First)
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	s.Recent = append([]time.Time(nil), s.Recent...)
	return &Budget{cfg: cfg, s: s}
}

// Started says that it runs from now on.
func (b *Budget) Started() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.s.Running = b.cfg.Clock.Now()
}

// Ended says that it ended and takes a restart from the budget: it may be
// started after wait. ok is false when the budget is used up, and nothing is
// taken.
func (b *Budget) Ended() (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Clock.Now()
	if ran := b.s.Running; !ran.IsZero() && now.Sub(ran) >= b.cfg.Stable {
		b.s.Streak, b.s.Recent = 0, nil
	}
	b.s.Running = time.Time{}
	b.expire(now)
	if b.cfg.Restarts > 0 && len(b.s.Recent) >= b.cfg.Restarts {
		return 0, false
	}
	if b.s.Streak > 0 {
		wait = b.cfg.Longest
		if n := b.s.Streak - 1; n < 30 && b.cfg.First<<n < b.cfg.Longest && b.cfg.First<<n > 0 {
			wait = b.cfg.First << n
		}
		wait -= time.Duration(b.cfg.Rand() * float64(wait) / 4)
	}
	b.s.Streak++
	b.s.Total++
	if b.cfg.Restarts > 0 {
		b.s.Recent = append(b.s.Recent, now)
	}
	return wait, true
}

// expire forgets restarts that the window has passed, and those that a clock
// that was set back left in the future.
//
// +checklocks:b.mu
func (b *Budget) expire(now time.Time) {
	keep := b.s.Recent[:0]
	for _, t := range b.s.Recent {
		if age := now.Sub(t); age >= 0 && age < b.cfg.Window {
			keep = append(keep, t)
		}
	}
	b.s.Recent = keep
}

// Left is how many restarts the budget allows now; -1: any number.
func (b *Budget) Left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cfg.Restarts < 0 {
		return -1
	}
	b.expire(b.cfg.Clock.Now())
	return b.cfg.Restarts - len(b.s.Recent)
}

// State returns what the budget remembers.
func (b *Budget) State() BudgetState {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.s
	s.Recent = append([]time.Time(nil), s.Recent...)
	return s
}
