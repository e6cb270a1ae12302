package daemon

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/config"
	"aios.dev/aios/control"
	"aios.dev/aios/crash"
	"aios.dev/aios/images"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// newSystem returns a daemon that serves nobody, over the state directory dir.
func newSystem(t testing.TB, dir string, clock ktime.Clock) *System {
	t.Helper()
	paths, err := config.Resolve(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := paths.Prepare(); err != nil {
		t.Fatal(err)
	}
	store, err := images.OpenStore(paths.Images, ktime.Real)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	// Of its own: tests have several daemons over one directory.
	trail, err := audit.Open(t.TempDir(), audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { trail.Close() })
	crashes, err := crash.OpenStore(t.TempDir(), clock, crash.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	d := &System{
		trail: trail, crashes: crashes,
		paths: paths, instance: instanceOf(paths.StateDir), clock: clock, images: store,
		log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
		started: clock.Now(),
		domains: make(map[string]*domain),
		agents:  make(map[string]*record),
		names:   make(map[string]*record),
	}
	d.dogs = newDaemonDogs(recovery.WatchdogConfig{Clock: clock, Tick: dogTick})
	d.dogs.d.Store(d)
	t.Cleanup(d.dogs.set.Close)
	d.openHealth()
	if err := d.openEvents(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.events.Close() })
	return d
}

// shortDir returns a directory whose sockets have short paths.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "aios")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// call is a request that a fake kernel process got.
type call struct {
	method string
	id     string
	signal int32
}

// fakeKernel answers like a kernel process whose agents are a list.
type fakeKernel struct {
	t        testing.TB
	server   *control.Server
	listener *net.UnixListener
	process  *exec.Cmd // stands for the process, to be killed
	exited   chan struct{}

	mu     sync.Mutex
	agents []control.AgentStatus            // guarded by mu
	calls  []call                           // guarded by mu
	spawn  func(control.SpawnRequest) error // guarded by mu; nil: it works
	hook   func(method string)              // guarded by mu; before each answer
}

// startKernel makes a fake kernel process of the domain name, where d expects
// it, and the file by which d finds it.
func startKernel(t testing.TB, d *System, name string) *fakeKernel {
	t.Helper()
	k := &fakeKernel{t: t, exited: make(chan struct{})}
	k.process = exec.Command("sleep", "1000")
	if err := k.process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		k.process.Wait()
		close(k.exited)
	}()
	var err error
	if k.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: d.socketOf(name), Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	k.listener.SetUnlinkOnClose(false)
	none := struct{}{}
	handlers := map[string]control.Handler{
		control.MethodList: control.Handle(func(struct{}) (control.ListReply, error) {
			k.note(call{method: control.MethodList})
			k.mu.Lock()
			defer k.mu.Unlock()
			return control.ListReply{Agents: slices.Clone(k.agents)}, nil
		}),
		control.MethodSpawn: control.HandleFiles(func(r control.SpawnRequest, files []*os.File) (struct{}, error) {
			for _, f := range files {
				f.Close()
			}
			k.note(call{method: control.MethodSpawn, id: r.ID})
			k.mu.Lock()
			spawn := k.spawn
			k.mu.Unlock()
			if spawn != nil {
				return none, spawn(r)
			}
			return none, nil
		}),
		control.MethodMount: control.HandleFiles(func(_ control.MountRequest, files []*os.File) (struct{}, error) {
			files[0].Close()
			return none, nil
		}),
		control.MethodSignal: control.Handle(func(r control.SignalRequest) (struct{}, error) {
			k.note(call{control.MethodSignal, r.ID, r.Signal})
			return none, nil
		}),
		control.MethodForget: control.Handle(func(r control.AgentRequest) (struct{}, error) {
			k.note(call{method: control.MethodForget, id: r.ID})
			return none, nil
		}),
		control.MethodAccounts: control.Handle(func(struct{}) (control.AccountsReply, error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			r := control.AccountsReply{Agents: make(map[string]account.Snapshot)}
			for _, a := range k.agents {
				var s account.Snapshot
				s.Tasks.Now = 1
				r.Agents[a.ID] = s
			}
			return r, nil
		}),
		control.MethodShutdown: control.Handle(func(control.ShutdownRequest) (struct{}, error) {
			k.note(call{method: control.MethodShutdown})
			ktime.Real.AfterFunc(10*time.Millisecond, k.die)
			return none, nil
		}),
	}
	k.server = control.NewServer(func() control.HelloReply {
		return control.HelloReply{Version: abi.ProtocolVersion, Domain: name, Platform: "fake", PID: k.process.Process.Pid}
	}, handlers)
	go k.server.Serve(k.listener)
	if err := d.saveDomain(k.info(d, name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.die)
	return k
}

// die is the death of the process, as far as its sockets show it.
func (k *fakeKernel) die() {
	k.listener.Close()
	k.cut()
	k.process.Process.Kill()
	<-k.exited
}

// cut ends the connections, and no more.
func (k *fakeKernel) cut() {
	path := k.listener.Addr().String()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		k.t.Error(err)
	}
	for _, e := range fds {
		fd, _ := strconv.Atoi(e.Name())
		if sa, err := unix.Getsockname(fd); err == nil {
			listens, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
			if u, ok := sa.(*unix.SockaddrUnix); ok && u.Name == path && listens == 0 {
				unix.Shutdown(fd, unix.SHUT_RDWR)
			}
		}
	}
}

func (k *fakeKernel) info(d *System, name string) domainInfo {
	pid := k.process.Process.Pid
	return domainInfo{Name: name, Socket: d.socketOf(name), PID: pid, StartTick: startTick(pid), Started: d.clock.Now()}
}

// set changes how the process answers.
func (k *fakeKernel) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

func (k *fakeKernel) note(c call) {
	k.mu.Lock()
	k.calls = append(k.calls, c)
	hook := k.hook
	k.mu.Unlock()
	if hook != nil {
		hook(c.method)
	}
}

// heard waits until the process got that request.
func (k *fakeKernel) heard(t testing.TB, want call) {
	t.Helper()
	eventually(t, "request "+want.method, func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return slices.Contains(k.calls, want)
	})
}

// quiet checks that a call does not come soon.
func (k *fakeKernel) quiet(t testing.TB, not call) {
	t.Helper()
	time.Sleep(50 * time.Millisecond)
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.Contains(k.calls, not) {
		t.Errorf("it was called: %+v", not)
	}
}

// ends has the process report the end of an agent, or of a further process.
func (k *fakeKernel) ends(id string, execID int32, exit control.Exit) {
	k.server.Push(control.EventExit, control.ExitEvent{ID: id, ExecID: execID, Exit: exit, Time: time.Unix(2000, 0)})
}

// patience is how long a test waits for what must come to pass: hosts may be busy
// with much else.
const patience = time.Minute

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come to pass", what)
		}
	}
}

// within waits for ch.
func within(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatalf("%s did not come to pass", what)
	}
}

// testImage makes an image called "img" known to the store.
func testImage(t testing.TB, d *System) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := d.images.Import(context.Background(), "img", dir, images.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
}

func spawnRequest(name string) *apiv1.SpawnRequest {
	return &apiv1.SpawnRequest{Name: name, Image: "img", Process: &apiv1.Process{Argv: []string{"/bin/true"}}}
}

// stateOf returns what a client would see.
func stateOf(t testing.TB, d *System, ref string) *apiv1.Agent {
	t.Helper()
	r, err := d.find(ref)
	if err != nil {
		t.Fatal(err)
	}
	return r.proto()
}

// filesIn lists a directory.
func filesIn(t testing.TB, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
