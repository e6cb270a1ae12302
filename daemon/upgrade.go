package daemon

import (
	"context"
	"strings"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/lifecycle"
)

const (
	// upgradeLife is how long a new program has to run if nothing else says that it
	// is well, and upgradeHealth how long it has for its health check.
	upgradeLife   = 5 * time.Second
	upgradeHealth = 30 * time.Second
	// maxUpgrade is the longest that either may take.
	maxUpgrade = 10 * time.Minute
	// upgradeSlack is how much longer than that the kernel process may take.
	upgradeSlack = time.Minute
	// decidedPoll is how often a domain is asked whether an upgrade is decided that an
	// earlier daemon began.
	decidedPoll = 200 * time.Millisecond
	// learnGrace is how long another upgrade waits for that.
	learnGrace = 2 * time.Second
)

// upgrading is an upgrade that is not decided yet: what the agent is to be.
type upgrading struct {
	token, digest string
	spec          *apiv1.SpawnRequest
}

// Upgrade implements the RPC. Once the kernel process was asked, it is carried on
// though the client may go.
func (d *System) Upgrade(ctx context.Context, req *apiv1.UpgradeRequest) (*apiv1.UpgradeResponse, error) {
	limit := time.Duration(req.GetTimeoutNanos())
	if limit == 0 {
		if limit = upgradeLife; len(req.GetHealth()) > 0 {
			limit = upgradeHealth
		}
	}
	if limit < 0 || limit > maxUpgrade {
		return nil, errdefs.New(errdefs.InvalidArgument, "an upgrade cannot take "+limit.String(), errdefs.Op("upgrade"), errdefs.Fix("give at most %v", maxUpgrade))
	}
	if err := checkProcess(&apiv1.Process{Argv: append(req.GetArgv(), req.GetHealth()...)}); err != nil {
		return nil, err
	}
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	if r.isTemplate() {
		return nil, errdefs.New(errdefs.WrongState, "it is a template, which does not run", errdefs.Op("upgrade"), errdefs.Resource("%s", r.label()),
			errdefs.Fix("make a template of the new image"))
	}
	next := cloneSpec(r.spec())
	next.Image, next.From = req.GetImage(), ""
	if next.Process == nil {
		next.Process = &apiv1.Process{}
	}
	if len(req.GetArgv()) > 0 {
		next.Process.Argv = req.GetArgv()
	}
	krq, digest, err := dom.prepareUpgrade(ctx, r, next, req.GetHealth())
	if err != nil {
		return nil, err
	}
	krq.Timeout, krq.Actor, krq.Token = limit, actor(ctx), errdefs.NewCorrelation()
	call, err := d.askHooks(ctx, lifecycle.Upgrade, r, func(op *lifecycle.Operation) { op.Image, op.Program = krq.Image, krq.Process.Argv })
	if err != nil {
		return nil, err
	}
	type outcome struct {
		reply control.UpgradeReply
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		o.reply, o.err = d.upgrade(r, dom, krq, &upgrading{krq.Token, digest, next})
		call.Done(o.err)
		done <- o
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return nil, o.err
		}
		return &apiv1.UpgradeResponse{Agent: r.proto(), PauseNanos: int64(o.reply.Pause), TookNanos: int64(o.reply.Took)}, nil
	case <-ctx.Done():
		return nil, errdefs.New(errdefs.Cancelled, "the upgrade goes on, and decides itself", errdefs.Op("upgrade"), errdefs.Resource("%s", r.label()))
	}
}

// prepareUpgrade makes the image known to the kernel process, and says what is to run.
func (dom *domain) prepareUpgrade(ctx context.Context, r *record, next *apiv1.SpawnRequest, health []string) (control.UpgradeRequest, string, error) {
	dom.startMu.Lock()
	defer dom.startMu.Unlock()
	k := control.UpgradeRequest{ID: r.id, Image: imageName(next)}
	root, img, err := dom.image(ctx, next.GetImage())
	if err != nil {
		return k, "", err
	}
	k.Root = root
	if k.Process, err = process(next.GetProcess(), img.Config, next.GetTimeZone()); err != nil || len(health) == 0 {
		return k, img.Digest, err
	}
	img.Config.Entrypoint = nil
	check, err := process(&apiv1.Process{Argv: health, Env: next.GetProcess().GetEnv(), Cwd: next.GetProcess().GetCwd(), User: next.GetProcess().GetUser()}, img.Config, next.GetTimeZone())
	k.Health = &check
	return k, img.Digest, err
}

// upgrade has the kernel process do it, and notes what the agent is then: before that
// what it may become, so that a daemon that comes after this one can ask.
func (d *System) upgrade(r *record, dom *domain, krq control.UpgradeRequest, u *upgrading) (reply control.UpgradeReply, err error) {
	ctx, cancel := background(krq.Timeout + upgradeSlack)
	defer cancel()
	if err := d.claimUpgrade(r, u); err != nil {
		return reply, err
	}
	if err = d.save(r); err == nil {
		err = dom.call(ctx, control.MethodUpgrade, krq, &reply)
	}
	switch errdefs.CodeOf(err) {
	case errdefs.AgentNotFound: // It was there.
		err = errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Op("upgrade"), errdefs.Resource("%s", r.label()))
	case errdefs.DomainDied, errdefs.Cancelled: // Perhaps it is connected to again.
		if st, ok := dom.decided(ctx, r.id); ok && st.Upgraded == u.token {
			err = nil
		}
	}
	d.settleUpgrade(r, err == nil)
	e := audit.Entry{
		Op: "upgrade", Domain: r.domName, Actor: krq.Actor.Name, Agent: r.id, Target: krq.Image,
		Reason: strings.Join(krq.Process.Argv, " "), Correlation: krq.Actor.Correlation,
	}
	if err != nil {
		e.Code, e.Reason = string(errdefs.CodeOf(err)), "it is what it was: "+err.Error()
	}
	d.record(e)
	return reply, errdefs.Wrap(err, errdefs.Internal, "upgrade", errdefs.Resource("%s", r.label()))
}

// claimUpgrade has u be the upgrade of an agent, if it has none. One that an earlier
// daemon began may be decided, and this one is just about to learn it.
func (d *System) claimUpgrade(r *record, u *upgrading) error {
	for late := d.clock.Now().Add(learnGrace); ; <-after(d.clock, decidedPoll) {
		r.mu.Lock()
		busy := r.upgrading != nil
		if !busy {
			r.upgrading = u
		}
		r.mu.Unlock()
		switch {
		case !busy:
			return nil
		case d.clock.Now().After(late):
			return errdefs.New(errdefs.WrongState, "the agent is being upgraded", errdefs.Op("upgrade"), errdefs.Resource("%s", r.label()),
				errdefs.Fix("wait until that is decided"))
		}
	}
}

// settleUpgrade notes how an upgrade was decided.
func (d *System) settleUpgrade(r *record, kept bool) {
	r.mu.Lock()
	u := r.upgrading
	r.upgrading = nil
	if u != nil && kept {
		r.specs.Store(u.spec)
		r.digest = u.digest
	}
	r.mu.Unlock()
	if err := d.save(r); err != nil {
		d.log.Error("saving record", "agent", r.id, "err", err)
	}
}

// decided waits until no upgrade of an agent is under way, and returns what the kernel
// process says of it then; ok is false if it is not there any more.
func (dom *domain) decided(ctx context.Context, id string) (st control.AgentStatus, ok bool) {
	for {
		st = control.AgentStatus{} // What is not so is not said.
		err := dom.call(ctx, control.MethodInspect, control.AgentRequest{ID: id}, &st)
		code := errdefs.CodeOf(err)
		if err == nil && !st.Upgrading || err != nil && code != errdefs.DomainDied {
			return st, err == nil
		}
		select {
		case <-dom.gone:
			return st, false
		case <-ctx.Done():
			return st, false
		case <-after(dom.d.clock, decidedPoll):
		}
	}
}

// learnUpgrade finds out how an upgrade was decided that an earlier daemon began.
func (dom *domain) learnUpgrade(r *record) {
	r.mu.Lock()
	u := r.upgrading
	r.mu.Unlock()
	if u == nil {
		return
	}
	go func() {
		ctx, cancel := background(maxUpgrade + upgradeSlack)
		defer cancel()
		st, ok := dom.decided(ctx, r.id)
		dom.d.settleUpgrade(r, ok && st.Upgraded == u.token)
	}()
}

// upgrade asks whether the bearer may end a program of the agent and start another.
func (a *asked) upgrade(m *apiv1.UpgradeRequest) error {
	if err := a.may(token.OpExec, &m.Agent); err != nil {
		return err
	}
	return a.may(token.OpSignal, &m.Agent)
}
