package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/images"
	"aios.dev/aios/ktime/zone"
	"aios.dev/aios/lifecycle"
	"aios.dev/aios/seccomp"
	"aios.dev/aios/sentry/trap"
)

// Defaults of an agent's limits.
const (
	// defaultTasks is how many processes and threads an agent may have.
	defaultTasks = 512
	// minMemory is the least that an agent's default memory limit comes to,
	// in bytes; it is a quarter of the host's otherwise.
	minMemory = 512 << 20
	// leastMemory is the least limit that makes sense, in bytes.
	leastMemory = 1 << 20
	// maxArgs bounds the arguments and the environment of a program, in
	// bytes, as Linux does.
	maxArgs = 2 << 20
)

// spawn creates an agent. stream, when not nil, is joined to its first process
// and is consumed.
func (d *System) spawn(ctx context.Context, req *apiv1.SpawnRequest, stream *os.File) (_ *record, warnings []string, err error) {
	if stream != nil {
		defer stream.Close()
	}
	id := string(abi.NewAgentID())
	if err := checkSpawn(req); err != nil {
		return nil, nil, err
	}
	domName := req.GetDomain()
	switch {
	case req.GetIsolated():
		domName = "only-" + id
	case domName == "":
		domName = defaultDomain
	}
	req = cloneSpec(req)
	if req.GetFrom() != "" {
		if domName, err = d.takeAfter(req); err != nil {
			return nil, nil, err
		}
	}
	if err := boundMemory(req); err != nil {
		return nil, nil, err
	}
	req.Limits = limitsOf(req)
	r := newRecord(id, req, domName, d.clock.Now())
	r.wish = d.newWish(req, nil)
	if stream != nil {
		r.hear() // Its end may come before the client's stream is set up.
	}
	b := bearerFrom(ctx)
	if b != nil {
		r.tokens = b.IDs
	}
	if err := d.reserve(b, r); err != nil {
		return nil, nil, err
	}
	warnings, err = d.begin(ctx, r, launching{
		actor: actor(ctx), stream: stream, log: d.newLog, write: d.create, failed: func(error) { d.disown(r) },
	})
	if err != nil {
		return nil, nil, err
	}
	return r, warnings, nil
}

// launching is how an agent is begun: for the first time, or again.
type launching struct {
	actor  control.Actor
	stream *os.File
	// log opens the agent's log and says how much it holds.
	log func(id string) (*os.File, int64, error)
	// write puts the record on disk, before the kernel process is asked.
	write func(*record) error
	// failed ends the record of an agent that did not come to be.
	failed func(error)
	// op is that of the entry in the audit trail; "": spawn.
	op string
}

// begin starts the agent of a record that is known, and its domain if need be.
func (d *System) begin(ctx context.Context, r *record, l launching) (warnings []string, err error) {
	alone := func() {} // ends the domain if it has nobody else
	defer func() {
		if err != nil {
			l.failed(err)
			alone()
		}
	}()
	req := r.spec()
	call, err := d.askHooks(ctx, lifecycle.Spawn, r, func(op *lifecycle.Operation) {
		op.Again, op.Caller.Name, op.Correlation = l.op != "", l.actor.Name, l.actor.Correlation
	})
	if err != nil {
		return nil, err
	}
	defer func() { call.Done(err) }()
	var dom *domain
	if req.GetFrom() == "" {
		dom, warnings, err = d.domainFor(ctx, r.domName, req)
	} else {
		dom, err = d.templateDomain(req, r.domName)
	}
	if err != nil {
		return nil, err
	}
	if req.GetIsolated() {
		alone = func() { d.stopDomain(dom) }
	}
	krq, digest, err := dom.prepare(ctx, r.id, req)
	if err != nil {
		return nil, err
	}
	krq.Actor = l.actor
	krq.Name = req.GetName()
	krq.Attach = l.stream != nil
	logFile, size, err := l.log(r.id)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	krq.LogBytes = size
	r.mu.Lock()
	r.domain, r.digest = dom, digest
	r.mu.Unlock()
	r.wish.begun() // First: a daemon that is killed leaves a record of which start it was.
	if err := l.write(r); err != nil {
		return nil, err
	}
	files := []*os.File{logFile}
	if l.stream != nil {
		files = append(files, l.stream)
	}
	if err := dom.call(ctx, control.MethodSpawn, krq, nil, files...); err != nil {
		switch errdefs.CodeOf(err) {
		case errdefs.Cancelled, errdefs.DomainDied:
			// The kernel process may have started it all the same.
			go dom.discard(r.id)
		}
		return nil, errdefs.Wrap(err, errdefs.Internal, "spawn agent", errdefs.Resource("%s", r.name))
	}
	d.begun(r)
	dom.regroup()
	d.record(audit.Entry{
		Op: orElse(l.op, "spawn"), Domain: r.domName, Actor: krq.Actor.Name, Agent: r.id, Target: r.name,
		Reason: strings.TrimSpace(req.GetProfile() + " " + fromOf(req) + strings.Join(krq.Process.Argv, " ")), Correlation: krq.Actor.Correlation,
	})
	return warnings, nil
}

// begun notes that the kernel process has the agent. The next daemon must not take
// it for one that never came to be.
func (d *System) begun(r *record) {
	r.mu.Lock()
	if r.state == abi.StateStarting {
		r.state = abi.StateRunning
	}
	r.mu.Unlock()
	if err := d.saveKnown(r); err != nil {
		d.log.Error("saving record", "agent", r.id, "err", err)
	}
}

// newLog makes the log of a new agent.
func (d *System) newLog(id string) (*os.File, int64, error) {
	f, err := os.OpenFile(d.logPath(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return f, 0, diskError(err, "create log", d.logPath(id))
}

// disown forgets an agent that never came to be. Its domain may die meanwhile
// and would save what became of the agent: whoever comes second waits.
func (d *System) disown(r *record) {
	r.wish.end("it never came to be")
	if r.finish(abi.StateLost, nil, d.clock.Now()) {
		close(r.settled)
	} else {
		<-r.settled
	}
	d.remove(r)
}

// discard ends an agent that nobody wants any more.
func (dom *domain) discard(id string) {
	ctx, cancel := background(adoptTimeout)
	defer cancel()
	for {
		err := dom.call(ctx, control.MethodSignal, control.SignalRequest{ID: id, Signal: int32(unix.SIGKILL)}, nil)
		if errdefs.CodeOf(err) != errdefs.DomainDied {
			return
		}
		select { // Perhaps the domain is connected to again.
		case <-dom.gone:
			return
		case <-ctx.Done():
			return
		case <-after(dom.d.clock, againPause):
		}
	}
}

// checkSpawn refuses what makes no sense before anything is started.
func checkSpawn(req *apiv1.SpawnRequest) error {
	bad := func(detail, fix string, args ...any) error {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("spawn agent"), errdefs.Fix(fix, args...))
	}
	const nameRule = "use 1 to 63 letters, digits, '.', '_' and '-', starting with a letter or digit"
	switch {
	case req.GetName() != "" && !abi.ValidName(req.GetName()):
		return bad(strconv.Quote(req.GetName())+" cannot name an agent", nameRule)
	case req.GetDomain() != "" && !abi.ValidName(req.GetDomain()):
		return bad(strconv.Quote(req.GetDomain())+" cannot name a domain", nameRule)
	case req.GetDomain() != "" && req.GetIsolated():
		return bad("an isolated agent gets a domain of its own", "give either --domain or --isolated")
	case req.GetHostname() != "" && !abi.ValidName(req.GetHostname()):
		return bad(strconv.Quote(req.GetHostname())+" cannot be a host name", nameRule)
	}
	if z := req.GetTimeZone(); z != "" {
		if _, err := zone.Load(z); err != nil {
			return errdefs.Wrap(err, errdefs.InvalidArgument, "spawn agent")
		}
	}
	if err := checkClock(req.GetOwnClock()); err != nil {
		return err
	}
	if mem := req.GetLimits().GetMemoryBytes(); mem != 0 && mem < leastMemory {
		return bad(fmt.Sprintf("no program runs in %d bytes of memory", mem), "give at least 1M; a number without a unit is bytes")
	}
	if err := checkSwap("spawn agent", req.GetLimits().GetSwapBytes()); err != nil {
		return err
	}
	if err := checkProcess(req.GetProcess()); err != nil {
		return err
	}
	if len(req.GetSeccomp()) > 0 { // Here its lines are as they were written.
		if _, err := seccomp.Parse(req.GetSeccomp(), seccomp.Surroundings{}); err != nil {
			return errdefs.Wrap(err, errdefs.SeccompInvalid, "read seccomp profile")
		}
	}
	if _, err := trap.ParseFaults(req.GetOnFault()); err != nil {
		return errdefs.Wrap(err, errdefs.InvalidArgument, "read the policy on faults")
	}
	if _, err := trap.ParseViolations(req.GetOnViolation()); err != nil {
		return errdefs.Wrap(err, errdefs.InvalidArgument, "read the policy on violations")
	}
	if _, err := trap.ParseOOM(req.GetOnOom()); err != nil {
		return errdefs.Wrap(err, errdefs.InvalidArgument, "read what is done when memory runs out")
	}
	if err := checkWatchdog(req.GetWatchdog()); err != nil {
		return err
	}
	if err := checkRestart(req); err != nil {
		return err
	}
	if err := checkTemplate(req); err != nil {
		return err
	}
	for _, m := range req.GetMounts() {
		if !filepath.IsAbs(m.GetSource()) || !filepath.IsAbs(m.GetTarget()) || filepath.Clean(m.GetTarget()) == "/" {
			return bad("a mount needs two absolute paths, and a target below /: "+strconv.Quote(m.GetSource()+":"+m.GetTarget()),
				"write --mount SOURCE:TARGET")
		}
	}
	return nil
}

// checkProcess refuses a malformed process. An image may supply the program,
// so an empty command line is looked at later.
func checkProcess(p *apiv1.Process) error {
	size := 0
	for _, s := range append(append([]string(nil), p.GetArgv()...), p.GetEnv()...) {
		size += len(s) + 1
		if strings.ContainsRune(s, 0) {
			return errdefs.New(errdefs.InvalidArgument, "an argument or variable holds a NUL byte")
		}
	}
	if size > maxArgs {
		return errdefs.Newf(errdefs.InvalidArgument, "arguments and environment have %d bytes, more than the %d that Linux allows", size, maxArgs)
	}
	for _, e := range p.GetEnv() {
		if i := strings.IndexByte(e, '='); i < 1 {
			return errdefs.New(errdefs.InvalidArgument, "a variable is not NAME=value", errdefs.Resource("%q", e))
		}
	}
	if p.GetCwd() != "" && !filepath.IsAbs(p.GetCwd()) {
		return errdefs.New(errdefs.InvalidArgument, "the working directory is not absolute", errdefs.Resource("%q", p.GetCwd()))
	}
	return nil
}

// reserve makes the record known under its ID and name. b is the bearer who
// spawns, or nil.
func (d *System) reserve(b *bearer, r *record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b != nil { // Here, so that two at once do not both get the last place.
		if err := b.AllowSpawn(r.name, r.spec().GetLabels(), d.alive); err != nil {
			return err
		}
	}
	if r.name != "" {
		if other := d.names[r.name]; other != nil {
			return errdefs.New(errdefs.AgentNameTaken, "agent "+other.id+" has that name",
				errdefs.Op("spawn agent"), errdefs.Resource("%s", r.name),
				errdefs.Fix("choose another name, or remove that agent with `aiosctl rm -f %s`", r.name))
		}
		d.names[r.name] = r
	}
	d.agents[r.id] = r
	d.eventNames.Store(r.id, r.name)
	return nil
}

// alive counts the agents that have not ended and were spawned with the token
// that ends with a block, or with one made from it.
//
// +checklocks:d.mu
func (d *System) alive(block token.ID) int {
	n := 0
	for _, r := range d.agents {
		if slices.Contains(r.tokens, block) && !r.final() {
			n++
		}
	}
	return n
}

// limitsOf returns the limits that an agent asked for, with the defaults where
// it did not.
func limitsOf(req *apiv1.SpawnRequest) *apiv1.Limits {
	l := &apiv1.Limits{}
	if req.GetLimits() != nil {
		l = proto.Clone(req.GetLimits()).(*apiv1.Limits)
	}
	if l.MemoryBytes == 0 {
		l.MemoryBytes = max(hostMemory()/4, minMemory)
	}
	if l.DiskBytes == 0 {
		l.DiskBytes = l.MemoryBytes
	}
	if l.Processes == 0 {
		l.Processes = defaultTasks
	}
	return l
}

func (d *System) unreserve(r *record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.agents, r.id)
	if d.names[r.name] == r {
		delete(d.names, r.name)
	}
}

// prepare turns a client's request into one to the kernel process, which it
// gives the file systems it lacks.
func (dom *domain) prepare(ctx context.Context, id string, req *apiv1.SpawnRequest) (control.SpawnRequest, string, error) {
	k := control.SpawnRequest{ID: id, Hostname: req.GetHostname()}
	if k.Hostname == "" {
		k.Hostname = orElse(req.GetName(), id)
	}
	k.OnFault, k.OnViolation, k.OnOOM = req.GetOnFault(), req.GetOnViolation(), req.GetOnOom()
	k.Watchdog, k.OnWatchdog = req.GetWatchdog().GetTimeoutNanos(), req.GetWatchdog().GetOnExpiry()
	k.DiskBytes, k.Seccomp = req.GetLimits().GetDiskBytes(), req.GetSeccomp()
	k.Clock = ownClock(req.GetOwnClock())
	var err error
	if k.Grants, err = dom.grantsOf(ctx, req); err != nil {
		return k, "", err
	}
	k.Template = warmUp(req.GetTemplate())
	if req.GetFrom() != "" {
		return dom.fromTemplate(k, req)
	}
	dom.startMu.Lock()
	defer dom.startMu.Unlock()
	root, img, err := dom.image(ctx, req.GetImage())
	if err != nil {
		return k, "", err
	}
	k.Root = root
	if k.Process, err = process(req.GetProcess(), img.Config, req.GetTimeZone()); err != nil {
		return k, "", err
	}
	if z := req.GetTimeZone(); z != "" {
		k.Zone = &control.Zone{Name: z}
		if k.Zone.Data, err = zone.Load(z); err != nil {
			return k, "", err
		}
	}
	return k, img.Digest, nil
}

// process completes a request with what the image says, but for the time zone if
// the agent has one of its own.
func process(p *apiv1.Process, img images.Config, tz string) (control.Process, error) {
	argv := p.GetArgv()
	switch {
	case len(argv) == 0:
		argv = append(append([]string(nil), img.Entrypoint...), img.Cmd...)
	case len(img.Entrypoint) > 0:
		argv = append(append([]string(nil), img.Entrypoint...), argv...)
	}
	if len(argv) == 0 {
		return control.Process{}, errdefs.New(errdefs.InvalidArgument, "no program given, and the image names none",
			errdefs.Op("spawn agent"), errdefs.Fix("append -- PROGRAM [ARGUMENT...]"))
	}
	env := img.Env
	if tz != "" {
		env = slices.DeleteFunc(slices.Clone(env), func(e string) bool { return strings.HasPrefix(e, "TZ=") })
	}
	if p.GetTty() {
		env = merge(env, []string{"TERM=xterm"})
	}
	return control.Process{
		Argv: argv, Env: merge(merge(images.DefaultEnv(), env), p.GetEnv()),
		Cwd: orElse(p.GetCwd(), orElse(img.WorkingDir, "/")), User: orElse(p.GetUser(), img.User),
		TTY: p.GetTty(), Stdin: p.GetStdin(),
		Rows: uint16(p.GetRows()), Cols: uint16(p.GetCols()),
	}, nil
}

// merge returns the variables of base overridden by those of top.
func merge(base, top []string) []string {
	out := make([]string, 0, len(base)+len(top))
	at := make(map[string]int, cap(out))
	for _, list := range [][]string{base, top} {
		for _, e := range list {
			name, _, _ := strings.Cut(e, "=")
			if i, ok := at[name]; ok {
				out[i] = e
				continue
			}
			at[name] = len(out)
			out = append(out, e)
		}
	}
	return out
}

// image makes an image known to the kernel process and says how to compose a
// root of it.
//
// +checklocks:dom.startMu
func (dom *domain) image(ctx context.Context, name string) (control.Root, images.Image, error) {
	if name == "" || name == images.HostName {
		return dom.hostImage(ctx)
	}
	img, err := dom.d.imageNamed(name)
	if err != nil {
		return control.Root{}, img, err
	}
	key := "erofs:" + img.Digest
	root := control.Root{Base: key}
	if dom.mounts[key] {
		return root, img, nil
	}
	f, img, err := dom.d.images.Open(name)
	if err != nil {
		return root, img, err
	}
	defer f.Close()
	// The name may have been given to another image meanwhile.
	key = "erofs:" + img.Digest
	return control.Root{Base: key}, img, dom.mount(ctx, control.MountRequest{Key: key, Kind: control.KindEROFS, ReadOnly: true}, f)
}

// hostImage composes the host image: a skeleton, and the host's program
// directories through gofers. It stays as it was first composed for as long as
// the domain lives.
//
// +checklocks:dom.startMu
func (dom *domain) hostImage(ctx context.Context) (control.Root, images.Image, error) {
	img := images.Image{Name: images.HostName}
	if dom.host != nil {
		return *dom.host, img, nil
	}
	h, f, err := dom.d.images.HostImage(ctx, images.HostOptions{})
	if err != nil {
		return control.Root{}, img, err
	}
	defer f.Close()
	root := control.Root{Base: "host:" + h.Image.Digest, Hide: h.Hide}
	if err := dom.mount(ctx, control.MountRequest{Key: root.Base, Kind: control.KindEROFS, ReadOnly: true}, f); err != nil {
		return root, img, err
	}
	for _, m := range h.Mounts {
		key, err := dom.serve(ctx, "host:"+m.Host, hostDir{root: m.Host}, true, true)
		if err != nil {
			return root, img, err
		}
		root.Layers = append(root.Layers, control.Bind{Key: key, Target: m.Guest})
	}
	dom.host = &root
	return root, img, nil
}

// mount gives the kernel process a file system.
//
// +checklocks:dom.startMu
func (dom *domain) mount(ctx context.Context, req control.MountRequest, f *os.File) error {
	if err := dom.call(ctx, control.MethodMount, req, nil, f); err != nil {
		return err
	}
	dom.mounts[req.Key] = true
	return nil
}

// gofer makes a directory known to the kernel process.
//
// +checklocks:dom.startMu
func (dom *domain) gofer(ctx context.Context, dir hostDir, readonly bool) (string, error) {
	mode := "rw:"
	if readonly {
		mode = "ro:"
	}
	return dom.serve(ctx, mode+dir.String(), dir, readonly, false)
}

// serve starts a gofer for dir unless the key is known. The gofer ends when
// the kernel process does.
//
// +checklocks:dom.startMu
func (dom *domain) serve(ctx context.Context, key string, dir hostDir, readonly, image bool) (string, error) {
	if dom.mounts[key] {
		return key, nil
	}
	ours, err := dom.startGofer(key, dir, readonly, image)
	if err != nil {
		return "", err
	}
	defer ours.Close()
	if err := dom.mount(ctx, control.MountRequest{Key: key, Kind: control.KindGofer, ReadOnly: readonly, Image: image}, ours); err != nil {
		return key, err
	}
	dom.mendCut(goferComponent(dom, dir))
	return key, nil
}

// startGofer starts a gofer for dir and returns the end of its connection that is
// for the kernel process.
func (dom *domain) startGofer(key string, dir hostDir, readonly, image bool) (*os.File, error) {
	root, err := dir.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "connect a gofer")
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "gofer"), os.NewFile(uintptr(fds[1]), "gofer")
	cmd, done, err := dom.d.goferCommand(dom.name, root, theirs, readonly, image)
	if err != nil {
		theirs.Close()
		ours.Close()
		return nil, err
	}
	defer done()
	err = cmd.Start()
	theirs.Close() // Or the kernel process would wait for a gofer that has died.
	if err != nil {
		ours.Close()
		return nil, errdefs.Wrap(err, errdefs.HostIO, "start a gofer")
	}
	go dom.awaitGofer(cmd, key, dir, image) // It ends when the kernel process closes the connection.
	return ours, nil
}
