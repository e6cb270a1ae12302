package sentry

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"weak"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/threeway"
)

// A copy is folded back into its original: both stand still, and what the copy has
// changed in its files since it was made is done to the original's.
//
//	what changed   by the list of what there was   mergebase.go, mergenotes.go
//	what to do     three ways                      threeway, mergetree.go
//	doing it       all of it or nothing            mergeapply.go
//	regions        those that are named            mergeregions.go
//
// The original's files are changed through the file systems that its programs see,
// never behind them. Then the copy ends, and what it had of the original's budget
// goes back with its capabilities.

// origin is what an agent is a copy of. An original that has ended, or was started
// again, is none.
type origin = weak.Pointer[Agent]

// mostListed is how many changes and conflicts an answer lists of each.
const mostListed = 10000

// merging is a merge at work.
type merging struct {
	s            *Kernel
	req          control.MergeRequest
	ctx          context.Context // of ours: what is written is charged to it
	ours, theirs *Agent
	parts        []*mergeTree
	staged       uint64 // bytes
	undo         []func() error
	steps        int
	regions      control.MergeReply // what is to be said of them
}

// Merge folds a copy into its original.
func (s *Kernel) Merge(req control.MergeRequest) (control.MergeReply, error) {
	var reply control.MergeReply
	theirs, err := s.agent(req.ID)
	if err != nil {
		return reply, err
	}
	ours, err := s.originOf(theirs, req.Into)
	if err != nil {
		return reply, err
	}
	reply, ended, err := s.mergeInto(ours, theirs, req)
	if ended {
		theirs.unpause("")
		<-theirs.gone // What it had is the original's.
	}
	s.trail.flushSoon()
	return reply, err
}

// originOf returns the agent that a is a copy of.
func (s *Kernel) originOf(a *Agent, want string) (*Agent, error) {
	if a.ns.base == nil {
		return nil, errdefs.New(errdefs.WrongState, "the agent is no copy", errdefs.Op("merge"), errdefs.Resource("%s", a.id),
			errdefs.Fix("name a copy that `aiosctl clone` has made"))
	}
	o := a.origin.Value()
	if o == nil || o.mustBe(abi.StateRunning, abi.StatePaused) != nil {
		return nil, errdefs.New(errdefs.AgentNotRunning, "the agent that it is a copy of has ended", errdefs.Op("merge"), errdefs.Resource("%s", a.id),
			errdefs.Fix("take what you need of it with `aiosctl exec`"))
	}
	if !reflect.DeepEqual(o.ns.root.Root, a.ns.root.Root) {
		return nil, errdefs.New(errdefs.WrongState, "the agent that it is a copy of has another image since", errdefs.Op("merge"), errdefs.Resource("%s", a.id),
			errdefs.Fix("take what you need of it with `aiosctl exec`"))
	}
	if want != "" && want != o.id {
		return nil, errdefs.New(errdefs.InvalidArgument, "it is a copy of "+o.id+", not of "+want, errdefs.Op("merge"), errdefs.Resource("%s", a.id),
			errdefs.Fix("merge a copy of a copy into that first"))
	}
	return o, nil
}

// mergeInto merges with both agents stopped. It reports whether theirs was killed.
// Of two agents the original's lock is taken first, as when it is cloned.
func (s *Kernel) mergeInto(ours, theirs *Agent, req control.MergeRequest) (reply control.MergeReply, ended bool, err error) {
	ours.lifeMu.Lock()
	defer ours.lifeMu.Unlock()
	theirs.lifeMu.Lock()
	defer theirs.lifeMu.Unlock()
	reply.Into = ours.id
	began := s.cfg.Clock.Now()
	for _, a := range []*Agent{ours, theirs} {
		if err := a.mustBe(abi.StateRunning, abi.StatePaused); err != nil {
			return reply, false, err
		}
		if a.dying.Load() {
			return reply, false, errdefs.New(errdefs.AgentNotRunning, "the agent is being killed", errdefs.Op("merge"), errdefs.Resource("%s", a.id))
		}
		if a.debugger.Load() != nil {
			return reply, false, errdefs.New(errdefs.WrongState, "the agent is being debugged", errdefs.Op("merge"), errdefs.Resource("%s", a.id),
				errdefs.Fix("end the debugger first"))
		}
		if a.mustBe(abi.StatePaused) == nil {
			continue
		}
		a.dog.hold()
		defer a.dog.release()
		defer a.thaw(nil)                  // +checklocksignore: it is one of the two.
		if err := a.freeze(); err != nil { // +checklocksignore: it is one of the two.
			return reply, false, err
		}
	}
	m := &merging{s: s, req: req, ctx: s.context(ours.ns, s.creds, ours.memID), ours: ours, theirs: theirs}
	defer m.close()
	if err := m.decide(); err != nil {
		return reply, false, err
	}
	folds, err := m.folds(true) // Others may have them, and are to see nothing that is taken back.
	if err != nil {
		return reply, false, err
	}
	undoFolds(folds)
	m.report(&reply)
	refused := reply.ConflictCount > 0 && req.Conflicts != "ours" && req.Conflicts != "theirs"
	if refused || req.DryRun {
		reply.Pause = s.cfg.Clock.Since(began)
		return reply, false, nil
	}
	if folds, err = m.folds(false); err != nil {
		return reply, false, err
	}
	if m.regions.ConflictCount > 0 && req.Conflicts == "" {
		err = errdefs.New(errdefs.WrongState, "another agent has changed a region meanwhile", errdefs.Op("merge"), errdefs.Resource("%s", theirs.id),
			errdefs.Fix("try again, or pause it"))
	} else {
		err = m.apply()
	}
	if err != nil {
		undoFolds(folds)
		return reply, false, err
	}
	for _, f := range folds {
		f.Keep()
		m.staged += f.Changed
	}
	reply.Merged, reply.Pause = true, s.cfg.Clock.Since(began)
	s.emitFor(ours, event.AgentMerge, &eventv1.AgentMerge{
		Copy: theirs.id, Name: theirs.name, Changes: uint32(reply.ChangeCount), Bytes: m.staged,
		Conflicts: uint32(reply.ConflictCount), Decided: req.Conflicts, PauseNanos: int64(reply.Pause),
	}, req.Actor.Correlation)
	theirs.killMerged("merged into " + cmp.Or(ours.name, ours.id))
	return reply, true, nil
}

// killMerged ends a copy whose tasks stand still.
func (a *Agent) killMerged(reason string) {
	a.killed.CompareAndSwap(nil, &reason)
	a.dying.Store(true)
	a.s.emit(a, event.AgentKill, &eventv1.AgentKill{By: "kernel", Reason: reason})
	for _, tg := range a.ns.pid().ThreadGroups() {
		a.s.k.SendExternalSignalThreadGroup(tg, kernel.SignalInfoPriv(linux.SIGKILL)) // Fails for those that have ended.
	}
}

func (m *merging) close() {
	for _, t := range m.parts {
		t.close()
	}
}

// decide finds out what there is to do.
func (m *merging) decide() error {
	if m.theirs.ns.base.files == nil {
		return errdefs.New(errdefs.Unsupported, "the copy had too many files when it was made to be merged", errdefs.Op("merge"),
			errdefs.Resource("%s", m.theirs.id), errdefs.Fix("take what you need of it with `aiosctl exec`"))
	}
	var nodes [2][]*treeNode
	for i, a := range []*Agent{m.ours, m.theirs} {
		root := vfs.MakeVirtualDentry(a.ns.upper, a.ns.upper.Root())
		c := m.s.newTreeCopier(m.ctx, root, root)
		if err := c.walk(""); err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "list the agent's files", errdefs.Resource("%s", a.id))
		}
		nodes[i] = c.nodes
	}
	if err := m.trees(); err != nil {
		return err
	}
	for _, t := range m.parts {
		if err := t.decide(nodes[0], nodes[1]); err != nil {
			return err
		}
		for _, s := range t.plan.Steps {
			if at := m.granted(t.target + s.Path); s.Op == threeway.Remove && at != "" {
				return errdefs.New(errdefs.WrongState, "the copy has deleted "+t.target+s.Path+", in which the agent has a directory that was granted", errdefs.Op("merge"),
					errdefs.Resource("%s", at), errdefs.Fix("revoke that grant first"))
			}
		}
	}
	return nil
}

// granted returns where the original has a granted directory at or below a path.
func (m *merging) granted(p string) string {
	a := m.ours
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	for _, g := range a.grants {
		if at := g.view.at; at == p || strings.HasPrefix(at, p+"/") {
			return at
		}
	}
	return ""
}

// report tells what there is to do.
func (m *merging) report(r *control.MergeReply) {
	r.Changes, r.ChangeCount = append(r.Changes, m.regions.Changes...), r.ChangeCount+m.regions.ChangeCount
	r.Conflicts, r.ConflictCount = append(r.Conflicts, m.regions.Conflicts...), r.ConflictCount+m.regions.ConflictCount
	for _, t := range m.parts {
		at := make(map[string]int)
		for _, s := range t.plan.Steps {
			c := control.MergeChange{Path: t.target + s.Path, Change: changeOf(s)}
			if s.Is.Kind == threeway.File {
				c.Bytes = s.Is.Size
			}
			if i, ok := at[s.Path]; ok && s.Op != threeway.Remove { // It is removed first.
				if i < len(r.Changes) {
					c.Change = "modified"
					r.Changes[i] = c
				}
				continue
			}
			at[s.Path] = len(r.Changes)
			if r.ChangeCount++; len(r.Changes) < mostListed {
				r.Changes = append(r.Changes, c)
			}
		}
		for _, c := range t.plan.Conflicts {
			if r.ConflictCount++; len(r.Conflicts) < mostListed {
				r.Conflicts = append(r.Conflicts, control.MergeConflict{Path: t.target + c.Path, Kind: string(c.Clash)})
			}
		}
	}
	slices.SortFunc(r.Changes, func(x, y control.MergeChange) int { return cmp.Compare(x.Path, y.Path) })
	slices.SortFunc(r.Conflicts, func(x, y control.MergeConflict) int { return cmp.Compare(x.Path, y.Path) })
}

func changeOf(s threeway.Step) string {
	switch {
	case s.Op == threeway.Remove:
		return "deleted"
	case s.Op == threeway.Say:
		return "attributes"
	case s.Was.Kind == threeway.Absent:
		return "added"
	default:
		return "modified"
	}
}
