package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/host"
	"aios.dev/aios/host/box"
	"aios.dev/aios/recovery"
)

// Semantic memory is a service: a process of its own, which the daemon starts when
// it is first asked, and again when it has ended. It listens at a socket that the
// daemon holds, so that questions wait while it starts.

const componentMemory = "semantic memory"

// memoryStops is how long the service may take to end.
const memoryStops = 10 * time.Second

// memoryProcess is what the daemon knows of the service.
type memoryProcess struct {
	d      *System
	client *http.Client
	budget *recovery.Budget

	mu       sync.Mutex
	listener *net.UnixListener // +checklocks:mu
	running  *exec.Cmd         // +checklocks:mu
	life     *os.File          // +checklocks:mu
	ended    chan struct{}     // +checklocks:mu
	stopped  bool              // +checklocks:mu
	// Until when it is not started, having ended too often; and how it ended.
	notBefore time.Time // +checklocks:mu
	last      error     // +checklocks:mu
}

func (d *System) openMemory() {
	m := &d.memory
	m.d = d
	m.budget = recovery.NewBudget(recovery.BudgetConfig{Clock: d.clock}, recovery.BudgetState{})
	m.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dial net.Dialer
			return dial.DialContext(ctx, "unix", d.memorySocket())
		},
		MaxIdleConnsPerHost: 16, MaxConnsPerHost: 64,
	}}
}

func (d *System) memorySocket() string {
	return filepath.Join(filepath.Dir(d.paths.Socket), "semantic.sock")
}

// ensure has the service run.
func (m *memoryProcess) ensure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.stopped:
		return errdefs.New(errdefs.ServiceDown, "the daemon is ending", errdefs.Op("memory"))
	case m.running != nil:
		return nil
	case m.d.clock.Now().Before(m.notBefore):
		return errdefs.New(errdefs.ServiceDown, "semantic memory has ended too often, at last so: "+m.last.Error(), errdefs.Op("memory"),
			errdefs.Delay(m.notBefore.Sub(m.d.clock.Now())), errdefs.Fix("see what the daemon has logged: `aiosctl daemon status` says where"))
	}
	err := m.startLocked()
	if err != nil {
		m.d.log.Error("starting semantic memory", "err", err)
		m.endedLocked(err)
	}
	return err
}

// examine says how the service is, and starts nothing.
func (m *memoryProcess) examine() host.Finding {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := host.Finding{Name: componentMemory, Status: host.OK, What: "does not run; it is started when it is first asked"}
	switch {
	case m.running != nil:
		f.What = "runs, pid " + strconv.Itoa(m.running.Process.Pid)
	case m.last != nil && m.d.clock.Now().Before(m.notBefore):
		f.Status, f.What = host.Degraded, "its process ended: "+reasonOf(m.last)
		f.Effect = "what is asked of it is refused with SERVICE_DOWN until it is started again"
		f.Fix = "see what the daemon has logged: `aiosctl daemon status` says where"
	}
	return f
}

// startLocked starts the process.
//
// +checklocks:m.mu
func (m *memoryProcess) startLocked() error {
	d := m.d
	dir := filepath.Join(d.paths.StateDir, "semantic")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return errdefs.Wrap(err, errdefs.HostIO, "start semantic memory")
	}
	if m.listener == nil {
		path := d.memorySocket()
		os.Remove(path) // Left by a daemon that was killed.
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return errdefs.Wrap(err, errdefs.HostIO, "listen", errdefs.Resource("%s", path))
		}
		if err := os.Chmod(path, 0o600); err != nil { // The directory is the user's alone.
			l.Close()
			return errdefs.Wrap(err, errdefs.HostIO, "listen", errdefs.Resource("%s", path))
		}
		m.listener = l
	}
	var all files
	defer all.close()
	root := all.add(os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0))
	sock := all.add(m.listener.File())
	logFile := all.add(os.OpenFile(d.paths.LogFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600))
	lifeR, life, err := os.Pipe()
	all.add(lifeR, err)
	if all.err != nil {
		if life != nil {
			life.Close()
		}
		return errdefs.Wrap(all.err, errdefs.HostIO, "start semantic memory")
	}
	cmd := exec.Command(selfExe)
	cmd.Args = []string{"aiosd", "semanticd"}
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.Stderr = logFile
	cmd.ExtraFiles = []*os.File{root, sock, lifeR} // semantic.DirFD and those that follow.
	box.PrepareGofer(cmd)
	if err := cmd.Start(); err != nil {
		life.Close()
		return errdefs.Wrap(err, errdefs.HostIO, "start semantic memory")
	}
	m.running, m.life, m.ended = cmd, life, make(chan struct{})
	m.budget.Started()
	d.log.Info("semantic memory runs", "pid", cmd.Process.Pid)
	go m.await(cmd, life, m.ended)
	return nil
}

// await collects the process, and starts it again if nobody wanted it to end.
func (m *memoryProcess) await(cmd *exec.Cmd, life *os.File, ended chan struct{}) {
	err := cmd.Wait()
	life.Close()
	close(ended)
	m.client.CloseIdleConnections()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running = nil
	if m.stopped {
		return
	}
	if err == nil {
		err = errdefs.New(errdefs.ServiceDown, "it ended by itself")
	}
	m.d.log.Error("semantic memory ended", "err", err)
	m.endedLocked(err)
}

// endedLocked has it started again when its budget allows.
//
// +checklocks:m.mu
func (m *memoryProcess) endedLocked(err error) {
	wait, ok := m.budget.Ended()
	c := recovery.Component{Name: componentMemory, Level: recovery.Degraded, Reason: "its process ended: " + err.Error(), Fix: "it is started again"}
	if !ok {
		wait = recovery.DefaultWindow
		c.Fix = "see what the daemon has logged"
	}
	m.last, m.notBefore = err, m.d.clock.Now().Add(wait)
	m.d.health.Set(c)
	m.d.clock.AfterFunc(wait, func() {
		if m.ensure() == nil {
			m.d.health.Remove(componentMemory)
		}
	})
}

// ask puts a question.
func (m *memoryProcess) ask(ctx context.Context, q *semantic.Request) (*semantic.Reply, error) {
	if err := m.ensure(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(q)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "memory "+q.Op)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://semantic/", bytes.NewReader(body))
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "memory "+q.Op)
	}
	resp, err := m.client.Do(req)
	var ans semantic.Answer
	if err == nil {
		defer resp.Body.Close()
		err = json.NewDecoder(resp.Body).Decode(&ans)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, errdefs.Wrap(ctx.Err(), errdefs.Timeout, "memory "+q.Op)
	case err != nil:
		return nil, errdefs.New(errdefs.ServiceDown, "semantic memory ended while it was asked", errdefs.Op("memory "+q.Op), errdefs.Cause(err))
	case ans.Error != nil:
		return nil, ans.Error.Err()
	case ans.Reply == nil:
		return nil, errdefs.New(errdefs.Protocol, "semantic memory answered nothing", errdefs.Op("memory "+q.Op))
	}
	return ans.Reply, nil
}

// stop ends the service, which saves its indexes.
func (m *memoryProcess) stop() {
	m.mu.Lock()
	m.stopped = true
	cmd, life, ended, l := m.running, m.life, m.ended, m.listener
	m.mu.Unlock()
	if l != nil {
		defer l.Close()
	}
	if cmd == nil {
		return
	}
	life.Close()
	late := make(chan struct{})
	t := m.d.clock.AfterFunc(memoryStops, func() { close(late) })
	defer t.Stop()
	select {
	case <-ended:
	case <-late:
		cmd.Process.Kill() // What it answered to is on disk.
		<-ended
	}
}

// memoryFor asks for an agent of a domain. That it is one, and what it is called,
// the daemon knows better than the kernel process; what it holds is the kernel's
// to say.
func (d *System) memoryFor(ctx context.Context, dom *domain, q *semantic.Request) (*semantic.Reply, error) {
	d.mu.Lock()
	r := d.agents[q.Caller.Agent]
	d.mu.Unlock()
	if r == nil {
		return nil, errdefs.New(errdefs.AgentNotFound, "no such agent", errdefs.Op("memory "+q.Op), errdefs.Resource("%s", q.Caller.Agent))
	}
	r.mu.Lock()
	in := r.domain
	r.mu.Unlock()
	if in != dom {
		return nil, errdefs.New(errdefs.Denied, "the agent is in another domain", errdefs.Op("memory "+q.Op), errdefs.Resource("%s", q.Caller.Agent))
	}
	q.Caller.Name, q.Caller.Domain = r.name, dom.name
	return d.memory.ask(ctx, q)
}
