package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// record is what is known of one agent.
type record struct {
	// process is the PID of the kernel process that an earlier daemon gave the
	// agent to, 0 if it did not say so; immutable.
	process int32
	// heardOf says that the kernel process had the agent under an earlier daemon;
	// immutable.
	heardOf bool

	id      string
	name    string
	created time.Time
	domName string                             // immutable
	specs   atomic.Pointer[apiv1.SpawnRequest] // read by spec; changed by an upgrade
	tokens  []token.ID                         // immutable: of the blocks of the token it was spawned with
	done    chan struct{}                      // closed when the state is final
	settled chan struct{}                      // closed after that, when the files and the name say so too
	from    string                             // the agent that it is a copy of, or ""
	special bool                               // nothing can be given to it any more
	wish    *wish                              // immutable: to be started again; nil for an agent that is not
	saving  *sync.Mutex                        // immutable: held while the file is written, so that what is newer wins

	mu sync.Mutex
	// Nil when the domain is gone.
	domain *domain     // +checklocks:mu
	state  abi.State   // +checklocks:mu
	exit   *apiv1.Exit // +checklocks:mu
	ended  time.Time   // +checklocks:mu
	// Of the image.
	digest string // +checklocks:mu
	// What it may become, while that is not decided.
	upgrading *upgrading         // +checklocks:mu
	execs     map[int32]*further // +checklocks:mu
	// Clients that wait for the end.
	heard int // +checklocks:mu
	// Why it did not become a template, once it has ended.
	notWarm error // +checklocks:mu
}

// further is a further process in the agent.
type further struct {
	done chan struct{}
	exit *apiv1.Exit // set before done is closed
}

func newRecord(id string, spec *apiv1.SpawnRequest, domain string, now time.Time) *record {
	r := &record{
		id: id, name: spec.GetName(), created: now,
		done: make(chan struct{}), settled: make(chan struct{}), domName: domain, saving: new(sync.Mutex),
		state: abi.StateStarting, execs: make(map[int32]*further),
	}
	r.specs.Store(spec)
	return r
}

// spec is what the agent was spawned with, or is by its last upgrade. Nobody changes
// it.
func (r *record) spec() *apiv1.SpawnRequest { return r.specs.Load() }

func (r *record) final() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.Final()
}

// label is how messages name the agent.
func (r *record) label() string {
	if r.name != "" {
		return r.name
	}
	return r.id
}

// finish sets the final state, once, and reports whether it did. Who gets true
// saves or removes the record and then closes settled.
func (r *record) finish(state abi.State, exit *apiv1.Exit, when time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.Final() {
		return false
	}
	r.state, r.exit, r.ended, r.domain = state, exit, when, nil
	for _, e := range r.execs {
		e.finish(exit)
	}
	close(r.done)
	return true
}

// finish is called with the record's mu held.
func (e *further) finish(exit *apiv1.Exit) {
	if e.exit == nil {
		e.exit = exit
		close(e.done)
	}
}

// execOf returns the record of a further process, making it when the event of
// its end overtakes the response to its start.
func (r *record) execOf(id int32) *further {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.execs[id]
	if e == nil {
		e = &further{done: make(chan struct{})}
		r.execs[id] = e
		r.forgetExecs()
		if r.state.Final() {
			e.finish(r.exit)
		}
	}
	return e
}

// keptExecs is how many further processes of one agent are remembered, so that
// somebody can still wait for one that has ended.
const keptExecs = 256

// forgetExecs forgets the oldest processes that have ended, while there are too
// many. Their numbers only grow.
//
// +checklocks:r.mu
func (r *record) forgetExecs() {
	for len(r.execs) > keptExecs {
		oldest := int32(-1)
		for id, e := range r.execs {
			if e.exit != nil && (oldest < 0 || id < oldest) {
				oldest = id
			}
		}
		if oldest < 0 {
			return // All still run.
		}
		delete(r.execs, oldest)
	}
}

// running returns the domain of an agent that has not ended.
func (r *record) running() (*domain, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.domain == nil && !r.state.Final() {
		return nil, errdefs.New(errdefs.WrongState, "the agent is starting", errdefs.Resource("%s", r.label()))
	}
	if r.state.Final() {
		what := "the agent has ended"
		if r.state == abi.StateLost {
			what = "the agent was lost with its domain"
		}
		return nil, errdefs.New(errdefs.AgentNotRunning, what, errdefs.Resource("%s", r.label()))
	}
	return r.domain, nil
}

// proto describes the agent to clients.
func (r *record) proto() *apiv1.Agent {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := &apiv1.Agent{
		Id: r.id, Name: r.name, Domain: r.domName, State: string(r.state),
		Image: imageName(r.spec()), Argv: argvFrom(r.spec()), Template: r.spec().GetFrom(),
		CreatedUnixNano: r.created.UnixNano(), Labels: r.spec().GetLabels(),
		Exit: r.exit, Restarts: r.wish.proto(), ClonedFrom: r.from, Specialized: r.special,
	}
	if !r.ended.IsZero() {
		a.EndedUnixNano = r.ended.UnixNano()
	}
	return a
}

// tokenNames are the IDs of the token that the agent was spawned with.
func (r *record) tokenNames() []string {
	var out []string
	for _, id := range r.tokens {
		out = append(out, id.String())
	}
	return out
}

func toExit(e control.Exit) *apiv1.Exit {
	return &apiv1.Exit{Code: e.Code, Signal: e.Signal, Reason: e.Reason, Again: e.Again}
}

func (d *System) recordPath(id string) string { return filepath.Join(d.paths.Agents, id+".json") }
func (d *System) logPath(id string) string    { return filepath.Join(d.paths.Agents, id+".log") }

// create writes the record of a new agent, in one call: a daemon that is killed
// within it leaves a torn file, which the next one drops.
func (d *System) create(r *record) error {
	raw, err := d.encode(r)
	if err != nil {
		return err
	}
	path := d.recordPath(r.id)
	return diskError(os.WriteFile(path, raw, 0o600), "write record", path)
}

// save replaces the record. A crash of the host may lose it; its agent is gone
// then too.
func (d *System) save(r *record) error {
	r.saving.Lock()
	defer r.saving.Unlock()
	return d.replace(r)
}

// saveKnown is save, unless the agent was removed meanwhile or has a new record.
func (d *System) saveKnown(r *record) error {
	r.saving.Lock()
	defer r.saving.Unlock()
	d.mu.Lock()
	known := d.agents[r.id] == r
	d.mu.Unlock()
	if !known {
		return nil
	}
	return d.replace(r)
}

// replace is save, with r.saving held.
func (d *System) replace(r *record) error {
	raw, err := d.encode(r)
	if err != nil {
		return err
	}
	path := d.recordPath(r.id)
	tmp := path + ".new"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		os.Remove(tmp)
		return diskError(err, "write record", path)
	}
	return diskError(os.Rename(tmp, path), "write record", path)
}

func (d *System) encode(r *record) ([]byte, error) {
	m := &apiv1.InspectResponse{Agent: r.proto(), Spec: r.spec(), Tokens: r.tokenNames()}
	r.mu.Lock()
	m.ImageDigest = r.digest
	if u := r.upgrading; u != nil && !r.state.Final() {
		m.Upgrade = &apiv1.PendingUpgrade{Token: u.token, ImageDigest: u.digest, Spec: u.spec}
	}
	dom := r.domain
	r.mu.Unlock()
	if dom != nil {
		dom.mu.Lock()
		m.Domain = &apiv1.Domain{Name: dom.name, Pid: int32(dom.info.PID)}
		dom.mu.Unlock()
	}
	raw, err := protojson.Marshal(m)
	return raw, errdefs.Wrap(err, errdefs.Internal, "encode record")
}

// diskError wraps an error of the host's disk.
func diskError(err error, op, path string) error {
	if err == nil {
		return nil
	}
	code, fix := errdefs.HostIO, ""
	if isFull(err) {
		code, fix = errdefs.DiskFull, "free space on the disk of the state directory"
	}
	return errdefs.Wrap(err, code, op, errdefs.Resource("%s", path), errdefs.Fix("%s", fix))
}

func isFull(err error) bool {
	for _, e := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// erase removes the files of an agent.
func (d *System) erase(id string) {
	os.Remove(d.recordPath(id))
	os.Remove(d.logPath(id))
	// Events of its end may be on their way.
	d.clock.AfterFunc(nameKept, func() { d.eventNames.Delete(id) })
}

// nameKept is how long events of an agent that is gone show its name.
const nameKept = time.Minute

// loadRecords reads the records of an earlier daemon, and removes files of
// agents that do not belong to one. Other files are not ours.
func (d *System) loadRecords() map[string]*record {
	out := make(map[string]*record)
	entries, err := os.ReadDir(d.paths.Agents)
	if err != nil {
		d.log.Error("reading records", "err", err)
		return out
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !abi.IsAgentID(id) {
			continue
		}
		raw, err := os.ReadFile(d.recordPath(id))
		var m apiv1.InspectResponse
		if err == nil {
			err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, &m)
		}
		if err != nil || m.GetAgent().GetId() != id {
			d.log.Warn("dropping an unreadable record", "agent", id, "err", err)
			d.erase(id)
			continue
		}
		out[id] = d.fromProto(&m)
	}
	for _, e := range entries {
		id, suffix, _ := strings.Cut(e.Name(), ".")
		if abi.IsAgentID(id) && (out[id] == nil || strings.HasSuffix(suffix, ".new")) {
			os.Remove(filepath.Join(d.paths.Agents, e.Name()))
		}
	}
	return out
}

func (d *System) fromProto(m *apiv1.InspectResponse) *record {
	a := m.GetAgent()
	r := newRecord(a.GetId(), m.GetSpec(), a.GetDomain(), time.Unix(0, a.GetCreatedUnixNano()))
	r.name = a.GetName()
	r.special = a.GetSpecialized()
	if r.isTemplate() {
		r.hear() // Nobody waits for its end: it is forgotten at once.
	}
	if r.from = a.GetClonedFrom(); r.from == "" { // A copy cannot be started again.
		r.wish = d.newWish(r.spec(), a.GetRestarts())
	}
	for _, t := range m.GetTokens() {
		if id, err := token.ParseID(t); err == nil {
			r.tokens = append(r.tokens, id)
		}
	}
	r.process = m.GetDomain().GetPid()
	if u := m.GetUpgrade(); u != nil {
		r.upgrading = &upgrading{token: u.GetToken(), digest: u.GetImageDigest(), spec: u.GetSpec()} // +checklocksignore: nobody else knows r yet.
	}
	r.digest = m.GetImageDigest() // +checklocksignore: nobody else knows r yet.
	r.heardOf = a.GetState() != string(abi.StateStarting) || r.wish.begunBefore()
	if s := abi.State(a.GetState()); s.Final() {
		r.finish(s, a.GetExit(), time.Unix(0, a.GetEndedUnixNano()))
		close(r.settled)
	}
	return r
}

// imageName is the image that a spec asks for.
func imageName(spec *apiv1.SpawnRequest) string {
	if n := spec.GetImage(); n != "" {
		return n
	}
	return "host"
}

func cloneInspect(m *apiv1.InspectResponse) *apiv1.InspectResponse {
	return proto.Clone(m).(*apiv1.InspectResponse)
}

func cloneSpec(spec *apiv1.SpawnRequest) *apiv1.SpawnRequest {
	return proto.Clone(spec).(*apiv1.SpawnRequest)
}
