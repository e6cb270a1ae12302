package daemon

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/images"
	"aios.dev/aios/lifecycle"
)

// restoring is a domain that is about to go on from a checkpoint.
type restoring struct {
	d   *System
	dom *domain
	dir string
	m   *manifest
	// records are of its agents, and before what was known of them.
	records []*record
	before  map[string]*record
	// crashed says that the daemon restores it by itself: what has ended since
	// stays so.
	crashed bool
	// every is how often it is saved from now on.
	every time.Duration
	// forceFiles takes files of the host as they are; changed is one that was another.
	forceFiles bool
	changed    string

	// revoked and restricted are what is less than it was.
	revoked    []capability.ID
	restricted []capability.Restriction

	parts  []*os.File
	mounts []restoringMount
	// regions are the files of the manifest's.
	regions []*os.File
	logs    []restoringLog
	all     files
}

type restoringMount struct {
	control.MountRequest
	file *os.File
}

type restoringLog struct {
	id   string
	file *os.File
	size int64
}

// DomainRestore implements the RPC.
func (d *System) DomainRestore(ctx context.Context, req *apiv1.DomainRestoreRequest) (*apiv1.DomainRestoreResponse, error) {
	if req.GetDir() == "" && !abi.ValidName(req.GetName()) {
		return nil, errdefs.New(errdefs.InvalidArgument, "it says neither which directory nor which domain", errdefs.Op("restore"),
			errdefs.Fix("name the directory that the domain was saved to"))
	}
	dir, err := d.checkpointDir(req.GetDir(), req.GetName())
	if err != nil {
		return nil, err
	}
	began := d.clock.Now()
	r, warnings, err := d.restoreDomain(ctx, dir, req.GetName(), restoreOptions{forceFiles: req.GetForceFiles()})
	if err != nil {
		return nil, err
	}
	return &apiv1.DomainRestoreResponse{
		Checkpoint: r.m.proto(dir), Name: r.dom.name, TookNanos: int64(d.clock.Since(began)), Warnings: warnings,
	}, nil
}

// restoreOptions are how a domain is restored.
type restoreOptions struct {
	crash      *domainInfo // of the domain that died, if it is in place of one
	forceFiles bool        // takes files of the host as they are
	changed    string      // one of which it is known that it has changed
}

// restoreDomain starts a kernel process that goes on from what is in dir, as the
// domain called name, or as it was called. All agents go on, or none.
//
// +checklocksignore
func (d *System) restoreDomain(ctx context.Context, dir, name string, opts restoreOptions) (_ *restoring, warnings []string, err error) {
	began := d.clock.Now()
	m, err := readManifest(dir)
	if err != nil {
		return nil, nil, err
	}
	name = orElse(name, m.Domain)
	if !abi.ValidName(name) && name != m.Domain {
		return nil, nil, errdefs.New(errdefs.InvalidArgument, "it cannot name a domain", errdefs.Op("restore"), errdefs.Resource("%q", name))
	}
	dom := d.newDomain(name)
	d.mu.Lock()
	taken := d.domains[name] != nil
	if !taken {
		d.domains[name] = dom
	}
	d.mu.Unlock()
	if taken {
		return nil, nil, errdefs.New(errdefs.AlreadyExists, "a domain of that name runs", errdefs.Op("restore"), errdefs.Resource("%s", name),
			errdefs.Fix("stop it with `aiosctl domain stop`, or give another --name"))
	}
	dom.startMu.Lock()
	defer dom.startMu.Unlock()
	r := &restoring{
		d: d, dom: dom, dir: dir, m: m, crashed: opts.crash != nil, every: m.Every, before: make(map[string]*record),
		forceFiles: opts.forceFiles, changed: opts.changed,
	}
	if r.crashed {
		r.every = opts.crash.CheckpointEvery
	}
	defer r.all.close()
	defer func() {
		if err != nil {
			dom.mu.Lock()
			info := dom.info
			dom.mu.Unlock()
			killProcess(info)
			dom.bury()
			r.undo()
		}
	}()
	if err := r.reserve(ctx); err != nil {
		return nil, nil, err
	}
	for _, rec := range r.records {
		call, refused := d.askHooks(ctx, lifecycle.Restore, rec, nil)
		if refused != nil {
			return nil, nil, refused
		}
		defer func() { call.Done(err) }() // What became of all of it.
	}
	if err := r.open(ctx); err != nil {
		return nil, nil, err
	}
	if warnings, err = r.start(ctx); err != nil {
		return nil, nil, err
	}
	r.tell(ctx, d.clock.Since(began))
	return r, warnings, nil
}

// reserve makes the records of the agents known.
func (r *restoring) reserve(ctx context.Context) error {
	d := r.d
	for _, a := range r.m.agents {
		d.mu.Lock()
		was := d.agents[a.GetAgent().GetId()]
		d.mu.Unlock()
		rec := d.fromSaved(a, was, r.dom.name)
		d.mu.Lock()
		old := d.agents[rec.id]
		holder := d.names[rec.name]
		var err error
		switch {
		case old != nil && !old.final():
			err = errdefs.New(errdefs.AgentRunning, "the agent still runs, in domain "+old.domName, errdefs.Op("restore"), errdefs.Resource("%s", rec.label()),
				errdefs.Fix("stop that domain: an agent cannot be there twice"))
		case rec.name != "" && holder != nil && holder != old:
			err = errdefs.New(errdefs.AgentNameTaken, "agent "+holder.id+" has that name", errdefs.Op("restore"), errdefs.Resource("%s", rec.name),
				errdefs.Fix("remove that agent with `aiosctl rm -f %s`", rec.name))
		default:
			if old != nil {
				r.before[rec.id] = old
				rec.saving = old.saving
			}
			d.agents[rec.id] = rec
			if rec.name != "" {
				d.names[rec.name] = rec
			}
			d.eventNames.Store(rec.id, rec.name)
			r.records = append(r.records, rec)
		}
		d.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// fromSaved returns the record of an agent that was saved, for the domain that it is
// restored in. What is known of its restarts, of old, is newer than what was saved.
func (d *System) fromSaved(m *apiv1.InspectResponse, old *record, domain string) *record {
	saved := cloneInspect(m)
	if old != nil {
		if n := old.wish.proto(); n.GetCount() > saved.Agent.GetRestarts().GetCount() {
			saved.Agent.Restarts = n
		}
	}
	saved.Agent.State, saved.Agent.Exit, saved.Agent.Domain = string(abi.StateStarting), nil, domain
	rec := d.fromProto(saved)
	rec.process = 0
	return rec
}

// undo gives the records back that reserve has replaced.
func (r *restoring) undo() {
	d := r.d
	for _, rec := range r.records {
		rec.finish(abi.StateLost, nil, d.clock.Now())
		old := r.before[rec.id]
		d.mu.Lock()
		if d.agents[rec.id] == rec {
			delete(d.agents, rec.id)
			if d.names[rec.name] == rec {
				delete(d.names, rec.name)
			}
			if old != nil {
				d.agents[rec.id] = old
				if old.name != "" {
					d.names[old.name] = old
				}
			}
		}
		d.mu.Unlock()
		if old == nil {
			os.Remove(d.recordPath(rec.id))
		}
	}
}

// open opens what the kernel process is to have.
func (r *restoring) open(ctx context.Context) error {
	since := make(chan struct{})
	go func() { // It waits for the disk.
		defer close(since)
		r.revoked, r.restricted = r.lessSince()
	}()
	defer func() { <-since }()
	// Gofers write to it.
	logFile, err := os.OpenFile(r.d.domainPath(r.dom.name, ".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return diskError(err, "create log", r.d.domainPath(r.dom.name, ".log"))
	}
	r.all.add(logFile, nil)
	mounts, err := r.openAll(len(r.m.Mounts), func(i int) (*os.File, error) { return r.openMount(ctx, r.m.Mounts[i]) })
	if err != nil {
		return err
	}
	for i, f := range mounts {
		r.mounts = append(r.mounts, restoringMount{r.m.Mounts[i], f})
	}
	// Gofers start meanwhile.
	if r.parts, err = r.openAll(len(r.m.Parts), func(i int) (*os.File, error) { return r.m.Parts[i].open(r.dir) }); err != nil {
		return err
	}
	for _, name := range r.m.Regions {
		f, err := (&fabricService{d: r.d}).reopenStored(ctx, name)
		if err != nil {
			return err
		}
		r.regions = append(r.regions, r.all.add(f, nil))
	}
	for _, rec := range r.records {
		f, size, err := r.d.oldLog(rec.id)
		if err != nil {
			return err
		}
		r.logs = append(r.logs, restoringLog{rec.id, r.all.add(f, nil), size})
	}
	return nil
}

// openAll opens n files at the same time, and keeps all of them, or none.
func (r *restoring) openAll(n int, open func(i int) (*os.File, error)) ([]*os.File, error) {
	got, errs := make([]*os.File, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { got[i], errs[i] = open(i) })
	}
	wg.Wait()
	for i, f := range got {
		if errs[i] == nil {
			r.all.add(f, nil)
		}
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return got, nil
}

// openMount opens an image, or starts a gofer.
func (r *restoring) openMount(ctx context.Context, req control.MountRequest) (*os.File, error) {
	d := r.d
	kind, what, _ := strings.Cut(req.Key, ":")
	gone := func(what string) error {
		return errdefs.New(errdefs.CheckpointMismatch, what, errdefs.Op("restore"), errdefs.Resource("%s", req.Key))
	}
	switch {
	case req.Kind == control.KindEROFS && kind == "host":
		h, f, err := d.images.HostImage(ctx, images.HostOptions{})
		if err != nil {
			return nil, err
		}
		if h.Image.Digest != what {
			f.Close()
			return nil, gone("the host image has changed since")
		}
		return f, nil
	case req.Kind == control.KindEROFS:
		list, err := d.images.List()
		if err != nil {
			return nil, err
		}
		for _, img := range list {
			if img.Digest == what {
				f, img, err := d.images.Open(img.Name)
				if err == nil && img.Digest != what {
					f.Close()
					err = gone("the image was replaced just now")
				}
				return f, err
			}
		}
		return nil, gone("no image has that digest any more")
	case req.Kind == control.KindGofer && kind == "host":
		return r.dom.startGofer(req.Key, hostDir{root: what}, req.ReadOnly, true)
	case req.Kind == control.KindGofer:
		root, below, _ := strings.Cut(what, "//")
		return r.dom.startGofer(req.Key, hostDir{orElse(root, "/"), below}, req.ReadOnly, false)
	}
	return nil, gone("it is no file system that this AIOS knows")
}

// config tells the kernel process.
func (r *restoring) config(cmd *exec.Cmd) *control.RestoreConfig {
	c := &control.RestoreConfig{StateFD: extra(cmd, r.parts[0]), MemoryFD: extra(cmd, r.parts[1]), Features: r.m.Features}
	for _, f := range r.parts[2:] {
		c.PackFDs = append(c.PackFDs, extra(cmd, f))
	}
	for _, m := range r.mounts {
		c.Mounts = append(c.Mounts, control.RestoreMount{MountRequest: m.MountRequest, FD: extra(cmd, m.file)})
	}
	for i, f := range r.regions {
		c.Regions = append(c.Regions, control.RestoreRegion{Name: r.m.Regions[i], FD: extra(cmd, f)})
	}
	for _, l := range r.logs {
		c.Logs = append(c.Logs, control.RestoreLog{ID: l.id, FD: extra(cmd, l.file), Bytes: l.size})
	}
	c.Revoked, c.Restricted = r.revoked, r.restricted
	c.ForceFiles = r.forceFiles
	if r.crashed {
		for _, rec := range r.records {
			if old := r.before[rec.id]; old == nil || !old.lostWithDomain() {
				c.Ended = append(c.Ended, rec.id)
			}
		}
	}
	return c
}

// lessSince are the capabilities that were taken back, or changed, since the checkpoint
// was made, as the audit trail has it: they do not come back with it, or as they were.
func (r *restoring) lessSince() (revoked []capability.ID, changed []capability.Restriction) {
	filter := audit.Filter{Domain: r.m.Domain, Ops: []string{
		capability.OpRevoke, capability.OpExpire, capability.OpAttenuate, capability.OpAmend, capability.OpSeal, capability.OpRenew,
	}}
	if r.m.Instance == r.d.instance { // By numbers: the clock may have been set back.
		filter.After = r.m.Trail
	} else {
		filter.Since = r.m.Made
	}
	if err := r.d.trail.Sync(); err != nil { // What was done a moment ago counts.
		r.d.log.Error("audit trail", "err", err)
	}
	at := make(map[string]int)
	for e, err := range audit.Query(r.d.trail.Dir(), filter) {
		if err != nil {
			break
		}
		if !capability.IsID(e.Cap) {
			continue
		}
		if e.Op == capability.OpRevoke || e.Op == capability.OpExpire {
			revoked = append(revoked, capability.ID(e.Cap))
			continue
		}
		i, known := at[e.Cap]
		if !known {
			i = len(changed)
			at[e.Cap] = i
			changed = append(changed, capability.Restriction{ID: capability.ID(e.Cap)})
		}
		c := &changed[i]
		c.Spec = e.Spec
		if spec, err := capability.ParseSpec(e.Spec); err == nil && spec.Lease != 0 && (e.Op == capability.OpAttenuate || e.Op == capability.OpRenew) {
			if ends := e.Time.Add(spec.Lease); c.Ends.IsZero() || ends.Before(c.Ends) {
				c.Ends = ends
			}
		}
	}
	return revoked, changed
}

// start starts the kernel process, and has the daemon know the agents that go on in
// it. Caller holds the domain's startMu.
//
// +checklocksignore
func (r *restoring) start(ctx context.Context) ([]string, error) {
	d, dom := r.d, r.dom
	choice, err := d.choosePlatform(r.m.Platform)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.CheckpointMismatch, "restore on "+r.m.Platform)
	}
	done, err := d.booting.Allow()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.BreakerOpen, "restore", errdefs.Resource("%s", dom.name))
	}
	boxes, err := dom.boot(ctx, choice, &apiv1.SpawnRequest{Isolated: r.m.Isolated}, r)
	if c := errdefs.CodeOf(err); c == errdefs.CheckpointDamaged || c == errdefs.CheckpointMismatch || c == errdefs.CheckpointFile {
		done(nil) // It says nothing about the host.
	} else {
		done(err)
	}
	if err != nil {
		return nil, err
	}
	for _, m := range r.mounts {
		dom.mounts[m.Key] = true
	}
	dom.host = r.m.Host
	var list control.ListReply
	if err := dom.call(ctx, control.MethodList, struct{}{}, &list); err != nil {
		return nil, err
	}
	known := make(map[string]*record, len(r.records))
	for _, rec := range r.records {
		known[rec.id] = rec
	}
	if !dom.compare(list.Agents, known) {
		return nil, errdefs.New(errdefs.DomainDied, "its kernel process ended at once", errdefs.Op("restore"), errdefs.Resource("%s", dom.name))
	}
	for _, st := range list.Agents {
		if rec := known[st.ID]; rec != nil {
			rec.mu.Lock()
			if s := abi.State(st.State); !rec.state.Final() && !s.Final() {
				rec.state = s
			}
			rec.mu.Unlock()
		}
	}
	for _, rec := range r.records {
		if err := d.saveKnown(rec); err != nil {
			d.log.Error("saving record", "agent", rec.id, "err", err)
		}
	}
	if r.every > 0 {
		if err := dom.setEvery(r.every); err != nil {
			d.log.Error("saving a domain from time to time", "domain", dom.name, "err", err)
		}
	}
	dom.regroup()
	d.spares.want()
	return boxWarnings(boxes), nil
}

// tell says that the domain goes on.
func (r *restoring) tell(ctx context.Context, took time.Duration) {
	d, dom := r.d, r.dom
	dom.mu.Lock()
	pid := dom.info.PID
	dom.mu.Unlock()
	age := d.clock.Since(r.m.Made)
	d.log.Info("domain restored", "domain", dom.name, "pid", pid, "dir", r.dir, "agents", len(r.records), "age", age, "took", took)
	who := control.Actor{Name: "daemon"}
	if !r.crashed {
		who = actor(ctx)
	}
	e := &eventv1.DomainRestore{Dir: r.dir, Pid: int32(pid), Took: int64(took), Age: int64(age), AfterCrash: r.crashed, ChangedFile: event.Text(r.changed)}
	var labels []string
	for _, rec := range r.records {
		e.Agents = append(e.Agents, rec.id)
		labels = append(labels, rec.label())
	}
	slices.Sort(labels)
	d.record(audit.Entry{
		Op: "restore", Domain: dom.name, Actor: who.Name, Target: strings.Join(labels, " "), Count: uint64(len(labels)),
		Reason: "from " + r.dir + ", made " + age.Round(time.Millisecond).String() + " ago", Correlation: who.Correlation,
	})
	d.emit(event.DomainRestore, "", dom.name, e)
}

// lostWithDomain reports whether an agent ended for no other reason than that its
// domain did.
func (r *record) lostWithDomain() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state == abi.StateLost
}
