package daemon

import (
	"context"
	"path"
	"sync"
	"time"

	"aios.dev/aios/capability/audit"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// tokenUses are the calls under way that were made with tokens, and what is to
// be written down of them. The zero value is ready. mu is a leaf.
type tokenUses struct {
	mu sync.Mutex
	// +checklocks:mu
	live map[*use]struct{}
	// By the ID of the first block; that of the zero ID is of those whose token
	// was no good.
	// +checklocks:mu
	tallies map[token.ID]*tally
}

// use is a call under way.
type use struct {
	bearer *bearer
	cancel context.CancelCauseFunc
	over   chan struct{} // closed when it has ended

	timer ktime.Timer // guarded by tokenUses.mu
}

// endOfUse is the cause of a context that ended because of the token.
type endOfUse struct{ error }

func (u *use) end(why error) { u.cancel(endOfUse{why}) }

type useKey struct{}

// recheckEvery is how often the token of a call that lasts is looked at, in case
// the wall clock was set. Revocation does not wait for it.
const recheckEvery = 30 * time.Second

// beginUse registers a call. Its context ends when the token does.
func (d *System) beginUse(ctx context.Context, b *bearer) (context.Context, *use, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	u := &use{bearer: b, cancel: cancel, over: make(chan struct{})}
	d.uses.mu.Lock()
	if d.uses.live == nil {
		d.uses.live = make(map[*use]struct{})
	}
	d.uses.live[u] = struct{}{}
	d.uses.mu.Unlock()
	// Only now: a revocation either is seen here, or sees the call.
	if err := d.recheck(b); err != nil {
		d.endUse(u)
		return ctx, nil, err
	}
	d.watch(u)
	return context.WithValue(ctx, useKey{}, u), u, nil
}

// recheck says whether a token that was good still is.
func (d *System) recheck(b *bearer) error {
	k, err := d.keyring()
	if err != nil {
		return err
	}
	if _, ok := k.trust.Key(b.Issuer); !ok {
		return errdefs.New(errdefs.TokenInvalid, "the key "+b.Issuer.String()+", with which it was issued, is no longer trusted here",
			errdefs.Op("verify token"), errdefs.Resource("%s", b.ID), errdefs.Fix("have a token issued here"))
	}
	return b.Recheck(d.clock.Now(), k.revoked.Revoked)
}

// watch ends a call when its token expires.
func (d *System) watch(u *use) {
	if err := d.recheck(u.bearer); err != nil {
		u.end(err)
		return
	}
	left := min(max(u.bearer.Expires.Sub(d.clock.Now()), time.Millisecond), recheckEvery)
	d.uses.mu.Lock()
	defer d.uses.mu.Unlock()
	if _, ok := d.uses.live[u]; ok {
		u.timer = d.clock.AfterFunc(left, func() { d.watch(u) })
	}
}

func (d *System) endUse(u *use) {
	d.uses.mu.Lock()
	delete(d.uses.live, u)
	if u.timer != nil {
		u.timer.Stop()
	}
	d.uses.mu.Unlock()
	u.cancel(nil)
	close(u.over)
}

// endGrace is how long a revocation waits for calls that it ended.
const endGrace = 2 * time.Second

// endUses ends the calls whose token is no longer good, and waits until they
// have ended, but for the one that ctx belongs to. It returns how many they
// were.
func (d *System) endUses(ctx context.Context) int {
	own, _ := ctx.Value(useKey{}).(*use)
	d.uses.mu.Lock()
	all := make([]*use, 0, len(d.uses.live))
	for u := range d.uses.live {
		if u != own {
			all = append(all, u)
		}
	}
	d.uses.mu.Unlock()
	var ended []*use
	for _, u := range all {
		if err := d.recheck(u.bearer); err != nil {
			u.end(err)
			ended = append(ended, u)
		}
	}
	limit := after(d.clock, endGrace)
	for _, u := range ended {
		select {
		case <-u.over:
		case <-limit: // It waits for a client that takes nothing.
			d.log.Warn("a call goes on although its token has ended", "token", u.bearer.ID)
			return len(ended)
		}
	}
	return len(ended)
}

// Of what is done with a token, and with all that were made from it, so many
// different things are told apart within a window. The rest is counted.
const (
	tallyWindow = time.Minute
	tallyKinds  = 16
)

// tally is what is counted of the tokens that were made from one.
type tally struct {
	uses    map[token.ID]uint64 // not written yet, by the ID of the token
	subject string
	reasons map[string]struct{}
}

// tallyOf returns the tally of a window, and begins one.
//
// +checklocks:d.uses.mu
func (d *System) tallyOf(root token.ID) *tally {
	t := d.uses.tallies[root]
	if t == nil {
		if d.uses.tallies == nil {
			d.uses.tallies = make(map[token.ID]*tally)
		}
		t = &tally{uses: make(map[token.ID]uint64), reasons: make(map[string]struct{})}
		d.uses.tallies[root] = t
		d.clock.AfterFunc(tallyWindow, func() { d.flushTally(root, t) })
	}
	return t
}

// used writes down that a token was used: the first time at once, further ones
// of a minute as a count.
func (d *System) used(ctx context.Context, b *bearer, method string) {
	root, id := b.IDs[0], b.ID
	d.uses.mu.Lock()
	t := d.tallyOf(root)
	t.subject = b.Subject
	if _, known := t.uses[id]; !known && len(t.uses) >= tallyKinds {
		id = root // As if it had been that.
	}
	if _, known := t.uses[id]; known {
		t.uses[id]++
		d.uses.mu.Unlock()
		return
	}
	t.uses[id] = 0
	d.uses.mu.Unlock()
	e := useEntry(b.Subject, root, id)
	e.Target, e.Correlation = method, errdefs.CorrelationFrom(ctx)
	d.record(e)
}

func useEntry(subject string, root, id token.ID) audit.Entry {
	e := audit.Entry{Op: opTokenUse, Actor: "token:" + subject, Cap: id.String()}
	if id != root {
		e.Parent = root.String()
	}
	return e
}

// flushTally ends a window.
func (d *System) flushTally(root token.ID, t *tally) {
	d.uses.mu.Lock()
	if d.uses.tallies[root] != t {
		d.uses.mu.Unlock()
		return
	}
	delete(d.uses.tallies, root)
	d.uses.mu.Unlock() // Nobody else knows t any more.
	for id, n := range t.uses {
		if n > 0 {
			e := useEntry(t.subject, root, id)
			e.Count = n
			d.record(e)
		}
	}
}

// flushTallies writes what was counted so far.
func (d *System) flushTallies() {
	d.uses.mu.Lock()
	open := make(map[token.ID]*tally, len(d.uses.tallies))
	for root, t := range d.uses.tallies {
		open[root] = t
	}
	d.uses.mu.Unlock()
	for root, t := range open {
		d.flushTally(root, t)
	}
}

// turnedAway remembers a call whose token, if it showed one, was no good. What
// such a token says is believed only if the signatures were right.
func (d *System) turnedAway(ctx context.Context, b *bearer, fullMethod string, err error) {
	method := path.Base(fullMethod)
	switch errdefs.CodeOf(err) {
	case errdefs.TokenExpired, errdefs.TokenRevoked, errdefs.AudienceMismatch:
		blocks := b.token.Blocks()
		e := useEntry(blocks[0].Subject, blocks[0].ID, b.token.ID())
		d.deny(ctx, e, token.ID{}, method, "", err)
	default:
		d.deny(ctx, audit.Entry{Actor: "bearer"}, token.ID{}, method, "", err)
	}
	// Strangers must not fill the list of recent errors.
	d.remember(ctx, fullMethod, errdefs.Public(err).With(errdefs.Op("verify token"), errdefs.Resource("")))
}

// denied writes down what a bearer was refused.
func (d *System) denied(ctx context.Context, b *bearer, method, agent string, err error) {
	d.deny(ctx, useEntry(b.Subject, b.IDs[0], b.ID), b.IDs[0], method, agent, err)
}

// deny completes and writes an entry. Of one root only so many different ones
// are written within a window, so that nobody can push others out of the trail
// by asking.
func (d *System) deny(ctx context.Context, e audit.Entry, root token.ID, method, agent string, err error) {
	e.Op, e.Target, e.Agent, e.Code, e.Reason = audit.OpDenied, method, agent, string(errdefs.CodeOf(err)), err.Error()
	d.uses.mu.Lock()
	reasons := d.tallyOf(root).reasons
	kind := method + "\x00" + agent + "\x00" + e.Reason
	_, known := reasons[kind]
	if !known && len(reasons) >= tallyKinds {
		e = audit.Entry{Op: audit.OpDenied, Actor: e.Actor, Code: e.Code, Reason: "further refusals, of other kinds"}
		if root == (token.ID{}) {
			e.Actor = "bearer"
		}
	} else {
		reasons[kind] = struct{}{}
	}
	d.uses.mu.Unlock()
	e.Correlation = errdefs.CorrelationFrom(ctx)
	d.record(e)
}
