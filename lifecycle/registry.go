package lifecycle

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Policy is what a failure of a hook means when it is asked.
type Policy string

// The policies.
const (
	Refuse Policy = "refuse" // as if it had refused
	GoOn   Policy = "go-on"  // as if it had not been there
)

// Hook hears of operations. Its functions may be called concurrently. Their
// context ends when the time of the hook is over; who does not heed that is left
// behind.
type Hook struct {
	Name string
	// Order is its place: lower is earlier, the same by name.
	Order int
	Ops   []Op
	// Chooses says whether it wants to hear of an operation; nil: of all.
	Chooses func(*Operation) bool
	// Before is asked: nil agrees, a Veto refuses, anything else is a failure.
	Before func(context.Context, *Operation) error
	// After is told what became of it; the error is why it failed.
	After func(context.Context, *Operation, error) error
	// Aborted is told that an operation that it agreed to is not done, and why. A
	// hook with After is told so by that, if the operation was tried.
	Aborted func(context.Context, *Operation, error) error
	// Timeout is how long each call may take; 0: for ever.
	Timeout time.Duration
	// OnFailure is what a failure of Before means; "": Refuse.
	OnFailure Policy
}

// Veto returns the error by which a hook refuses an operation.
func Veto(reason string) error { return errdefs.New(errdefs.HookVeto, reason) }

// Options are those of a registry.
type Options struct {
	Clock ktime.Clock
	// Notices delivers what hooks are told, of one agent in the order in which it
	// is called, or says that it does not; nil: at once.
	Notices func(*Operation, func()) bool
	// OnReport hears what became of each call of a hook. It must not wait.
	OnReport func(Report)
	// Before is the registry whose place it takes: the counts of hooks of the same
	// name go on.
	Before *Registry
}

// Registry has hooks in their order.
type Registry struct {
	opts    Options
	entries []*entry
	byOp    map[Op][]*entry
}

// entry is a hook in a registry.
type entry struct {
	Hook
	counts *counts
}

// New makes a registry; without hooks it is nil.
func New(opts Options, hooks ...Hook) (*Registry, error) {
	if len(hooks) == 0 {
		return nil, nil
	}
	r := &Registry{opts: opts, byOp: make(map[Op][]*entry)}
	for _, h := range hooks {
		if r.find(h.Name) != nil {
			return nil, errdefs.Newf(errdefs.AlreadyExists, "another hook has the name %q", h.Name)
		}
		e := &entry{Hook: h}
		if old := opts.Before.find(h.Name); old != nil {
			e.counts = old.counts
		} else {
			e.counts = new(counts)
		}
		r.entries = append(r.entries, e)
	}
	r.opts.Before = nil
	slices.SortFunc(r.entries, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Name, b.Name))
	})
	for _, e := range r.entries {
		for _, op := range e.Ops {
			if _, err := ParseOp(string(op)); err != nil {
				return nil, err
			}
			if !slices.Contains(r.byOp[op], e) {
				r.byOp[op] = append(r.byOp[op], e)
			}
		}
	}
	return r, nil
}

func (r *Registry) find(name string) *entry {
	if r == nil {
		return nil
	}
	i := slices.IndexFunc(r.entries, func(e *entry) bool { return e.Name == name })
	if i < 0 {
		return nil
	}
	return r.entries[i]
}

// Hears reports whether any hook may want to hear of an operation.
func (r *Registry) Hears(op Op) bool { return r != nil && len(r.byOp[op]) > 0 }

// Call is an operation that has begun. Who began it calls Done, once.
type Call struct {
	r      *Registry
	op     *Operation
	hears  []*entry
	agreed []*entry
	done   atomic.Bool
}

// Begin asks every hook before an operation. If one refuses, or fails and that
// is its policy, the error says so, and the operation must not be done. Otherwise
// the operation is done, and its outcome told by Done.
func (r *Registry) Begin(ctx context.Context, op *Operation) (*Call, error) {
	if r == nil {
		return nil, nil
	}
	c := &Call{r: r, op: op}
	for _, e := range r.byOp[op.Op] {
		if e.Chooses == nil || e.Chooses(op) {
			c.hears = append(c.hears, e)
		}
	}
	if info, _ := infoOf(op.Op); op.Settled || !info.Refusable {
		return c, nil
	}
	for _, e := range c.hears {
		if e.Before == nil {
			continue
		}
		agrees, err := r.ask(ctx, e, op)
		if err != nil {
			c.abort(err, func(*entry) bool { return true })
			return nil, err
		}
		if agrees {
			c.agreed = append(c.agreed, e)
		}
	}
	return c, nil
}

// Tell has hooks hear of an operation that nobody can refuse any more.
func (r *Registry) Tell(op *Operation) {
	if r == nil {
		return
	}
	settled := *op
	settled.Settled = true
	c, err := r.Begin(context.Background(), &settled)
	if err == nil {
		c.Done(nil)
	}
}

// Done tells hooks what became of the operation: err is why it failed. A second
// call does nothing.
func (c *Call) Done(err error) {
	if c == nil || c.done.Swap(true) {
		return
	}
	for _, e := range c.hears {
		if e.After == nil {
			continue
		}
		c.r.deliver(e, c.op, After, func(ctx context.Context) error { return e.After(ctx, c.op, err) })
	}
	if err != nil {
		c.abort(err, func(e *entry) bool { return e.After == nil })
	}
}

// abort tells those who agreed that the operation is not done, the last first.
func (c *Call) abort(cause error, which func(*entry) bool) {
	for _, e := range slices.Backward(c.agreed) {
		if e.Aborted == nil || !which(e) {
			continue
		}
		c.r.deliver(e, c.op, Aborted, func(ctx context.Context) error { return e.Aborted(ctx, c.op, cause) })
	}
}

// deliver has one hook told, in its turn.
func (r *Registry) deliver(e *entry, op *Operation, phase Phase, f func(context.Context) error) {
	tell := func() {
		began := r.opts.Clock.Now()
		err := r.bounded(context.Background(), e, f)
		r.report(e, Report{Hook: e.Name, Operation: op, Phase: phase, Err: err, Took: r.opts.Clock.Since(began)})
	}
	switch {
	case r.opts.Notices == nil:
		tell()
	case !r.opts.Notices(op, tell):
		r.report(e, Report{Hook: e.Name, Operation: op, Phase: phase, Err: errdefs.New(errdefs.QuotaExceeded,
			"too much waits to be told, and this is not", errdefs.Fix("give the hook less to do, or less to hear of"))})
	}
}

// ask asks one hook. The error is why the operation must not be done.
func (r *Registry) ask(ctx context.Context, e *entry, op *Operation) (agrees bool, err error) {
	began := r.opts.Clock.Now()
	result := r.bounded(ctx, e, func(ctx context.Context) error { return e.Before(ctx, op) })
	rep := Report{Hook: e.Name, Operation: op, Phase: Before, Took: r.opts.Clock.Since(began)}
	switch {
	case result == nil:
	case errdefs.CodeOf(result) == errdefs.HookVeto:
		rep.Reason = result.Error()
		rep.Err = errdefs.New(errdefs.HookVeto, fmt.Sprintf("the hook %s refuses it: %s", e.Name, rep.Reason),
			errdefs.Op(string(op.Op)), errdefs.Resource("%s", op.Agent.Label()),
			errdefs.Fix("ask who configured the hook; `aiosctl hook ls` lists hooks"))
		rep.Vetoed, err = true, rep.Err
	case ctx.Err() != nil: // Nobody waits for the answer any more.
		err = errdefs.Wrap(ctx.Err(), errdefs.Cancelled, string(op.Op), errdefs.Resource("%s", op.Agent.Label()))
		rep.Abandoned = true
	default:
		rep.Err = result
		if e.OnFailure != GoOn {
			err = errdefs.New(errdefs.HookFailed, fmt.Sprintf("the hook %s, without which it is refused, does not answer", e.Name),
				errdefs.Op(string(op.Op)), errdefs.Resource("%s", op.Agent.Label()), errdefs.Cause(result),
				errdefs.Fix("mend the hook, or give it on_failure: go-on; `aiosctl hook ls` lists hooks"))
			rep.Refused = true
		}
	}
	r.report(e, rep)
	return result == nil, err
}

// bounded calls a hook and returns when it has, when its time is over, or when
// ctx ends.
func (r *Registry) bounded(ctx context.Context, e *entry, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if e.Timeout > 0 {
		t := r.opts.Clock.AfterFunc(e.Timeout, func() {
			cancel(errdefs.Newf(errdefs.Timeout, "it did not return within %v", e.Timeout))
		})
		defer t.Stop()
	}
	result := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				result <- errdefs.Newf(errdefs.Internal, "it panicked: %v", p)
			}
		}()
		result <- f(ctx)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		select {
		case err := <-result: // It has answered all the same.
			return err
		default:
			return context.Cause(ctx)
		}
	}
}
