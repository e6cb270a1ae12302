package irq

import (
	"sync"
	"sync/atomic"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/observe"
)

// Config is what a controller is made of.
type Config struct {
	// CPUs is how many there are.
	CPUs  int
	Clock ktime.Clock
	// CPU says which one the caller runs on. It must be fast; what it returns is
	// folded to less than CPUs. nil: always 0.
	CPU func() int
	// OnStorm and OnThrottle hear of storms, on goroutines of their own.
	OnStorm    func(Storm)
	OnThrottle func(Throttle)
}

// Controller holds the lines of a kernel.
type Controller struct {
	cfg     Config
	epoch   time.Time
	lines   [LineCount]line
	workers []*worker
	// spawn starts a goroutine; a test may do otherwise.
	spawn func(func())

	mu      sync.Mutex
	sources map[*Source]struct{} // +checklocks:mu
	nextID  uint64               // +checklocks:mu
	// The storms that rage, and what looks for their end.
	stormy []stormy    // +checklocks:mu
	watch  ktime.Timer // +checklocks:mu
}

// counter has a cache line of its own.
type counter struct {
	n atomic.Uint64
	_ [56]byte
}

// line is one line.
type line struct {
	onCPU []counter
	// What sources begin with: masked and routed.
	gate      atomic.Uint32
	limit     atomic.Uint64
	priority  atomic.Uint32
	route     atomic.Pointer[[]int]
	deferred  atomic.Uint64
	dropped   atomic.Uint64
	overflows atomic.Uint64
	storms    atomic.Uint64
	late      observe.Histogram

	mu     sync.Mutex
	masked bool // +checklocks:mu
	// Works that wait for the line to be unmasked.
	held    list // +checklocks:mu
	pending int  // +checklocks:mu
}

// New returns a controller whose lines are as the table has them.
func New(cfg Config) *Controller {
	cfg.CPUs = max(cfg.CPUs, 1)
	if cfg.Clock == nil {
		cfg.Clock = ktime.Real
	}
	c := &Controller{cfg: cfg, epoch: cfg.Clock.Now(), sources: make(map[*Source]struct{}), spawn: func(f func()) { go f() }}
	for i := range cfg.CPUs {
		k := &worker{c: c, cpu: i}
		k.loop = k.run
		c.workers = append(c.workers, k)
	}
	for l := range c.lines {
		info, n := Line(l).Info(), &c.lines[l]
		n.onCPU = make([]counter, cfg.CPUs)
		n.limit.Store(info.Limit)
		n.priority.Store(uint32(info.Priority))
		if info.Always {
			n.gate.Store(gateRouted)
		}
	}
	return c
}

func (c *Controller) now() int64 { return int64(c.cfg.Clock.Since(c.epoch)) }

func (c *Controller) cpu() int {
	if c.cfg.CPU == nil {
		return 0
	}
	return int(uint(c.cfg.CPU()) % uint(c.cfg.CPUs))
}

// hold keeps a work until the line is unmasked, and reports whether it is masked.
func (l *line) hold(w *Work) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.masked {
		return false
	}
	if !w.linked {
		w.linked = true
		l.held.push(w)
		l.pending++
	}
	return true
}

// release forgets what a source put off on a masked line.
func (l *line) release(s *Source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := list{}
	l.pending = 0
	for w := l.held.pop(); w != nil; w = l.held.pop() {
		if w.src == s {
			w.linked = false
			w.Cancel()
			continue
		}
		rest.push(w)
		l.pending++
	}
	l.held = rest
}

func setGate(gate *atomic.Uint32, bit uint32, on bool) {
	if on {
		gate.Or(bit)
	} else {
		gate.And(^bit)
	}
}

// setGates sets a bit of a line and of all its sources.
//
// +checklocks:c.mu
func (c *Controller) setGates(l Line, bit uint32, on bool) {
	setGate(&c.lines[l].gate, bit, on)
	for s := range c.sources {
		setGate(&s.flows[l].gate, bit, on)
	}
}

// Mask has bottom halves of a line wait, until Unmask. What runs already goes on.
func (c *Controller) Mask(l Line) error {
	if !l.Info().Maskable {
		return errdefs.New(errdefs.InvalidArgument, "this line cannot be masked", errdefs.Resource("%s", l),
			errdefs.Fix("those that can are: %s", names(func(i LineInfo) bool { return i.Maskable })))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := &c.lines[l]
	n.mu.Lock()
	n.masked = true
	n.mu.Unlock()
	c.setGates(l, gateMasked, true)
	return nil
}

// Unmask has bottom halves of a line run again, first those that wait.
func (c *Controller) Unmask(l Line) {
	c.mu.Lock()
	c.setGates(l, gateMasked, false)
	n := &c.lines[l]
	n.mu.Lock()
	n.masked = false
	held := n.held
	n.held, n.pending = list{}, 0
	var works []*Work
	for w := held.pop(); w != nil; w = held.pop() {
		w.linked = false
		works = append(works, w)
	}
	n.mu.Unlock()
	c.mu.Unlock()
	for _, w := range works {
		if w.state.Load() == waiting {
			w.dispatch()
		}
	}
}

// Route has bottom halves of a line run on the workers of these CPUs alone; nil
// is as at first.
func (c *Controller) Route(l Line, cpus []int) error {
	if err := routable(l); err != nil {
		return err
	}
	for _, n := range cpus {
		if n < 0 || n >= c.cfg.CPUs {
			return errdefs.New(errdefs.InvalidArgument, "the domain has no such CPU", errdefs.Resource("%d", n),
				errdefs.Fix("it has the CPUs %s", FormatCPUs(upTo(c.cfg.CPUs))))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(cpus) == 0 {
		c.lines[l].route.Store(nil)
	} else {
		c.lines[l].route.Store(&cpus)
	}
	c.setGates(l, gateRouted, len(cpus) > 0 || l.Info().Always)
	return nil
}

// SetPriority has bottom halves of a line served before those of lines with a
// lower one, from the next time on that they are queued.
func (c *Controller) SetPriority(l Line, priority int) error {
	if err := routable(l); err != nil {
		return err
	}
	if priority < 0 || priority > MaxPriority {
		return errdefs.New(errdefs.InvalidArgument, "it is no priority", errdefs.Resource("%d", priority),
			errdefs.Fix("write a number from 0, which is served last, to %d", MaxPriority))
	}
	c.lines[l].priority.Store(uint32(priority))
	return nil
}

// SetLimit sets how many interrupts a second of one source are a storm; 0: none.
func (c *Controller) SetLimit(l Line, perSecond uint64) error {
	if l.Info().Limit == 0 {
		return errdefs.New(errdefs.InvalidArgument, "this line has no storms", errdefs.Resource("%s", l),
			errdefs.Fix("those that have are: %s", names(func(i LineInfo) bool { return i.Limit > 0 })))
	}
	c.lines[l].limit.Store(perSecond)
	return nil
}

func routable(l Line) error {
	if l.Info().Routable() {
		return nil
	}
	return errdefs.New(errdefs.InvalidArgument, "bottom halves of this line run where they were raised, or on goroutines of their own", errdefs.Resource("%s", l),
		errdefs.Fix("those that run on the workers of CPUs are: %s", names(LineInfo.Routable)))
}

// names lists the lines that match.
func names(match func(LineInfo) bool) string {
	var out string
	for _, i := range lines {
		if match(i) {
			if out != "" {
				out += ", "
			}
			out += i.Name
		}
	}
	return out
}

func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}
