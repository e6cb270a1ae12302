package ctlfs

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	gvktime "gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/fabric"
	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/ctlfs/command"
)

// Two agents, and one that is not there.
const (
	alice   = "a00000000aaaa"
	bob     = "a00000000bbbb"
	nobody  = ""
	hundred = "a00000000cccc" // holds a hundred capabilities
)

type agentKey struct{}

type stoppedClock struct{ gvktime.Clock }

func (stoppedClock) Now() gvktime.Time { return gvktime.ZeroTime }

// fakeKernel is an Authority over a real capability.Space and a real bus.
type fakeKernel struct {
	hint string

	space *capability.Space
	bus   *event.Bus

	mu     sync.Mutex
	watch  *fakeWatch // the last
	denied []string   // "AGENT OP OBJECT CODE"
	acted  []string
	past   Past
	ready  int
	wants  bool
	dog    Watchdog
	orders []WatchdogOrder
}

func (k *fakeKernel) Watchdog(string) (Watchdog, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dog, nil
}

func (k *fakeKernel) Hint(string) (string, error) { return k.hint, nil }

func (k *fakeKernel) SetHint(_ string, hint string) error {
	if hint != "batch" {
		return errdefs.New(errdefs.InvalidArgument, "no such hint")
	}
	k.hint = hint
	return nil
}

func (k *fakeKernel) SetWatchdog(_ string, o WatchdogOrder) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dog.ByOwner && !o.Feed {
		return errdefs.New(errdefs.Denied, "the owner has armed it")
	}
	k.orders = append(k.orders, o)
	return nil
}

func (k *fakeKernel) Past(string) (Past, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.past, nil
}

func (k *fakeKernel) Ready(string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ready++
	return !k.past.Warming
}

func (k *fakeKernel) WantSignal(_ context.Context, _ string, want bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wants = want
	return nil
}

func (k *fakeKernel) Memory(agent string) Memory { return fakeMemory{agent} }

func (k *fakeKernel) Regions(string) []*fabric.Region { return nil }

func (k *fakeKernel) OpenRegion(_, name string, _ abi.Rights) (*fabric.View, error) {
	return nil, errdefs.New(errdefs.NotFound, "no region", errdefs.Resource("%s", name))
}

func (k *fakeKernel) Fabric(_ context.Context, by capability.Actor, req *control.FabricRequest) (control.FabricReply, error) {
	if req.Op != control.FabricCreate {
		return control.FabricReply{}, errdefs.New(errdefs.CapabilityDenied, "not yours", errdefs.Resource("%s", req.Name))
	}
	return control.FabricReply{Regions: []control.Region{{Name: req.Name, Owner: by.Name, Size: req.Size, Labels: req.Labels}}}, nil
}

func (k *fakeKernel) Space() *capability.Space { return k.space }

func (k *fakeKernel) Holder(ctx context.Context) (string, bool) {
	agent, _ := ctx.Value(agentKey{}).(string)
	return agent, agent != nobody
}

func (k *fakeKernel) Actor(agent string) capability.Actor {
	return capability.Actor{Name: agent, Correlation: errdefs.NewCorrelation()}
}

func (k *fakeKernel) Self(agent string) (string, string) {
	return map[string]string{alice: "alice", bob: "bob"}[agent], "default"
}

func (k *fakeKernel) Delegate(_ context.Context, by capability.Actor, c *capability.Capability, to string, change capability.Change, move bool) (*capability.Capability, error) {
	switch to {
	case "alice":
		to = alice
	case "bob":
		to = bob
	case "far":
		return k.space.DelegateRemote(c, "other/a00000000dddd", change, by)
	}
	return k.space.Delegate(c, to, change, move, by)
}

func (k *fakeKernel) Attenuate(by capability.Actor, c *capability.Capability, change capability.Change) (*capability.Capability, error) {
	return k.space.Attenuate(c, change, by)
}

// Watch lets agents hear of themselves, and refuses what they name of others.
func (k *fakeKernel) Watch(agent string, want *command.Watch, ready func()) (Watch, error) {
	if agent == bob {
		return nil, errdefs.New(errdefs.CapabilityDenied, "bob may not listen")
	}
	w := &fakeWatch{k: k, agent: agent, ready: ready}
	k.mu.Lock()
	k.watch = w
	k.mu.Unlock()
	return w, w.Change(want)
}

type fakeWatch struct {
	k     *fakeKernel
	agent string
	ready func()

	mu      sync.Mutex
	sub     *event.Subscription
	err     error
	dropped bool
	gaps    uint64
	closed  bool
}

func (w *fakeWatch) Change(want *command.Watch) error {
	topics := []string{}
	for _, o := range want.Topics {
		topic, whose := o.Topic()
		if whose != "" && whose != "self" {
			return errdefs.New(errdefs.CapabilityDenied, "no capability", errdefs.Resource("%s", o), errdefs.Fix("ask for %s", o))
		}
		topics = append(topics, topic)
	}
	sub, err := w.k.bus.Subscribe(event.Options{
		Topics: topics, Agents: []string{w.agent}, Floor: want.Floor, Capacity: want.Queue, Policy: want.Policy, OnReady: w.ready,
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	old := w.sub
	w.sub = sub
	w.mu.Unlock()
	if old != nil {
		old.Close(nil)
	}
	return nil
}

func (w *fakeWatch) Read(events []event.Event) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sub.Read(events)
}

func (w *fakeWatch) Missed() (uint64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	dropped := w.dropped
	w.dropped = false
	return w.sub.Missed(), dropped
}

func (w *fakeWatch) Gap(where string, n uint64) event.Event {
	w.gaps++
	return event.Event{Type: event.BusLost, Source: "w", Seq: w.gaps, Agent: w.agent, Payload: &eventv1.BusLost{Where: where, Count: n}}
}

func (w *fakeWatch) Name(agent string) string {
	name, _ := w.k.Self(agent)
	return name
}

func (w *fakeWatch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// revoke ends it, as the end of a capability does.
func (w *fakeWatch) revoke(err error) {
	w.mu.Lock()
	w.err = err
	sub := w.sub
	w.mu.Unlock()
	sub.Close(err)
}

func (w *fakeWatch) Close() {
	w.mu.Lock()
	w.closed = true
	sub := w.sub
	w.mu.Unlock()
	sub.Close(nil)
}

func (k *fakeKernel) Renew(_ context.Context, by capability.Actor, c *capability.Capability, lease time.Duration) error {
	return k.space.Renew(c, lease, by)
}

func (k *fakeKernel) Revoke(_ context.Context, by capability.Actor, c *capability.Capability, childrenOnly bool) (int, error) {
	dead, err := k.space.Revoke(c, !childrenOnly, by, "")
	return len(dead), err
}

func (k *fakeKernel) Act(_ context.Context, by capability.Actor, c *capability.Capability, do Action) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.acted = append(k.acted, fmt.Sprintf("%s %s %s %d %s", by.Name, do.Verb, c.Object(), do.Signal, do.Agent))
	return "state running", nil
}

func (k *fakeKernel) Explain(_ context.Context, agent, op string) (bool, string, error) {
	if op == "nonsense" {
		return false, "", errdefs.New(errdefs.InvalidArgument, "it is no operation")
	}
	return strings.HasPrefix(op, "open /data"), "because of what " + agent + " holds", nil
}

func (k *fakeKernel) Stats(string) ([]byte, error) { return []byte(`{"memory":{"now":1}}`), nil }

func (k *fakeKernel) Denied(agent, op, object string, why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.denied = append(k.denied, fmt.Sprintf("%s %s %s %s", agent, op, object, errdefs.CodeOf(why)))
}

// takeDenied returns what has been reported since it was last called.
func (k *fakeKernel) takeDenied() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := strings.Join(k.denied, "; ")
	k.denied = nil
	return out
}

// world is a VFS with /aios and /dev/aios in it, and two agents.
type world struct {
	t     testing.TB
	k     *fakeKernel
	clock *ktime.Fake
	v     *vfs.VirtualFilesystem
	ctx   context.Context
	creds *auth.Credentials
	root  vfs.VirtualDentry
}

// newWorld makes a world where alice holds files (1), an agent (2) and her
// memory (3), and bob nothing.
func newWorld(t testing.TB) *world {
	clock := ktime.NewFake(time.Unix(1000, 0))
	w := &world{t: t, clock: clock, v: &vfs.VirtualFilesystem{}}
	w.k = &fakeKernel{space: capability.NewSpace(capability.Options{Clock: clock}), bus: event.New(event.Config{Domain: "default", Source: "k"})}
	t.Cleanup(w.k.space.Close)
	for _, h := range []string{alice, bob, hundred} {
		if err := w.k.space.AddHolder(h); err != nil {
			t.Fatal(err)
		}
	}
	w.mint(alice, "fs:/data:rw,quota=1G")
	w.mint(alice, "agent:bob:signal+inspect")
	w.mint(alice, "mem:self,bytes=64M")

	w.creds = auth.NewRootCredentials(auth.NewRootUserNamespace())
	w.ctx = context.WithValue(auth.ContextWithCredentials(context.Background(), w.creds), gvktime.CtxRealtimeClock, stoppedClock{})
	if err := w.v.Init(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.v.MustRegisterFilesystemType(Name, FilesystemType{w.k}, &vfs.RegisterFilesystemTypeOptions{})
	if err := RegisterDevice(w.v, w.k); err != nil {
		t.Fatal(err)
	}
	mntns, err := w.v.NewMountNamespace(w.ctx, w.creds, "", Name, &vfs.MountOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.ctx = vfs.WithMountNamespace(w.ctx, mntns)
	w.root = mntns.Root(w.ctx)
	t.Cleanup(func() {
		w.root.DecRef(w.ctx)
		mntns.DecRef(w.ctx)
	})
	return w
}

func (w *world) mint(agent, text string) *capability.Capability {
	w.t.Helper()
	spec, err := capability.ParseSpec(text)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := w.k.space.Mint(agent, spec, capability.Actor{Name: "operator", Privileged: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// as is the context of a task of agent.
func (w *world) as(agent string) context.Context {
	return context.WithValue(w.ctx, agentKey{}, agent)
}

func (w *world) open(agent, path string, flags uint32) (*vfs.FileDescription, error) {
	return w.v.OpenAt(w.as(agent), w.creds, &vfs.PathOperation{Root: w.root, Start: w.root, Path: fspath.Parse(path)}, &vfs.OpenOptions{Flags: flags})
}

func (w *world) mustOpen(agent, path string, flags uint32) *vfs.FileDescription {
	w.t.Helper()
	fd, err := w.open(agent, path, flags)
	if err != nil {
		w.t.Fatalf("open %s: %v", path, err)
	}
	return fd
}

// read reads fd to its end, a few bytes at a time.
func (w *world) read(agent string, fd *vfs.FileDescription) (string, error) {
	var out strings.Builder
	for {
		var buf [7]byte
		n, err := fd.Read(w.as(agent), usermem.BytesIOSequence(buf[:]), vfs.ReadOptions{})
		out.Write(buf[:n])
		if err == io.EOF || err == nil && n == 0 {
			return out.String(), nil
		}
		if err != nil {
			return out.String(), err
		}
	}
}

// cat returns what is in the file.
func (w *world) cat(agent, path string) string {
	w.t.Helper()
	fd := w.mustOpen(agent, path, linux.O_RDONLY)
	defer fd.DecRef(w.ctx)
	text, err := w.read(agent, fd)
	if err != nil {
		w.t.Fatalf("read %s: %v", path, err)
	}
	return text
}

func (w *world) write(agent string, fd *vfs.FileDescription, text string) error {
	n, err := fd.Write(w.as(agent), usermem.BytesIOSequence([]byte(text)), vfs.WriteOptions{})
	if err == nil && int(n) != len(text) {
		w.t.Errorf("wrote %d of %d bytes", n, len(text))
	}
	return err
}

// ctl writes a command and returns the answer and the error of the write.
func (w *world) ctl(agent, line string) (string, error) {
	w.t.Helper()
	fd := w.mustOpen(agent, "/ctl", linux.O_RDWR)
	defer fd.DecRef(w.ctx)
	err := w.write(agent, fd, line)
	text, readErr := w.read(agent, fd)
	if readErr != nil {
		w.t.Fatalf("read the answer: %v", readErr)
	}
	return text, err
}

// device opens /dev/aios.
func (w *world) device(agent string) *vfs.FileDescription {
	w.t.Helper()
	var major uint32
	w.v.ForEachDevice(func(path string, _ vfs.DeviceKind, m, _ uint32, _ uint16) error {
		if path == "aios" {
			major = m
		}
		return nil
	})
	fd, err := w.v.OpenDeviceSpecialFile(w.as(agent), w.root.Mount(), w.root.Dentry(), vfs.CharDevice, major, 0, &vfs.OpenOptions{Flags: linux.O_RDWR})
	if err != nil {
		w.t.Fatal(err)
	}
	return fd
}

// rawIoctl calls with an argument at address 0 of a memory as large as it.
func (w *world) rawIoctl(agent string, fd *vfs.FileDescription, request uint32, memory []byte) error {
	_, err := fd.Ioctl(w.as(agent), &usermem.BytesIO{Bytes: memory}, 16, arch.SyscallArguments{
		{}, {Value: uintptr(request)}, {Value: uintptr(hostarch.Addr(0))},
	})
	return err
}

// ioctl calls by number with arg, which takes the answer.
func (w *world) ioctl(agent string, fd *vfs.FileDescription, nr uint8, arg abi.DeviceStruct) error {
	w.t.Helper()
	memory := abi.EncodeDevice(arg)
	if err := w.rawIoctl(agent, fd, abi.DeviceCalls()[nr].Request(), memory); err != nil {
		return err
	}
	return abi.DecodeDevice(arg, memory)
}

// fakeMemory answers with who asked what.
type fakeMemory struct{ agent string }

func (m fakeMemory) Ask(op string, body []byte) (json.RawMessage, error) {
	return json.Marshal(map[string]string{"agent": m.agent, "op": op, "body": string(body)})
}
