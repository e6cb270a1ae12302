package sentry

import (
	"encoding/json"
	"os"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// agentPast is what an agent is a copy of.
type agentPast struct {
	copies uint64 // how often it, and what it is a copy of, was copied
	from   string // the ID of the agent that it is a copy of, or ""
	// Of a template: its name, and what the copy was told to do.
	template string
	job      job
}

// next is the past of a copy of the agent of that ID.
func (p agentPast) next(id string) agentPast {
	return agentPast{copies: p.copies + 1, from: id, template: p.template, job: p.job}
}

// job is what /aios/self/job says.
type job struct {
	Args []string          `json:"args"`
	Env  map[string]string `json:"env"`
	Cwd  string            `json:"cwd,omitempty"`
}

// newJob makes a job of what was asked for.
func newJob(p control.Process) job {
	j := job{Args: append([]string{}, p.Argv...), Env: make(map[string]string), Cwd: p.Cwd}
	for _, e := range p.Env {
		k, v, _ := strings.Cut(e, "=")
		j.Env[k] = v
	}
	return j
}

// text is the file.
func (j job) text() ([]byte, error) {
	if j.Args == nil {
		j = newJob(control.Process{})
	}
	raw, err := json.Marshal(j)
	return append(raw, '\n'), errdefs.Wrap(err, errdefs.Internal, "encode")
}

// spawnFrom begins an agent as a copy of a template. It owns log and stream.
func (s *Kernel) spawnFrom(req control.SpawnRequest, log, stream *os.File) error {
	defer log.Close()
	t, err := s.agent(req.From)
	if errdefs.CodeOf(err) == errdefs.AgentNotFound {
		err = errdefs.New(errdefs.TemplateNotFound, "no such template in the domain", errdefs.Resource("%s", req.From))
	}
	var ns *namespaces
	var c *copying
	if err == nil {
		ns = s.newNamespaces()
		if c, err = t.copyFrom(req, ns, log); c == nil {
			s.releaseShell(ns)
		}
	}
	if err != nil {
		closeFile(stream)
		return err
	}
	a := c.dst
	p, err := a.process(0)
	if err == nil && stream != nil {
		p.console.mu.Lock()
		stdin := req.Process.Stdin && p.console.in != nil
		p.console.mu.Unlock()
		err = p.console.attach(stream, stdin, true)
	} else {
		closeFile(stream)
	}
	if err != nil {
		c.undo()
		return err
	}
	c.run(abi.StateRunning)
	if s.events.Enabled(event.AgentSpawn) {
		s.emitFor(a, event.AgentSpawn, &eventv1.AgentSpawn{
			Name: a.name, Args: event.Args(req.Process.Argv), Uid: uint32(p.tg.Leader().Credentials().EffectiveKUID), Template: t.id,
		}, req.Actor.Correlation)
	}
	s.trail.flushSoon()
	return nil
}

// copyFrom makes a copy of the template, none of whose tasks runs yet. If it fails and
// returns a copying, that has taken ns over and was undone.
func (a *Agent) copyFrom(req control.SpawnRequest, ns *namespaces, log *os.File) (*copying, error) {
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if err := a.mustBe(abi.StateTemplate); err != nil {
		return nil, err
	}
	if a.dying.Load() {
		return nil, errdefs.New(errdefs.TemplateNotFound, "the template is being removed", errdefs.Resource("%s", a.id))
	}
	if used := a.disk(); req.DiskBytes > 0 && req.DiskBytes < used+leastCopyDisk {
		return nil, errdefs.New(errdefs.BudgetExhausted, "the template's own files leave nothing of the disk that the agent is to have", errdefs.Op("spawn"),
			errdefs.Resource("%s", a.id), errdefs.Fix("give it at least %d bytes", used+leastCopyDisk))
	}
	f, err := a.kin()
	if err != nil {
		return nil, err
	}
	c, err := a.copyAs(f, ns, req, log, 1)
	f.forget()
	return c, err
}

// kin returns by what the template is copied. One that is a copy of an agent, or comes
// from a checkpoint, has not been looked at yet: its tasks were only just started.
//
// +checklocks:a.lifeMu
func (a *Agent) kin() (*family, error) {
	if f := a.family; f != nil {
		f.busy = ""
		return f, nil
	}
	a.awaitStops()
	a.readTold() // It had read all when it was stopped.
	f, busy, err := a.survey(nil)
	if busy != "" {
		err = errdefs.New(errdefs.WrongState, "the template cannot be copied: "+busy, errdefs.Op("spawn"), errdefs.Resource("%s", a.id))
	}
	if err == nil {
		a.family = f
	}
	return f, err
}

// endow gives a copy of a template what it was granted, which is all that it may do.
func (c *copying) endow(by capability.Actor) error {
	dst, req := c.dst, c.fresh
	if c.s.space.HolderClosed(c.src.id) {
		return errdefs.New(errdefs.AgentSealed, "the template was made of an agent that was specialised: what begins from it cannot be granted anything", errdefs.Op("spawn"),
			errdefs.Resource("%s", c.src.label()), errdefs.Fix("make the template of the agent that it was specialised from"))
	}
	dst.past.template, dst.past.job = c.src.label(), newJob(req.Process)
	if err := dst.setOOM(req.OnOOM); err != nil {
		return err
	}
	if err := dst.setPolicies(req.OnFault, req.OnViolation); err != nil {
		return err
	}
	if err := dst.dog.init(dst, time.Duration(req.Watchdog), req.OnWatchdog); err != nil {
		return err
	}
	return dst.endow(req.Grants, by)
}

// label is how the agent is named to people.
func (a *Agent) label() string {
	if a.name != "" {
		return a.name
	}
	return a.id
}

// tellCopies sends SIGAIOSCLONE to the processes of the copy that have asked for it
// and expect it: a program that was started since knows nothing of it.
func (c *copying) tellCopies() {
	for _, g := range c.f.groups {
		if g.leader.zombie || !c.src.notes.wantsSignal(g.old) {
			continue
		}
		c.dst.notes.setSignal(g.new, true)
		act, err := g.new.SetSigAction(linux.Signal(abi.SignalCloned), nil)
		if blocked := g.leader.new.SignalMask()&linux.SignalSetOf(abi.SignalCloned) != 0; err == nil && (act.Handler != linux.SIG_DFL || blocked) {
			g.leader.new.SendGroupSignal(&linux.SignalInfo{Signo: abi.SignalCloned, Code: linux.SI_KERNEL})
		}
	}
}

// setSignal notes whether a process wants to hear that it is a copy.
func (n *cloneNotes) setSignal(tg *kernel.ThreadGroup, want bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !want {
		delete(n.signals, tg)
		return
	}
	if n.signals == nil {
		n.signals = make(map[*kernel.ThreadGroup]bool)
	}
	n.signals[tg] = true
}

func (n *cloneNotes) wantsSignal(tg *kernel.ThreadGroup) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.signals[tg]
}
