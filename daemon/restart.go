package daemon

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
	"aios.dev/aios/sentry/trap"
)

// Restart policies.
const (
	restartNo        = "no"
	restartOnFailure = "on-failure"
	restartAlways    = "always"
)

const (
	// maxRestarts is the most that an agent's budget can allow.
	maxRestarts = 1000
	// restartsAtOnce is how many agents are started again at a time.
	restartsAtOnce = 8
	// restartTimeout is how long starting one again may take.
	restartTimeout = time.Minute
)

// checkRestart refuses restart policies that make no sense.
func checkRestart(req *apiv1.SpawnRequest) error {
	p := req.GetRestart()
	bad := func(detail, fix string) error {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("spawn agent"), errdefs.Fix("%s", fix))
	}
	asked := mayRestart(req)
	switch p.GetWhen() {
	case "", restartNo:
		if p.GetRestarts() != 0 {
			return bad("an agent that is not started again needs no number of restarts", "leave the number out, or use on-failure or always")
		}
		if !asked {
			return nil
		}
	case restartOnFailure, restartAlways:
	default:
		return bad(fmt.Sprintf("%q is no restart policy", p.GetWhen()), "use no, on-failure[:N] or always[:N]")
	}
	switch {
	case p.GetRestarts() > maxRestarts:
		return bad(fmt.Sprintf("a budget of %d restarts within %v is none", p.GetRestarts(), recovery.DefaultWindow),
			fmt.Sprintf("give at most %d", maxRestarts))
	case req.GetRemove():
		fix := "leave --rm out, or --restart"
		if asked {
			fix = "keep it: spawn it, or run it with --keep; or choose another action than restart"
		}
		return bad("an agent that is forgotten when it ends cannot be started again", fix)
	}
	return nil
}

// mayRestart reports whether a policy of the agent, on faults, violations or
// its watchdog, may have it started again.
func mayRestart(req *apiv1.SpawnRequest) bool {
	faults, _ := trap.ParseFaults(req.GetOnFault()) // They were looked at.
	violations, _ := trap.ParseViolations(req.GetOnViolation())
	dog, _ := trap.ParseWatchdog(req.GetWatchdog().GetOnExpiry())
	oom, _ := trap.ParseOOM(req.GetOnOom())
	return faults.Restarts() || violations.Restarts() || dog.Restarts() || oom.Restarts()
}

// checkWatchdog refuses what makes no watchdog.
func checkWatchdog(p *apiv1.WatchdogPolicy) error {
	if n := time.Duration(p.GetTimeoutNanos()); n != 0 && (n < abi.MinWatchdog || n > abi.MaxWatchdog) {
		return errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("a watchdog cannot wait for %v", n), errdefs.Op("spawn agent"),
			errdefs.Fix("give a time from %v to %v", abi.MinWatchdog, abi.MaxWatchdog))
	}
	_, err := trap.ParseWatchdog(p.GetOnExpiry())
	return errdefs.Wrap(err, errdefs.InvalidArgument, "read the rule of the watchdog")
}

// wish is that an agent be started again when it ends. The records of one
// agent share it, one after the other: each time it is started it gets a new
// one. A nil wish is none.
type wish struct {
	clock  ktime.Clock
	policy *apiv1.RestartPolicy
	budget *recovery.Budget

	mu    sync.Mutex
	count uint64 // +checklocks:mu
	// When it is started again; zero when it is not.
	next time.Time // +checklocks:mu
	// Why it is not started again any more; "" while it would be.
	ended string // +checklocks:mu
	// Of the latest attempt.
	err string // +checklocks:mu
	// The next start is one of those that count.
	again bool        // +checklocks:mu
	timer ktime.Timer // +checklocks:mu
	// Closed when the attempt that is under way is over; nil: there is none.
	attempt chan struct{} // +checklocks:mu
}

// newWish returns what is wished for an agent, with what a record remembers of
// it.
func (d *System) newWish(spec *apiv1.SpawnRequest, was *apiv1.Restarts) *wish {
	p := spec.GetRestart()
	if (p.GetWhen() == "" || p.GetWhen() == restartNo) && !mayRestart(spec) {
		return nil
	}
	s := recovery.BudgetState{Total: was.GetCount(), Streak: int(was.GetStreak())}
	for _, t := range was.GetRecentUnixNano() {
		s.Recent = append(s.Recent, time.Unix(0, t))
	}
	if t := was.GetStartedUnixNano(); t != 0 {
		s.Running = time.Unix(0, t)
	}
	w := &wish{
		clock: d.clock, policy: p,
		budget: recovery.NewBudget(recovery.BudgetConfig{Clock: d.clock, Restarts: int(p.GetRestarts())}, s),
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count, w.ended, w.err = was.GetCount(), was.GetEnded(), was.GetError()
	if n := was.GetNextUnixNano(); n != 0 {
		w.next, w.again = time.Unix(0, n), true
	}
	return w
}

// proto is what clients see, and what the record keeps.
func (w *wish) proto() *apiv1.Restarts {
	if w == nil {
		return nil
	}
	s := w.budget.State()
	w.mu.Lock()
	defer w.mu.Unlock()
	p := &apiv1.Restarts{Count: w.count, Ended: w.ended, Error: w.err, Left: uint32(max(0, w.budget.Left())), Streak: uint32(s.Streak)}
	if !w.next.IsZero() {
		p.NextUnixNano = w.next.UnixNano()
	}
	for _, t := range s.Recent {
		p.RecentUnixNano = append(p.RecentUnixNano, t.UnixNano())
	}
	if !s.Running.IsZero() {
		p.StartedUnixNano = s.Running.UnixNano()
	}
	return p
}

// begun says that the agent is about to be started.
func (w *wish) begun() {
	if w == nil {
		return
	}
	w.budget.Started()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.again {
		w.count++
	}
	w.next, w.again, w.err = time.Time{}, false, ""
}

// begunBefore reports whether the agent has been started again at least once: then
// somebody has been told of it, whatever its kernel process knows.
func (w *wish) begunBefore() bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count > 0
}

// outlives reports whether the agent is to be started again when it was lost
// with its domain.
func (w *wish) outlives() bool {
	when := ""
	if w != nil {
		when = w.policy.GetWhen()
	}
	return when == restartAlways || when == restartOnFailure
}

// end gives the wish up and reports whether a restart was due, which does not
// come then. It returns when no attempt is under way. A wish that has ended
// keeps its first reason.
func (w *wish) end(why string) (due bool) {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended == "" {
		w.ended = why
	}
	for w.attempt != nil {
		over := w.attempt
		w.mu.Unlock()
		<-over
		w.mu.Lock()
	}
	due = !w.next.IsZero()
	w.next = time.Time{}
	if w.timer != nil {
		w.timer.Stop()
	}
	return due
}

// verdict is whether something that ended may be started again, and when.
type verdict struct {
	wait time.Duration
	ok   bool
}

// decide notes what comes of the end of the agent. With its domain it was lost
// by no fault of its own: then the budget of the domain decides.
func (w *wish) decide(exit *apiv1.Exit, domain *verdict) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != "" {
		return
	}
	switch when := w.policy.GetWhen(); {
	case when == restartAlways, domain == nil && exit.GetAgain():
	case when != restartOnFailure:
		w.ended = "no policy wants it"
		return
	case domain == nil && exit.GetCode() == 0 && exit.GetSignal() == 0:
		w.ended = "it ended well"
		return
	}
	v, whose := verdict{}, "of its domain "
	if domain != nil {
		v = *domain
	} else {
		whose = ""
		v.wait, v.ok = w.budget.Ended()
	}
	if !v.ok {
		w.ended = whose + restartBudgetUsed
		return
	}
	w.next, w.again = w.clock.Now().Add(v.wait), true
}

// restartBudgetUsed is why an agent that goes on failing is left alone.
const restartBudgetUsed = "restart budget used up"

// usedUp reports whether the agent is left alone though it was to be started
// again.
func (w *wish) usedUp() bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.HasSuffix(w.ended, restartBudgetUsed)
}

// endedByItself decides whether an agent that ended is started again. Its
// record is final, and not yet written.
func (d *System) endedByItself(r *record) {
	r.wish.decide(r.exitOf(), nil)
	d.tellBudget(r)
}

// scheduleRestart starts an agent again when it is time. Its record is settled.
func (d *System) scheduleRestart(r *record) {
	w := r.wish
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next.IsZero() || w.ended != "" {
		return
	}
	w.timer = d.clock.AfterFunc(max(0, w.next.Sub(d.clock.Now())), func() { go d.restart(r) })
}

// restart starts an agent again that has ended.
func (d *System) restart(old *record) {
	d.restarts <- struct{}{}
	defer func() { <-d.restarts }()
	w := old.wish
	w.mu.Lock()
	if w.ended != "" || w.next.IsZero() || w.attempt != nil {
		w.mu.Unlock()
		return
	}
	w.attempt = make(chan struct{})
	w.mu.Unlock()
	next := d.tryRestart(old)
	w.mu.Lock()
	close(w.attempt)
	w.attempt = nil
	w.mu.Unlock()
	if next != nil {
		d.scheduleRestart(next)
	}
}

// tryRestart makes one attempt. The record it returns, if any, is that of an
// agent whose attempt failed.
func (d *System) tryRestart(old *record) *record {
	ctx, cancel := background(restartTimeout)
	defer cancel()
	r := old.renew()
	d.mu.Lock()
	same := d.agents[old.id] == old
	if same {
		d.agents[r.id] = r
		if d.names[r.name] == old {
			d.names[r.name] = r
		}
	}
	d.mu.Unlock()
	if !same {
		return nil // It was removed.
	}
	correlation := errdefs.NewCorrelation()
	var failed *record
	_, err := d.begin(ctx, r, launching{
		actor: control.Actor{Name: "daemon", Correlation: correlation}, log: d.oldLog, write: d.save, op: "restart",
		failed: func(err error) {
			if d.restartFailed(r, err) {
				failed = r
			}
		},
	})
	if err == nil {
		d.log.Info("agent started again", "agent", r.label(), "domain", r.domName, "restarts", r.wish.proto().GetCount())
		d.toldRestarted(r, old, correlation)
	}
	return failed
}

// renew returns the record of the same agent, to be started again.
func (r *record) renew() *record {
	next := newRecord(r.id, r.spec(), r.domName, r.created)
	next.tokens, next.wish, next.saving = r.tokens, r.wish, r.saving
	return next
}

// restartFailed ends the record of an agent that could not be started again,
// and decides whether it is tried once more. It reports whether it was this
// that ended the record.
func (d *System) restartFailed(r *record, err error) bool {
	d.log.Warn("starting an agent again", "agent", r.label(), "err", err)
	exit := &apiv1.Exit{Signal: int32(unix.SIGKILL), Reason: "it could not be started again: " + err.Error()}
	if !r.finish(abi.StateLost, exit, d.clock.Now()) {
		<-r.settled // It died with its domain, which decides.
		return false
	}
	r.wish.decide(exit, nil)
	r.wish.mu.Lock()
	r.wish.err = err.Error()
	r.wish.mu.Unlock()
	d.tellBudget(r)
	d.settle(r)
	close(r.settled)
	return true
}

// oldLog opens the log of an agent that is started again. What a kernel
// process that was killed wrote half is cut off.
func (d *System) oldLog(id string) (*os.File, int64, error) {
	f, err := os.OpenFile(d.logPath(id), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, diskError(err, "open log", d.logPath(id))
	}
	size := wholeRecords(bufio.NewReaderSize(f, logBuffer))
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, 0, diskError(err, "cut log", d.logPath(id))
	}
	return f, size, nil
}

// logBuffer is how much of a log is read at a time: its records are small.
const logBuffer = 64 << 10

// wholeRecords is how many bytes of a log are whole records.
func wholeRecords(f io.Reader) (size int64) {
	for {
		_, n, err := control.ReadLogRecord(f)
		if err != nil {
			return size
		}
		size += int64(n)
	}
}

// endWish gives up starting an agent again, for a reason that its record
// keeps. It reports whether a restart was due.
func (d *System) endWish(ref, why string) bool {
	r, err := d.find(ref)
	if err != nil || r.wish == nil {
		return false
	}
	due := r.wish.end(why)
	if r, err = d.find(ref); err != nil { // Perhaps a new one.
		return false
	}
	if err := d.saveKnown(r); err != nil {
		d.log.Error("saving record", "agent", r.id, "err", err)
	}
	d.health.Remove(agentComponent(r))
	return due
}

// endWishes gives up those of all agents of a domain; of all domains when name
// is "".
func (d *System) endWishes(name, why string) {
	for _, r := range d.records() {
		if name == "" || r.domName == name {
			d.endWish(r.id, why)
		}
	}
}

// ends reports whether a signal of an operator says that an agent shall end.
func ends(sig int32) bool {
	return sig == int32(unix.SIGKILL) || sig == int32(unix.SIGTERM)
}
