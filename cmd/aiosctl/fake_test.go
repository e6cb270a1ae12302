package main

import (
	"bytes"
	"context"
	"flag"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	clockAt = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	ago     = func(d time.Duration) int64 { return clockAt.Add(-d).UnixNano() }
)

// recorder is the far end of the socket: it keeps what it was asked and gives
// canned answers. It runs nothing.
type recorder struct {
	apiv1.UnimplementedControlServer
	mu     sync.Mutex
	asked  []proto.Message // guarded by mu
	exit   *apiv1.Exit     // of every process
	refuse error           // of every attach
}

func (r *recorder) record(m proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, proto.Clone(m))
}

func (r *recorder) requests() []proto.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

var fakeAgents = []*apiv1.Agent{
	{Id: "a00000000000a", Name: "web", Domain: "default", State: "running", Image: "host", Argv: []string{"python3", "-m", "http.server", "--directory", "/srv/my files"},
		CreatedUnixNano: ago(90 * time.Second), Processes: 3, MemoryBytes: 12345678, Labels: map[string]string{"team": "a", "env": "test"}},
	{Id: "a00000000000b", Domain: "default", State: "paused", Image: "alpine", Argv: []string{"sleep", "60"}, CreatedUnixNano: ago(3 * time.Hour), Processes: 1, MemoryBytes: 512 << 10},
	{Id: "a00000000000c", Name: "hog", Domain: "lab", State: "exited", Image: "host", Argv: []string{"sh", "-c", "evil\x1b[2Jtext"}, CreatedUnixNano: ago(50 * time.Hour),
		EndedUnixNano: ago(49 * time.Hour), Exit: &apiv1.Exit{Signal: 9, Reason: "memory limit of 64 MiB reached"}},
	{Id: "a00000000000d", Name: "done", Domain: "lab", State: "exited", Image: "host", Argv: []string{"false"}, CreatedUnixNano: ago(20 * time.Second), EndedUnixNano: ago(19 * time.Second), Exit: &apiv1.Exit{Code: 1}},
	{Id: "a00000000000e", Name: "gone", Domain: "lost", State: "lost", Image: "host", Argv: []string{"cat"}, CreatedUnixNano: ago(20 * time.Minute), EndedUnixNano: ago(time.Minute)},
}

var fakeDomain = &apiv1.Domain{
	Name: "default", Pid: 4242, Platform: "systrap", State: "running", Agents: 2, StartedUnixNano: ago(5 * time.Hour), MemoryBytes: 40 << 20, AgentMemoryBytes: 13 << 20, Owner: "root",
	Boxes: []*apiv1.BoxReport{{Box: "seccomp", Ok: true}, {Box: "cgroup", Reason: "read-only", Effect: "no host limit on the domain"}},
}

var fakeImage = &apiv1.Image{
	Name: "alpine", Digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", SizeBytes: 7 << 20, CreatedUnixNano: ago(72 * time.Hour), SourceKind: "oci-archive",
	Files: 512, Architecture: "amd64", Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}, UsedBy: []string{"a00000000000b"}, Warnings: []string{"two device nodes left out"},
}

func (r *recorder) Version(context.Context, *apiv1.VersionRequest) (*apiv1.VersionResponse, error) {
	return &apiv1.VersionResponse{Version: "9.9.9", ApiMinor: 4, KernelProtocol: 1, Gvisor: "v0", Go: "go1", Pid: 77, StateDir: "/state", StartedUnixNano: ago(time.Hour), Platform: "systrap"}, nil
}

func (r *recorder) Doctor(context.Context, *apiv1.DoctorRequest) (*apiv1.DoctorResponse, error) {
	return &apiv1.DoctorResponse{
		Usable: r.exit == nil, Warning: "no host cgroups",
		Findings: []*apiv1.Finding{
			{Name: "systrap", Status: "ok", Found: "works"},
			{Name: "kvm", Status: "missing", Found: "/dev/kvm: no such file", Effect: "systrap is used", Fix: "load the kvm module"},
			{Name: "host cgroups", Status: "degraded", Found: "v2, not delegated", Effect: "domains are not limited"},
		},
	}, nil
}

func (r *recorder) Spawn(_ context.Context, m *apiv1.SpawnRequest) (*apiv1.SpawnResponse, error) {
	r.record(m)
	if m.Image == "alpin" {
		return nil, errdefs.New(errdefs.ImageNotFound, `no image named "alpin"`, errdefs.Op("spawn agent"))
	}
	return &apiv1.SpawnResponse{Id: "a00000000000f", Domain: "default", Warnings: []string{"no host cgroups"}}, nil
}

func (r *recorder) List(_ context.Context, m *apiv1.ListRequest) (*apiv1.ListResponse, error) {
	r.record(m)
	out := new(apiv1.ListResponse)
	for _, g := range fakeAgents {
		if (m.All || g.Exit == nil && g.State != "lost") && (m.Domain == "" || m.Domain == g.Domain) {
			out.Agents = append(out.Agents, g)
		}
	}
	return out, nil
}

func find(name string) (*apiv1.Agent, error) {
	for _, g := range fakeAgents {
		if g.Id == name || g.Name == name {
			return g, nil
		}
	}
	return nil, errdefs.New(errdefs.AgentNotFound, "no such agent", errdefs.Op("find agent"), errdefs.Resource("%s", name))
}

func (f *fakeSched) SchedSet(_ context.Context, m *apiv1.SchedSetRequest) (*apiv1.SchedSetResponse, error) {
	f.record(m)
	g, err := find(m.Agent)
	if err != nil {
		return nil, err
	}
	return &apiv1.SchedSetResponse{Grant: "cpu:self,cpu=0.5", Domain: g.Domain, Agent: &apiv1.SchedAgent{
		Agent: g.Id, Name: g.Name, Class: "fair", Weight: 100, QuotaMilli: new(uint64(500)), PeriodNano: 1e8, LeftNano: 3e7, Priority: 20, Hint: "none"}}, nil
}

func (f *fakeSched) Hint(_ context.Context, m *apiv1.HintRequest) (*apiv1.HintResponse, error) {
	f.record(m)
	_, err := find(m.Agent)
	return &apiv1.HintResponse{Hint: "batch", Was: "none"}, err
}

func (r *recorder) Inspect(_ context.Context, m *apiv1.InspectRequest) (*apiv1.InspectResponse, error) {
	g, err := find(m.Agent)
	if err != nil {
		return nil, err
	}
	return &apiv1.InspectResponse{
		Agent: g, Domain: fakeDomain, LogPath: "/state/agents/x/log", ImageDigest: "sha256:0123",
		Spec: &apiv1.SpawnRequest{
			Hostname: "web", Process: &apiv1.Process{Env: []string{"A=b"}, Cwd: "/srv", User: "1000", Tty: true},
			Mounts: []*apiv1.Mount{{Source: "/data", Target: "/srv"}, {Source: "/out", Target: "/out", Writable: true}},
			Limits: &apiv1.Limits{MemoryBytes: 256 << 20, Processes: 64},
		},
		Processes: []*apiv1.AgentProcess{{Pid: 1, Name: "python3", Threads: 2, Argv: g.Argv, State: "S"}, {Pid: 5, Ppid: 1, Name: "worker", Threads: 1, State: "R"}},
	}, nil
}

func (r *recorder) Wait(_ context.Context, m *apiv1.WaitRequest) (*apiv1.WaitResponse, error) {
	g, err := find(m.Agent)
	return &apiv1.WaitResponse{Exit: g.GetExit()}, err
}

func (r *recorder) Signal(_ context.Context, m *apiv1.SignalRequest) (*apiv1.SignalResponse, error) {
	r.record(m)
	_, err := find(m.Agent)
	return &apiv1.SignalResponse{}, err
}

func (r *recorder) Remove(_ context.Context, m *apiv1.RemoveRequest) (*apiv1.RemoveResponse, error) {
	r.record(m)
	g, err := find(m.Agent)
	if err == nil && g.State == "running" && !m.Force {
		err = errdefs.New(errdefs.AgentRunning, "it is running", errdefs.Op("remove agent"), errdefs.Resource("%s", m.Agent))
	}
	return &apiv1.RemoveResponse{}, err
}

func (r *recorder) Attach(s grpc.BidiStreamingServer[apiv1.AttachRequest, apiv1.AttachResponse]) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	r.record(m)
	if r.refuse != nil {
		return r.refuse
	}
	if a := m.GetTarget().GetAgent() + m.GetExec().GetAgent(); a != "" {
		if _, err := find(a); err != nil {
			return err
		}
	}
	s.Send(&apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Started{Started: &apiv1.AttachStarted{Id: "a00000000000f", Warnings: []string{"no host cgroups"}}}})
	if m.GetExec().GetDetach() {
		return nil
	}
	s.Send(&apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Stdout{Stdout: []byte("out\n")}})
	s.Send(&apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Stderr{Stderr: []byte("err\n")}})
	return s.Send(&apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Exit{Exit: r.exit}})
}

func (r *recorder) Logs(m *apiv1.LogsRequest, s grpc.ServerStreamingServer[apiv1.LogsResponse]) error {
	r.record(m)
	if _, err := find(m.Agent); err != nil {
		return err
	}
	for i, d := range []string{"one\ntw", "o\n", "oops\n", "three"} {
		if err := s.Send(&apiv1.LogsResponse{TimeUnixNano: clockAt.Add(time.Duration(i) * time.Second).UnixNano(), Stderr: d == "oops\n", Data: []byte(d)}); err != nil {
			return err
		}
	}
	return nil
}

func (r *recorder) ImageImport(m *apiv1.ImageImportRequest, s grpc.ServerStreamingServer[apiv1.ImageImportResponse]) error {
	r.record(m)
	if m.Name == "alpine" && !m.Replace {
		return errdefs.New(errdefs.ImageExists, "an image of that name exists", errdefs.Op("import image"), errdefs.Resource("%s", m.Name))
	}
	for _, p := range []*apiv1.ImageProgress{{Phase: "read", Done: 1, Total: 10}, {Phase: "read", Done: 10, Total: 10}, {Phase: "write", Done: 3}} {
		if err := s.Send(&apiv1.ImageImportResponse{Msg: &apiv1.ImageImportResponse_Progress{Progress: p}}); err != nil {
			return err
		}
	}
	return s.Send(&apiv1.ImageImportResponse{Msg: &apiv1.ImageImportResponse_Image{Image: fakeImage}})
}

func (r *recorder) ImageList(context.Context, *apiv1.ImageListRequest) (*apiv1.ImageListResponse, error) {
	return &apiv1.ImageListResponse{Images: []*apiv1.Image{{Name: "host", SourceKind: "host"}, fakeImage}}, nil
}

func (r *recorder) ImageInspect(context.Context, *apiv1.ImageInspectRequest) (*apiv1.ImageInspectResponse, error) {
	return &apiv1.ImageInspectResponse{Image: fakeImage}, nil
}

func (r *recorder) DomainList(context.Context, *apiv1.DomainListRequest) (*apiv1.DomainListResponse, error) {
	return &apiv1.DomainListResponse{Domains: []*apiv1.Domain{fakeDomain}}, nil
}

// bench is aiosctl in front of a recorder.
type bench struct {
	*recorder
	health      fakeHealth
	sched       fakeSched
	time        fakeClock
	app         *app
	out, errOut bytes.Buffer
	started     int // times a command was ready to start a daemon
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "aiosctl") // Short, for the socket's sake.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{recorder: new(recorder)}
	s := grpc.NewServer(api.ServerOptions()...)
	apiv1.RegisterControlServer(s, b.recorder)
	apiv1.RegisterHealthServer(s, &b.health)
	b.sched.recorder = b.recorder
	apiv1.RegisterSchedulingServer(s, &b.sched)
	apiv1.RegisterClockServer(s, &b.time)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })

	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	env := map[string]string{"TERM": "vt100", "TOKEN": "secret"}
	b.app = &app{
		stdin: null, stdout: &b.out, stderr: &b.errOut, clock: ktime.NewFake(clockAt), zone: time.UTC, stateDir: dir,
		getenv: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		dial: func(ctx context.Context, noStart bool) (*client.Client, error) {
			if !noStart {
				b.started++
			}
			return client.Dial(ctx, client.Options{Paths: config.Paths{Socket: path}, NoStart: true})
		},
	}
	return b
}

// run runs one command line.
func (b *bench) run(args ...string) int {
	b.out.Reset()
	b.errOut.Reset()
	return b.app.main(args)
}

// last is the latest request that was recorded.
func (b *bench) last(t *testing.T) proto.Message {
	t.Helper()
	all := b.requests()
	if len(all) == 0 {
		t.Fatalf("nothing was asked; %s", b.errOut.String())
	}
	return all[len(all)-1]
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; run go test -update and read the change.\ngot:\n%swant:\n%s", path, got, want)
	}
}
