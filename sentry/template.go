package sentry

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel/pipe"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// A template is an agent that stands still for good once its program is warm: has
// imported its modules and read its tables. It keeps its memory, its files and its
// place in the ledger, and no task of it runs again. Others begin as copies of it
// (templatestart.go).
//
// The program says that it is warm through /aios/self/template, or by what it
// writes; one that waits for its standard input has nothing left to do either. The
// copy's first step is the return of that call.

// warmUp is how an agent becomes a template.
type warmUp struct {
	control.WarmUp
	grants []control.Grant

	once sync.Once
	warm chan struct{} // closed when it is warm

	// brkMu is held while a heap grows.
	brkMu sync.Mutex

	mu   sync.Mutex
	tail []byte // what it wrote last, at most maxTail bytes; +checklocks:mu

	done chan struct{}     // closed when it is a template, or never becomes one
	what control.WarmReply // immutable after done, as the next
	err  error
}

// maxTail is how much of its output is told of a program that fails.
const maxTail = 2 << 10

// newWarmUp returns nil for an agent that is not to become a template.
func newWarmUp(req control.SpawnRequest) *warmUp {
	if req.Template == nil {
		return nil
	}
	return &warmUp{WarmUp: *req.Template, grants: req.Grants, warm: make(chan struct{}), done: make(chan struct{})}
}

// isWarm says that the program is warm.
func (w *warmUp) isWarm() { w.once.Do(func() { close(w.warm) }) }

// wrote notes what the program has written.
func (w *warmUp) wrote(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tail = append(w.tail, p...)
	if w.Output != "" && bytes.Contains(w.tail, []byte(w.Output)) {
		w.isWarm()
	}
	// What comes next may complete a text that has begun.
	if over := len(w.tail) - max(maxTail, len(w.Output)); over > 0 {
		w.tail = append(w.tail[:0], w.tail[over:]...)
	}
}

// lastWords is what it wrote last, for a message.
func (w *warmUp) lastWords() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := bytes.TrimSpace(w.tail)
	if len(text) == 0 {
		return "; it wrote nothing"
	}
	return "; it wrote:\n" + string(text)
}

// warmUp waits until the agent is warm and makes a template of it, or ends it.
func (a *Agent) warmUp() {
	w, clock := a.warming, a.s.cfg.Clock
	began := clock.Now()
	late := make(chan struct{})
	timer := clock.AfterFunc(w.Timeout, func() { close(late) })
	defer timer.Stop()
	defer a.s.warmers.Add(-1)
	select {
	case <-w.warm:
		w.what.Took = clock.Since(began)
		if w.what.Tasks, w.err = a.becomeTemplate(); w.err != nil {
			a.kill("it could not become a template: " + w.err.Error())
			<-a.told
		}
	case <-a.told:
		w.err = a.notReady(fmt.Sprintf("it ended %s before it was warm", howItEnded(a.exited())))
	case <-late:
		why := fmt.Sprintf("it was not warm after %v", w.Timeout)
		a.kill(why)
		<-a.told
		w.err = a.notReady(why)
	}
	close(w.done)
}

func (a *Agent) exited() control.Exit {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.exit == nil {
		return control.Exit{}
	}
	return *a.exit
}

func howItEnded(e control.Exit) string {
	switch {
	case e.Reason != "":
		return "(" + e.Reason + ")"
	case e.Signal != 0:
		return fmt.Sprintf("by signal %d", e.Signal)
	}
	return fmt.Sprintf("with status %d", e.Code)
}

func (a *Agent) notReady(why string) error {
	return errdefs.New(errdefs.TemplateNotReady, why+a.warming.lastWords())
}

// Warm waits until an agent that was spawned to become a template is one, or never
// will be.
func (s *Kernel) Warm(req control.AgentRequest) (control.WarmReply, error) {
	a, err := s.agent(req.ID)
	if err != nil {
		return control.WarmReply{}, err
	}
	w := a.warming
	if w == nil {
		return control.WarmReply{}, errdefs.New(errdefs.WrongState, "the agent was not spawned to become a template", errdefs.Resource("%s", a.id))
	}
	<-w.done
	return w.what, w.err
}

// notTemplate refuses what cannot be done to a template.
func (a *Agent) notTemplate() error {
	a.mu.Lock()
	is := a.state == abi.StateTemplate
	a.mu.Unlock()
	if is {
		return a.mustBe()
	}
	return nil
}

// becomeTemplate stops the agent for good, at a moment at which it can be copied.
func (a *Agent) becomeTemplate() (tasks uint32, err error) {
	late := a.s.cfg.Clock.Now().Add(cloneTimeout)
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		tasks, busy, err := a.freezeForGood()
		if busy == "" || err != nil && a.s.cfg.Clock.Now().After(late) {
			return tasks, err
		}
		if a.s.cfg.Clock.Now().After(late) {
			return 0, errdefs.New(errdefs.WrongState, "the agent is at no point at which it could be copied: "+busy, errdefs.Op("template"),
				errdefs.Resource("%s", a.id))
		}
		nap(a.s.cfg.Clock, pause)
	}
}

// freezeForGood makes a template of the agent. It makes a copy, none of which runs:
// what cannot be copied is found now, and not when somebody needs it.
func (a *Agent) freezeForGood() (tasks uint32, busy string, err error) {
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if err := a.mustBe(abi.StateRunning); err != nil {
		return 0, "", err
	}
	if a.dying.Load() || a.debugger.Load() != nil {
		return 0, "", errdefs.New(errdefs.WrongState, "the agent is being killed, or debugged", errdefs.Op("template"), errdefs.Resource("%s", a.id))
	}
	if err = a.freeze(); err == nil {
		busy, err = a.keepFamily(a.warming.grants)
	}
	if busy != "" || err != nil {
		a.thaw(nil)
		return 0, busy, err
	}
	a.dog.hold()
	a.setState(abi.StateTemplate)
	a.keepAhead()
	tasks = uint32(len(a.family.twins))
	a.s.emit(a, event.AgentTemplate, &eventv1.AgentTemplate{Name: a.name, Tasks: tasks, WarmNanos: int64(a.warming.what.Took)})
	return tasks, "", nil
}

// keepFamily notes by what the agent, which stands still for good, is copied, after
// it has tried that.
//
// +checklocks:a.lifeMu
func (a *Agent) keepFamily(grants []control.Grant) (busy string, err error) {
	f, busy, err := a.survey(nil)
	if busy != "" || err != nil {
		return busy, err
	}
	defer a.readTold()
	trial := control.SpawnRequest{ID: string(abi.NewAgentID()), From: a.id, DiskBytes: a.ns.root.disk, Process: control.Process{Stdin: true}}
	for _, g := range grants { // What it takes to open again what is open.
		spec, err := capability.ParseSpec(g.Spec)
		if err != nil {
			return "", err
		}
		if c := spec.Object.Class; c == abi.ClassFS || c == abi.ClassRegion {
			trial.Grants = append(trial.Grants, g)
		}
	}
	log, err := a.log.dup()
	if err != nil {
		return "", err
	}
	defer log.Close()
	ns := a.s.newNamespaces()
	c, err := a.copyAs(f, ns, trial, log, 1)
	switch {
	case c == nil:
		a.s.releaseShell(ns)
	case err == nil:
		c.undo()
	}
	if err != nil {
		return f.busy, err
	}
	f.forget()
	a.family = f
	return "", nil
}

// dup returns another descriptor of the log's file.
func (l *agentLog) dup() (*os.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil, errdefs.New(errdefs.AgentNotRunning, "the log is closed")
	}
	return dupFile(l.f)
}

// waitsForInput notes that a task of an agent that becomes a template is about to
// wait for file: if that is its standard input, nobody will write to it.
func (a *Agent) waitsForInput(file *vfs.FileDescription) {
	r, ok := file.Impl().(*pipe.VFSPipeFD)
	p, err := a.process(0)
	if !ok || err != nil || a.warming.Output != "" {
		return
	}
	p.console.mu.Lock()
	in := p.console.in
	is := in != nil && in.Impl().(*pipe.VFSPipeFD).Pipe() == r.Pipe()
	p.console.mu.Unlock()
	if is {
		a.warming.isWarm()
	}
}
