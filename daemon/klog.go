package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/klog"
)

// Suffixes of the rings of logs. A kernel process that crashes leaves its ring
// under the second name, for as long as no other of its domain crashes.
const (
	ringSuffix    = ".klog"
	crashedSuffix = ".klog.crashed"
)

// keptCrashes is how many rings of isolated domains that crashed are kept:
// no other domain will have their names.
const keptCrashes = 16

// openLog opens the daemon's own log. The ring of the daemon before stays
// under another name.
func (d *System) openLog() error {
	settings, err := klog.ParseSettings(d.logging.Levels)
	if err != nil {
		return err
	}
	cfg := klog.Config{
		Clock: d.clock, Out: os.Stderr, OutLevel: slog.LevelDebug, JSON: d.logging.JSON, Settings: settings,
	}
	os.Rename(d.paths.LogRing, d.paths.LogRing+".crashed")
	f, err := klog.Create(d.paths.LogRing)
	if err == nil {
		cfg.Ring, err = klog.Map(f, "daemon", d.clock.Now().UnixNano())
		f.Close()
	}
	d.klog = klog.New(cfg)
	d.log = d.klog.Subsystem("daemon")
	if err != nil { // The file that it writes besides is enough to go on.
		d.log.Warn("the daemon's log is not kept in memory", "err", err)
	}
	return nil
}

// newRing makes the ring of a kernel process that is about to start, or
// returns nil.
func (d *System) newRing(name string) *os.File {
	path := d.domainPath(name, ringSuffix)
	os.Remove(path) // Who reads the old one may go on.
	f, err := klog.Create(path)
	if err != nil {
		d.log.Warn("the domain's log will not be kept", "domain", name, "err", err)
		return nil
	}
	return f
}

// settleRing puts the ring of a kernel process that has ended where it belongs.
func (d *System) settleRing(name string, isolated bool) {
	path := d.domainPath(name, ringSuffix)
	f, err := os.Open(path)
	if err != nil {
		return
	}
	c, err := klog.Read(f)
	f.Close()
	n := len(c.Records)
	switch {
	case err == nil && n > 0 && c.Records[n-1].Message != control.KlogEnded:
		os.Rename(path, d.domainPath(name, crashedSuffix))
		if isolated {
			d.sweepCrashes()
		}
	case isolated || err != nil:
		os.Remove(path)
	}
}

// sweepCrashes keeps the newest rings of isolated domains that crashed.
func (d *System) sweepCrashes() {
	paths, _ := filepath.Glob(d.domainPath("only-*", crashedSuffix))
	age := func(path string) time.Time {
		if fi, err := os.Stat(path); err == nil {
			return fi.ModTime()
		}
		return time.Time{}
	}
	slices.SortFunc(paths, func(a, b string) int { return age(b).Compare(age(a)) })
	for _, p := range paths[min(len(paths), keptCrashes):] {
		os.Remove(p)
	}
}

// kernelService serves the API's service Kernel.
type kernelService struct {
	apiv1.UnimplementedKernelServer
	d *System
}

// runningDomain returns the domain of that name, which runs.
func (d *System) runningDomain(op, name string) (*domain, error) {
	for _, dom := range d.liveDomains() {
		if dom.name == name {
			return dom, nil
		}
	}
	return nil, errdefs.New(errdefs.DomainNotFound, "no such domain runs", errdefs.Op(op),
		errdefs.Resource("%q", name), errdefs.Fix("`aiosctl domain ls` lists them"))
}

// openRing opens the ring that a request asks for, and returns a remark about
// it and what is closed when its writer ends.
func (d *System) openRing(req *apiv1.KlogRequest) (f *os.File, remark string, gone <-chan struct{}, err error) {
	name := req.GetDomain()
	path, of := d.domainPath(name, ringSuffix), "domain "+name
	if name == "" {
		path, of = d.paths.LogRing, "the daemon"
	} else if !abi.ValidName(name) {
		return nil, "", nil, errdefs.New(errdefs.InvalidArgument, "it is no name of a domain", errdefs.Resource("%q", name),
			errdefs.Fix("`aiosctl domain ls` lists the domains"))
	}
	crashed := strings.TrimSuffix(path, ringSuffix) + crashedSuffix
	running := name == ""
	if dom, err := d.runningDomain("", name); err == nil && name != "" {
		running, gone = true, dom.gone
	}
	switch {
	case req.GetCrashed():
		path, gone = crashed, closed
	case running:
		if _, err := os.Stat(crashed); err == nil && name != "" {
			remark = "a kernel process of " + of + " crashed; --crashed shows what it logged"
		}
	default:
		gone = closed
		if _, err := os.Stat(path); err != nil {
			path = crashed
		}
	}
	f, err = os.Open(path)
	if os.IsNotExist(err) {
		if req.GetCrashed() {
			return nil, "", nil, errdefs.New(errdefs.NotFound, "no log of a crash is kept", errdefs.Op("read the kernel log"), errdefs.Resource("%s", of),
				errdefs.Fix("leave --crashed out"))
		}
		return nil, "", nil, errdefs.New(errdefs.DomainNotFound, "it does not run, and nothing it logged is kept", errdefs.Op("read the kernel log"),
			errdefs.Resource("%s", of), errdefs.Fix("`aiosctl domain ls` lists the domains"))
	}
	if err != nil {
		return nil, "", nil, errdefs.Wrap(err, errdefs.HostIO, "read the kernel log")
	}
	if path == crashed && name != "" {
		remark = "the kernel process of " + of + " crashed; this is what it had logged"
	} else if !running {
		remark = "the kernel process of " + of + " has ended; this is what it had logged"
	}
	return f, remark, gone, nil
}

// closed is a channel that is.
var closed = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// klogEvery is how often a log that is followed is looked at.
const klogEvery = 100 * time.Millisecond

// Klog implements the RPC.
func (k *kernelService) Klog(req *apiv1.KlogRequest, stream apiv1.Kernel_KlogServer) error {
	want, err := k.d.klogFilter(req)
	if err != nil {
		return err
	}
	f, remark, gone, err := k.d.openRing(req)
	if err != nil {
		return err
	}
	defer f.Close()
	if remark != "" {
		if err := stream.Send(&apiv1.KlogRecord{Remark: remark}); err != nil {
			return err
		}
	}
	ctx, last := stream.Context(), uint64(0)
	for {
		ended := false
		select {
		case <-gone:
			ended = true
		default:
		}
		if n := klog.Last(f); n != last || ended {
			if last, err = sendRecords(stream, f, last, want); err != nil {
				return err
			}
		}
		if ended || !req.GetFollow() {
			return nil
		}
		if !k.d.sleep(ctx, gone, klogEvery) {
			return nil
		}
	}
}

// sleep waits, at most for d, for gone; it reports whether ctx goes on.
func (d *System) sleep(ctx context.Context, gone <-chan struct{}, for_ time.Duration) bool {
	wake := make(chan struct{})
	t := d.clock.AfterFunc(for_, func() { close(wake) })
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-gone:
	case <-wake:
	}
	return true
}

// sendRecords sends what came after the record numbered last, and returns the
// number of the last one now.
func sendRecords(stream apiv1.Kernel_KlogServer, f *os.File, last uint64, want func(*klog.Record) bool) (uint64, error) {
	c, err := klog.Read(f)
	if err != nil {
		if last == 0 {
			return 0, nil // The process has not begun.
		}
		return last, err
	}
	for i := range c.Records {
		r := &c.Records[i]
		if r.Seq <= last {
			continue
		}
		last = r.Seq
		if !want(r) {
			continue
		}
		if err := stream.Send(protoRecord(r)); err != nil {
			return last, err
		}
	}
	return last, nil
}

func protoRecord(r *klog.Record) *apiv1.KlogRecord {
	m := &apiv1.KlogRecord{
		Seq: r.Seq, TimeUnixNano: r.Wall, MonoNano: r.Mono, Level: klog.LevelName(r.Level), Subsystem: r.Subsystem,
		Agent: r.Agent, Message: r.Message, Suppressed: r.Suppressed,
		Text: string(bytes.TrimSuffix(r.AppendText(nil), []byte{'\n'})), Json: string(bytes.TrimSuffix(r.AppendJSON(nil), []byte{'\n'})),
	}
	if r.Attrs != "" {
		m.Attributes = "{" + r.Attrs + "}"
	}
	return m
}

// klogFilter returns what a request wants to see.
func (d *System) klogFilter(req *apiv1.KlogRequest) (func(*klog.Record) bool, error) {
	floor := slog.Level(-1 << 20)
	if req.GetLevel() != "" {
		var err error
		if floor, err = klog.ParseLevel(req.GetLevel()); err != nil {
			return nil, err
		}
	}
	agent := req.GetAgent()
	if agent != "" {
		if r, err := d.find(agent); err == nil { // Else it may be the ID of one that is forgotten.
			agent = r.id
		}
	}
	sub, since := req.GetSubsystem(), req.GetSinceUnixNano()
	return func(r *klog.Record) bool {
		return r.Level >= floor && r.Wall >= since && (agent == "" || r.Agent == agent) &&
			(sub == "" || r.Subsystem == sub || strings.HasPrefix(r.Subsystem, sub+"/"))
	}, nil
}

// KlogLevels implements the RPC.
func (k *kernelService) KlogLevels(ctx context.Context, req *apiv1.KlogLevelsRequest) (*apiv1.KlogLevelsResponse, error) {
	var in, out control.KlogLevels
	for _, l := range req.GetSet() {
		if _, err := klog.ParseLevel(l.GetLevel()); err != nil {
			return nil, err
		}
		in.Levels = append(in.Levels, control.KlogLevel{Subsystem: l.GetSubsystem(), Level: l.GetLevel()})
	}
	if req.GetDomain() == "" {
		var err error
		if out, err = control.SetKlogLevels(k.d.klog, in); err != nil {
			return nil, err
		}
	} else {
		dom, err := k.d.runningDomain("set the levels of the kernel log", req.GetDomain())
		if err != nil {
			return nil, err
		}
		if err := dom.call(ctx, control.MethodKlogLevels, in, &out); err != nil {
			return nil, err
		}
	}
	resp := &apiv1.KlogLevelsResponse{}
	for _, l := range out.Levels {
		resp.Levels = append(resp.Levels, &apiv1.KlogLevel{Subsystem: l.Subsystem, Level: l.Level, Written: l.Written, Suppressed: l.Suppressed})
	}
	return resp, nil
}
