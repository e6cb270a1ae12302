package main

import (
	"encoding/json"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

// The structures in this file are what -o json prints. Fields are only ever
// added. Times are RFC 3339 in UTC, sizes are bytes, and what is unknown or
// empty is left out.

type exitView struct {
	Agent  string `json:"agent,omitempty"`
	Status int    `json:"status"` // as a shell would see it
	Code   int32  `json:"code"`
	Signal string `json:"signal,omitempty"`
	Reason string `json:"reason,omitempty"`
}

type agentView struct {
	ID          string            `json:"id"`
	Name        string            `json:"name,omitempty"`
	Domain      string            `json:"domain"`
	State       string            `json:"state"`
	Image       string            `json:"image"`
	Argv        []string          `json:"argv"`
	Created     *time.Time        `json:"created,omitempty"`
	Ended       *time.Time        `json:"ended,omitempty"`
	Exit        *exitView         `json:"exit,omitempty"`
	Processes   uint32            `json:"processes"`
	MemoryBytes uint64            `json:"memory_bytes"`
	Labels      map[string]string `json:"labels,omitempty"`
	ClonedFrom  string            `json:"cloned_from,omitempty"`
	Template    string            `json:"template,omitempty"`
	Specialized bool              `json:"specialized,omitempty"`
}

type processView struct {
	PID     int32    `json:"pid"`
	PPID    int32    `json:"ppid"`
	Name    string   `json:"name"`
	State   string   `json:"state"`
	Threads uint32   `json:"threads"`
	Argv    []string `json:"argv,omitempty"`
}

type mountView struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	Writable bool   `json:"writable"`
}

type specView struct {
	Hostname    string      `json:"hostname,omitempty"`
	TimeZone    string      `json:"time_zone,omitempty"`
	Env         []string    `json:"env,omitempty"`
	Cwd         string      `json:"cwd,omitempty"`
	User        string      `json:"user,omitempty"`
	TTY         bool        `json:"tty"`
	Stdin       bool        `json:"stdin"`
	Isolated    bool        `json:"isolated"`
	Strict      bool        `json:"strict"`
	Remove      bool        `json:"remove"`
	Platform    string      `json:"platform,omitempty"`
	MemoryLimit uint64      `json:"memory_limit_bytes,omitempty"`
	SwapLimit   uint64      `json:"swap_limit_bytes,omitempty"`
	PidsLimit   uint32      `json:"pids_limit,omitempty"`
	Mounts      []mountView `json:"mounts,omitempty"`
}

// ownClockView is how far ahead of the host's an agent's clocks are, and how fast they go.
type ownClockView struct {
	Offset    int64   `json:"offset_ns"`
	Rate      float64 `json:"rate"`
	Monotonic int64   `json:"monotonic_ns"`
}

type inspectView struct {
	agentView
	Spec        specView      `json:"spec"`
	Processes   []processView `json:"process_list"`
	DomainInfo  *domainView   `json:"domain_info,omitempty"`
	Clock       *ownClockView `json:"clock,omitempty"` // as it is now
	LogPath     string        `json:"log_path,omitempty"`
	ImageDigest string        `json:"image_digest,omitempty"`
	Tokens      []string      `json:"tokens,omitempty"` // IDs: of the token it was spawned with, and of those that was made from
}

type boxView struct {
	Box    string `json:"box"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
	Effect string `json:"effect,omitempty"`
}

type domainView struct {
	Name             string     `json:"name"`
	PID              int32      `json:"pid"`
	Platform         string     `json:"platform"`
	State            string     `json:"state"`
	Agents           uint32     `json:"agents"`
	Started          *time.Time `json:"started,omitempty"`
	MemoryBytes      uint64     `json:"memory_bytes"`
	AgentMemoryBytes uint64     `json:"agent_memory_bytes"`
	Isolated         bool       `json:"isolated"`
	CheckpointEvery  string     `json:"checkpoint_every,omitempty"`
	Checkpointed     *time.Time `json:"checkpointed,omitempty"`
	Owner            string     `json:"owner,omitempty"`
	Boxes            []boxView  `json:"boxes,omitempty"`
}

type imageView struct {
	Name         string     `json:"name"`
	Digest       string     `json:"digest,omitempty"`
	SizeBytes    int64      `json:"size_bytes"`
	Created      *time.Time `json:"created,omitempty"`
	SourceKind   string     `json:"source_kind,omitempty"`
	Files        uint64     `json:"files"`
	Architecture string     `json:"architecture,omitempty"`
	Env          []string   `json:"env,omitempty"`
	Entrypoint   []string   `json:"entrypoint,omitempty"`
	Cmd          []string   `json:"cmd,omitempty"`
	WorkingDir   string     `json:"working_dir,omitempty"`
	User         string     `json:"user,omitempty"`
	Warnings     []string   `json:"warnings,omitempty"`
	UsedBy       []string   `json:"used_by,omitempty"`
}

type findingView struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Found  string `json:"found,omitempty"`
	Effect string `json:"effect,omitempty"`
	Fix    string `json:"fix,omitempty"`
}

type doctorView struct {
	Usable   bool          `json:"usable"`
	Warning  string        `json:"warning,omitempty"`
	Findings []findingView `json:"findings"`
}

type daemonView struct {
	Running        bool       `json:"running"`
	Version        string     `json:"version,omitempty"`
	API            string     `json:"api,omitempty"`
	KernelProtocol uint32     `json:"kernel_protocol,omitempty"`
	GVisor         string     `json:"gvisor,omitempty"`
	Go             string     `json:"go,omitempty"`
	PID            int32      `json:"pid,omitempty"`
	StateDir       string     `json:"state_dir,omitempty"`
	Socket         string     `json:"socket,omitempty"`
	Started        *time.Time `json:"started,omitempty"`
	Platform       string     `json:"platform,omitempty"`
	Config         string     `json:"config,omitempty"`
	ConfigFailure  string     `json:"config_failure,omitempty"`
}

type clientView struct {
	Version string `json:"version"`
	API     string `json:"api"`
	Go      string `json:"go"`
}

type versionView struct {
	Client clientView  `json:"client"`
	Daemon *daemonView `json:"daemon,omitempty"`
}

func viewTime(nano int64) *time.Time {
	if nano == 0 {
		return nil
	}
	t := time.Unix(0, nano).UTC()
	return &t
}

func viewExit(e *apiv1.Exit) *exitView {
	if e == nil {
		return nil
	}
	v := &exitView{Status: client.ExitStatus(e), Code: e.GetCode(), Reason: e.GetReason()}
	if e.GetSignal() != 0 {
		v.Signal = signalName(e.GetSignal())
	}
	return v
}

func viewAgent(a *apiv1.Agent) agentView {
	return agentView{
		ID: a.GetId(), Name: a.GetName(), Domain: a.GetDomain(), State: a.GetState(), Image: a.GetImage(),
		Argv: orEmpty(a.GetArgv()), Created: viewTime(a.GetCreatedUnixNano()), Ended: viewTime(a.GetEndedUnixNano()),
		Exit: viewExit(a.GetExit()), Processes: a.GetProcesses(), MemoryBytes: a.GetMemoryBytes(), Labels: a.GetLabels(),
		ClonedFrom: a.GetClonedFrom(), Template: a.GetTemplate(), Specialized: a.GetSpecialized(),
	}
}

func viewInspect(r *apiv1.InspectResponse) inspectView {
	s, p := r.GetSpec(), r.GetSpec().GetProcess()
	v := inspectView{
		agentView: viewAgent(r.GetAgent()), Processes: []processView{},
		LogPath: r.GetLogPath(), ImageDigest: r.GetImageDigest(), Tokens: r.GetTokens(),
		Spec: specView{
			Hostname: s.GetHostname(), TimeZone: s.GetTimeZone(), Env: p.GetEnv(), Cwd: p.GetCwd(), User: p.GetUser(), TTY: p.GetTty(), Stdin: p.GetStdin(),
			Isolated: s.GetIsolated(), Strict: s.GetStrict(), Remove: s.GetRemove(), Platform: s.GetPlatform(),
			MemoryLimit: s.GetLimits().GetMemoryBytes(), SwapLimit: s.GetLimits().GetSwapBytes(), PidsLimit: s.GetLimits().GetProcesses(),
		},
	}
	if c := r.GetClock(); c != nil {
		v.Clock = &ownClockView{c.GetOffsetNano(), rateOf(c).Float(), c.GetMonotonicNano()}
	}
	for _, m := range s.GetMounts() {
		v.Spec.Mounts = append(v.Spec.Mounts, mountView{m.GetSource(), m.GetTarget(), m.GetWritable()})
	}
	for _, p := range r.GetProcesses() {
		v.Processes = append(v.Processes, processView{p.GetPid(), p.GetPpid(), p.GetName(), p.GetState(), p.GetThreads(), p.GetArgv()})
	}
	if d := r.GetDomain(); d != nil {
		dv := viewDomain(d)
		v.DomainInfo = &dv
	}
	return v
}

func viewDomain(d *apiv1.Domain) domainView {
	v := domainView{
		Name: d.GetName(), PID: d.GetPid(), Platform: d.GetPlatform(), State: d.GetState(), Agents: d.GetAgents(),
		Started: viewTime(d.GetStartedUnixNano()), MemoryBytes: d.GetMemoryBytes(), AgentMemoryBytes: d.GetAgentMemoryBytes(),
		Isolated: d.GetIsolated(), Owner: d.GetOwner(), Checkpointed: viewTime(d.GetCheckpointedUnixNano()),
	}
	if n := d.GetCheckpointEveryNanos(); n > 0 {
		v.CheckpointEvery = time.Duration(n).String()
	}
	for _, b := range d.GetBoxes() {
		v.Boxes = append(v.Boxes, boxView{b.GetBox(), b.GetOk(), b.GetReason(), b.GetEffect()})
	}
	return v
}

func viewImage(i *apiv1.Image) imageView {
	return imageView{
		Name: i.GetName(), Digest: i.GetDigest(), SizeBytes: i.GetSizeBytes(), Created: viewTime(i.GetCreatedUnixNano()),
		SourceKind: i.GetSourceKind(), Files: i.GetFiles(), Architecture: i.GetArchitecture(), Env: i.GetEnv(),
		Entrypoint: i.GetEntrypoint(), Cmd: i.GetCmd(), WorkingDir: i.GetWorkingDir(), User: i.GetUser(),
		Warnings: i.GetWarnings(), UsedBy: i.GetUsedBy(),
	}
}

// views maps a list so that an empty one prints as [], not null.
func views[P, V any](in []P, view func(P) V) []V {
	out := make([]V, 0, len(in))
	for _, x := range in {
		out = append(out, view(x))
	}
	return out
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
