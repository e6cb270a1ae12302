package sentry

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/platform"
)

// Most of the time that a copy of a template takes goes into its memory: address
// spaces are made and forked, and then its first steps fault on page after page,
// many of which have to be copied. So a template keeps the memory of a few copies
// ready. It has been forked, and what the first copies of the template have touched
// is mapped in it, and copied where they wrote.
//
// Only memory is made ahead. A template does not change, so memory that was forked
// earlier is what a fork would return now; all that a copy has of its own, and all
// that depends on when it begins, is made when it begins, by the same code as
// without (clonemake.go). Mappings that are not the same in a copy are replaced
// then, too (clonemem.go). Memory that is ready belongs to no task: no agent sees
// it, and it counts for the template.

// aheads is the memory that all templates have ready.
type aheads struct {
	mu sync.Mutex // inside Agent.lifeMu
	// That are ready or in the making.
	all int // +checklocks:mu
	// Makers, and what the last of them tells.
	busy   int // +checklocks:mu
	rested *sync.Cond
	// By how many none may be made.
	held int // +checklocks:mu
}

func (h *aheads) init() { h.rested = sync.NewCond(&h.mu) }

// maker says that one more is busy, or with -1 that one has ended.
//
// +checklocks:h.mu
func (h *aheads) maker(n int) {
	h.busy += n
	if h.busy == 0 {
		h.rested.Broadcast()
	}
}

// agentAhead is what one template has ready. It is guarded by aheads.mu.
type agentAhead struct {
	want  int // how many; 0 for who is no template
	ready []*aheadMemory
	busy  bool // one is in the making, or brought up to date
	// timer is set while a maker is to begin, and asked since when.
	timer ktime.Timer
	asked time.Time
	// learned is what the copies have touched, taught how many were looked at.
	learned []learnedTouch
	taught  int

	bytes atomic.Uint64 // what it takes
}

// aheadMemory is the memory of a copy.
type aheadMemory struct {
	memID  uint32
	ctx    context.Context
	images map[*mm.MemoryManager]*kernel.TaskImage // by what they are forks of
	own    map[*mm.MemoryManager][]hostarch.AddrRange
	// knows is how much of what was learned is mapped in it.
	knows int
	bytes uint64
}

// learnedTouch is a page that copies touch.
type learnedTouch struct {
	of    *mm.MemoryManager // of the template
	addr  hostarch.Addr
	write bool
}

const (
	// aheadDelay is how long a maker waits for another start, so as not to compete
	// with what has just begun, and aheadPatience for how long it does so at most.
	aheadDelay    = 20 * time.Millisecond
	aheadPatience = 10 * aheadDelay
	// aheadRetry is when it is tried again where memory was short.
	aheadRetry = time.Second
	// aheadMost is how many all templates of a domain have ready together.
	aheadMost = 256
	// A template learns from its first copies, what they touch until they have written
	// something, or for learnTime.
	learnCopies = 4
	learnTime   = 10 * time.Second
	learnMost   = 192
)

// keepAhead has a template have as many copies ready as it was made with.
func (a *Agent) keepAhead() {
	s := a.s
	if a.spec.Template == nil || a.spec.Template.Ahead == 0 {
		return
	}
	s.ahead.mu.Lock()
	defer s.ahead.mu.Unlock()
	a.ahead.want = min(a.spec.Template.Ahead, abi.MaxAhead)
	a.makeSoonLocked(aheadDelay)
}

// aheadCount is how many are ready.
func (a *Agent) aheadCount() int {
	a.s.ahead.mu.Lock()
	defer a.s.ahead.mu.Unlock()
	return len(a.ahead.ready)
}

// takeAhead returns memory for a copy that begins now, nil if none is ready.
//
// +checklocks:a.lifeMu
func (a *Agent) takeAhead() *aheadMemory {
	if a.swap.Load() != nil {
		a.dropAhead() // Of memory that is swapped out each copy gets its own when it asks.
		return nil
	}
	s, h := a.s, &a.ahead
	s.ahead.mu.Lock()
	defer s.ahead.mu.Unlock()
	if h.want == 0 {
		return nil
	}
	a.makeSoonLocked(aheadDelay)
	if len(h.ready) == 0 {
		return nil
	}
	// The one that knows most; those that know less are being taught.
	best := 0
	for i, m := range h.ready {
		if m.knows > h.ready[best].knows {
			best = i
		}
	}
	m := h.ready[best]
	h.ready = append(h.ready[:best], h.ready[best+1:]...)
	s.ahead.all--
	h.bytes.Add(-m.bytes)
	return m
}

// makeSoonLocked has a maker begin when nothing was started for a while.
//
// +checklocks:a.s.ahead.mu
func (a *Agent) makeSoonLocked(delay time.Duration) {
	h, clock := &a.ahead, a.s.cfg.Clock
	if h.timer != nil {
		if clock.Since(h.asked) > aheadPatience || !h.timer.Stop() {
			return
		}
	} else {
		h.asked = clock.Now()
	}
	h.timer = clock.AfterFunc(delay, a.makeAhead)
}

// makeAhead makes what is missing, and brings up to date what there is.
func (a *Agent) makeAhead() {
	s := a.s
	s.ahead.mu.Lock()
	a.ahead.timer = nil
	s.ahead.mu.Unlock()
	for {
		m, learned, ok := a.beginAhead()
		if !ok {
			return
		}
		var err error
		if m == nil {
			m, err = a.forkAhead()
		}
		if err == nil {
			m.touch(s, learned)
		}
		if !a.endAhead(m, err) {
			return
		}
	}
}

// beginAhead says what there is to do: bring memory up to date that is ready, or make
// more if that is nil.
func (a *Agent) beginAhead() (m *aheadMemory, learned []learnedTouch, ok bool) {
	s, h := a.s, &a.ahead
	short := s.memoryShort()
	s.ahead.mu.Lock()
	defer s.ahead.mu.Unlock()
	if h.busy || s.ahead.held > 0 || h.want == 0 {
		return nil, nil, false
	}
	for i, old := range h.ready {
		if old.knows < len(h.learned) {
			m = old
			h.ready = append(h.ready[:i], h.ready[i+1:]...)
			h.bytes.Add(-m.bytes)
			break
		}
	}
	if m == nil {
		if len(h.ready) >= h.want || s.ahead.all >= aheadMost {
			return nil, nil, false
		}
		if short {
			a.makeSoonLocked(aheadRetry)
			return nil, nil, false
		}
		s.ahead.all++
	}
	h.busy = true
	s.ahead.maker(1)
	return m, h.learned, true
}

// endAhead keeps memory, unless nobody wants it any more, and reports whether to go on.
func (a *Agent) endAhead(m *aheadMemory, err error) bool {
	s, h := a.s, &a.ahead
	fits := err == nil && a.roomFor(m.bytes)
	s.ahead.mu.Lock()
	defer s.ahead.mu.Unlock()
	h.busy = false
	if fits && h.want > 0 && s.ahead.held == 0 {
		s.ahead.maker(-1)
		h.ready = append(h.ready, m)
		h.bytes.Add(m.bytes)
		return true
	}
	s.ahead.mu.Unlock()
	m.release() // Before it is not busy any more: who waits for that wants it to be gone.
	s.ahead.mu.Lock()
	s.ahead.maker(-1)
	s.ahead.all--
	return false // The next that begins has it be tried again.
}

// roomFor reports whether the template has room for so many bytes more.
func (a *Agent) roomFor(bytes uint64) bool {
	limit := a.memoryLimit()
	return limit == account.Unlimited || memoryOf(a)+bytes <= reclaimFrom(limit)
}

// memoryShort reports whether the domain uses most of what memory there is.
func (s *Kernel) memoryShort() bool {
	used, err := s.k.MemoryFile().TotalUsage()
	return err == nil && s.shortOf(used)
}

// shortOf is memoryShort, if so much is used.
func (s *Kernel) shortOf(used uint64) bool {
	return s.cfg.MemoryBytes > 0 && used > reclaimTo(s.cfg.MemoryBytes)
}

// forkAhead forks the memory of a template.
func (a *Agent) forkAhead() (*aheadMemory, error) {
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if err := a.mustBe(abi.StateTemplate); err != nil {
		return nil, err
	}
	if a.dying.Load() || a.swap.Load() != nil {
		return nil, errdefs.New(errdefs.WrongState, "the template is being removed, or has swapped", errdefs.Resource("%s", a.id))
	}
	f, err := a.kin()
	if err != nil {
		return nil, err
	}
	m := &aheadMemory{
		memID: a.s.newMemID(), images: make(map[*mm.MemoryManager]*kernel.TaskImage), own: make(map[*mm.MemoryManager][]hostarch.AddrRange),
	}
	m.ctx = a.s.context(a.ns, a.s.creds, m.memID)
	for _, g := range f.groups {
		for _, tw := range g.tasks {
			from := tw.old.MemoryManager()
			if tw.zombie || from == nil || m.images[from] != nil {
				continue
			}
			img, err := a.s.forkMemory(m.ctx, tw.old)
			if err != nil {
				m.release()
				return nil, err
			}
			m.images[from] = img
			from.ReadMapsDataInto(m.ctx, func(start, end hostarch.Addr, _ hostarch.AccessType, private string, _ uint64, _, _ uint32, _ uint64, _ string) {
				if private == "p" {
					m.own[from] = append(m.own[from], hostarch.AddrRange{Start: start, End: end})
				}
			})
		}
	}
	return m, nil
}

// touch maps and copies what copies are known to touch: as they would, but for what
// they share with others.
func (m *aheadMemory) touch(s *Kernel, learned []learnedTouch) {
	// What is only read first: that maps what is around it, too.
	for _, write := range []bool{false, true} {
		for _, t := range learned[m.knows:] {
			img := m.images[t.of]
			if img == nil || t.write != write || !m.owns(t.of, t.addr) {
				continue
			}
			// What cannot be touched is for the copy to find out.
			_ = img.MemoryManager.HandleUserFault(m.ctx, t.addr, hostarch.AccessType{Read: true, Write: write}, 0)
		}
	}
	m.knows = len(learned)
	s.k.MemoryFile().UpdateUsage(map[uint32]struct{}{m.memID: {}}) // Fails during a checkpoint only.
	m.bytes = usage.MemoryAccounting.TotalPerCg(m.memID)
}

func (m *aheadMemory) owns(of *mm.MemoryManager, addr hostarch.Addr) bool {
	for _, r := range m.own[of] {
		if r.Contains(addr) {
			return true
		}
	}
	return false
}

// take returns the image of a task whose memory is old's, once.
func (m *aheadMemory) take(old *kernel.Task) *kernel.TaskImage {
	if m == nil {
		return nil
	}
	from := old.MemoryManager()
	img := m.images[from]
	if img == nil {
		return nil
	}
	delete(m.images, from)
	img.Name, img.Arch = old.Name(), old.Arch().Fork()
	return img
}

// release drops what was not taken.
func (m *aheadMemory) release() {
	if m == nil {
		return
	}
	for from, img := range m.images {
		img.MemoryManager.DecUsers(m.ctx)
		delete(m.images, from)
	}
}

// learn has a template note what a copy touches that is about to run, if it knows too
// little yet.
func (c *copying) learn() {
	s, a := c.s, c.src
	s.ahead.mu.Lock()
	wanted := a.ahead.want > 0 && a.ahead.taught < learnCopies && len(a.ahead.learned) < learnMost
	if wanted {
		a.ahead.taught++
	}
	s.ahead.mu.Unlock()
	if !wanted {
		return
	}
	of := make(map[*mm.MemoryManager]*mm.MemoryManager, len(c.images))
	for old, t := range c.images {
		of[t.MemoryManager()] = old
	}
	l := &lesson{template: a, of: of, touches: platform.NewTouches(learnMost)}
	c.dst.crowd.NoteTouches(l.touches)
	l.timer = s.cfg.Clock.AfterFunc(learnTime, c.dst.endLesson)
	c.dst.lesson.Store(l)
}

// lesson is what a template learns from one copy.
type lesson struct {
	template *Agent
	of       map[*mm.MemoryManager]*mm.MemoryManager // of the template, by the copy's
	touches  *platform.Touches
	timer    ktime.Timer
}

// endLesson has the template that the agent began from know what it has touched, once.
func (a *Agent) endLesson() {
	l := a.lesson.Swap(nil)
	if l == nil {
		return
	}
	l.timer.Stop()
	a.crowd.NoteTouches(nil)
	l.template.learned(l.touches.List(), l.of)
}

// learned adds to what is known of the copies' touches; of says which memory of the
// template theirs is a fork of.
func (a *Agent) learned(list []platform.Touch, of map[*mm.MemoryManager]*mm.MemoryManager) {
	s, h := a.s, &a.ahead
	s.ahead.mu.Lock()
	defer s.ahead.mu.Unlock()
	known := make(map[learnedTouch]bool, len(h.learned))
	for _, t := range h.learned {
		known[t] = true
	}
	for _, x := range list {
		m, ok := x.Space.(*mm.MemoryManager)
		if !ok || of[m] == nil {
			continue // Of a program that it has started.
		}
		t := learnedTouch{of[m], x.Addr, x.Write}
		if !known[t] && len(h.learned) < learnMost {
			known[t] = true
			h.learned = append(h.learned, t)
		}
	}
	if h.want > 0 {
		a.makeSoonLocked(aheadDelay)
	}
}

// dropAhead drops what a template has ready, and reports whether that was anything.
func (a *Agent) dropAhead() bool {
	a.s.ahead.mu.Lock()
	dropped := a.emptyAheadLocked()
	a.s.ahead.mu.Unlock()
	for _, m := range dropped {
		m.release()
	}
	return len(dropped) > 0
}

// emptyAheadLocked takes all that is ready.
//
// +checklocks:a.s.ahead.mu
func (a *Agent) emptyAheadLocked() []*aheadMemory {
	h := &a.ahead
	out := h.ready
	for _, m := range out {
		h.bytes.Add(-m.bytes)
	}
	a.s.ahead.all -= len(out)
	h.ready = nil
	return out
}

// closeAhead drops what a template has ready that ends.
func (a *Agent) closeAhead() {
	a.s.ahead.mu.Lock()
	a.ahead.want = 0
	a.s.ahead.mu.Unlock()
	a.dropAhead()
}

// makeSoon has a maker begin, if the template is to have anything ready.
func (a *Agent) makeSoon(delay time.Duration) {
	a.s.ahead.mu.Lock()
	defer a.s.ahead.mu.Unlock()
	if a.ahead.want > 0 {
		a.makeSoonLocked(delay)
	}
}

// dropAheads drops what all templates have ready, for memory is short.
func (s *Kernel) dropAheads() {
	for _, a := range s.allAgents() {
		if a.dropAhead() {
			a.makeSoon(aheadRetry)
		}
	}
}

// holdAheads drops what all templates have ready, and has none be made until
// freeAheads. The caller holds no lock of an agent.
func (s *Kernel) holdAheads() {
	s.ahead.mu.Lock()
	s.ahead.held++
	for s.ahead.busy > 0 {
		s.ahead.rested.Wait()
	}
	s.ahead.mu.Unlock()
	for _, a := range s.allAgents() {
		a.dropAhead()
	}
}

// freeAheads undoes holdAheads.
func (s *Kernel) freeAheads() {
	s.ahead.mu.Lock()
	s.ahead.held--
	s.ahead.mu.Unlock()
	for _, a := range s.allAgents() {
		a.makeSoon(aheadDelay)
	}
}
