package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/crash"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/hub"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/klog"
)

// Bounds of what a bundle takes from the daemon.
const (
	bundleOutput  = 8 << 20 // bytes, the end of what the process wrote
	bundleEvents  = 2000    // the newest of the domain
	bundlePast    = 10 * time.Minute
	bundleTimeout = 30 * time.Second
	eventsTimeout = 2 * time.Second
)

// bundle is a dump of a kernel process while it is collected: files in memory,
// each bounded.
type bundle struct {
	files   []bundleFile
	remarks []string
}

type bundleFile struct {
	name string
	data []byte
}

func (b *bundle) add(name string, data []byte, err error) {
	if err != nil {
		b.remarks = append(b.remarks, name+" is missing: "+err.Error())
		return
	}
	b.files = append(b.files, bundleFile{name, data})
}

func (b *bundle) addJSON(name string, v any) {
	data, err := json.MarshalIndent(v, "", "  ")
	b.add(name, append(data, '\n'), err)
}

// ours adds what the daemon knows of a kernel process.
func (d *System) ours(b *bundle, info domainInfo, agents []*record) {
	type agent struct {
		ID    string `json:"id"`
		Name  string `json:"name,omitempty"`
		Image string `json:"image"`
		State string `json:"state"`
	}
	var m struct {
		Domain  domainInfo `json:"domain"`
		Agents  []agent    `json:"agents"`
		Remarks []string   `json:"remarks,omitempty"`
	}
	m.Domain = info
	for _, r := range agents {
		r.mu.Lock()
		m.Agents = append(m.Agents, agent{r.id, r.name, r.spec().GetImage(), string(r.state)})
		r.mu.Unlock()
	}
	log, err := ringText(d.domainPath(info.Name, ringSuffix))
	b.add("klog.txt", log, err)
	output, err := tailOf(d.domainPath(info.Name, ".log"), bundleOutput)
	b.add("output.txt", output, err)
	events, err := d.eventsOf(info.Name)
	b.add("events.jsonl", events, err)
	m.Remarks = b.remarks
	b.addJSON(crash.ManifestName, m)
}

// ringText is what a ring of a log holds, as text.
func ringText(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open the kernel log")
	}
	defer f.Close()
	c, err := klog.Read(f)
	var text []byte
	for i := range c.Records {
		text = c.Records[i].AppendText(text)
	}
	return text, err
}

// tailOf returns the last bytes of a file, at most n.
func tailOf(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open what the process wrote")
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > n {
		f.Seek(-n, io.SeekEnd) // Otherwise it is the beginning.
	}
	data, err := io.ReadAll(io.LimitReader(f, n))
	return data, errdefs.Wrap(err, errdefs.HostIO, "read what the process wrote")
}

// eventsOf returns the newest events of a domain, one per line.
func (d *System) eventsOf(domain string) ([]byte, error) {
	sub, err := d.events.Subscribe(hub.Options{
		Name: "dump", Topics: []string{"*"}, Past: true,
		From:    d.events.Cursor(d.clock.Now().Add(-bundlePast).UnixNano()),
		Allowed: func(e *event.Event) bool { return e.Domain == domain },
	})
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	ctx, cancel := background(eventsTimeout)
	defer cancel()
	lines := make([][]byte, 0, bundleEvents)
	for {
		e, _, err := sub.Next(ctx)
		if err != nil { // The end, or enough.
			return bytes.Join(lines, nil), nil
		}
		if e.Type == 0 {
			continue // A gap.
		}
		if len(lines) == bundleEvents {
			lines = append(lines[:0], lines[1:]...)
		}
		lines = append(lines, append(e.AppendJSON(nil), '\n'))
	}
}

// theirs adds what the kernel process says of itself.
func (dom *domain) theirs(ctx context.Context, b *bundle) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	ctx, cancel := context.WithTimeout(ctx, bundleTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { ours.Close() })()
	ended := make(chan error, 1)
	go func() {
		err := dom.call(ctx, control.MethodBundle, struct{}{}, nil, theirs)
		theirs.Close()
		ended <- err
	}()
	read := func() error {
		t := tar.NewReader(io.LimitReader(ours, maxBundle))
		for {
			h, err := t.Next()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if !slices.Contains(kernelFiles, h.Name) {
				return errdefs.Newf(errdefs.Protocol, "it sent a file %q", h.Name)
			}
			data, err := io.ReadAll(t)
			if err != nil {
				return err
			}
			b.add(h.Name, data, nil)
		}
	}
	err = read()
	ours.Close()
	if cerr := <-ended; cerr != nil {
		return cerr
	}
	return errdefs.Wrap(err, errdefs.Protocol, "read what the kernel process says of itself")
}

// kernelFiles are what a kernel process sends.
var kernelFiles = []string{"kernel.json", "agents.json", "goroutines.txt"}

// maxBundle bounds what a kernel process says of itself, in bytes.
const maxBundle = 64 << 20

// keep stores a bundle.
func (d *System) keep(b *bundle, domain, why string) (crash.Crash, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range b.files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o600, Size: int64(len(f.data)), ModTime: d.clock.Now().Truncate(time.Second)}
		if err := w.WriteHeader(h); err != nil {
			return crash.Crash{}, errdefs.Wrap(err, errdefs.Protocol, "write dump", errdefs.Resource("%q", f.name))
		}
		w.Write(f.data) // To memory.
	}
	w.Close()
	c, err := d.crashes.Add(crash.Crash{Kind: crash.KindKernel, Domain: domain, Why: why, Remarks: b.remarks}, &archive)
	d.sayDumped(c, "bundle", err)
	return c, err
}

// sayDumped publishes that a dump was made, or was not.
func (d *System) sayDumped(c crash.Crash, kind string, err error) {
	p := &eventv1.KernelDump{Kind: kind, Reason: event.Text(c.Why)}
	if err != nil {
		p.Error = event.Text(err.Error())
	} else {
		p.Id, p.Size, p.Truncated = c.ID, c.Bytes, len(c.Remarks) > 0
	}
	d.emit(event.KernelDump, c.Agent, c.Domain, p)
}

// CrashBundle implements the RPC.
func (d *System) CrashBundle(ctx context.Context, req *apiv1.CrashBundleRequest) (*apiv1.CrashBundleResponse, error) {
	dom, err := d.runningDomain("bundle", req.GetDomain())
	if err != nil {
		return nil, err
	}
	dom.mu.Lock()
	info := dom.info
	dom.mu.Unlock()
	var b bundle
	if err := dom.theirs(ctx, &b); err != nil { // One that hangs has a log nevertheless.
		b.remarks = append(b.remarks, "the kernel process did not tell of itself: "+err.Error())
	}
	var agents []*record
	for _, r := range d.records() {
		r.mu.Lock()
		if r.domain == dom {
			agents = append(agents, r)
		}
		r.mu.Unlock()
	}
	d.ours(&b, info, agents)
	c, err := d.keep(&b, info.Name, "asked for by "+actorOf(ctx))
	if err != nil {
		return nil, err
	}
	by := actor(ctx)
	d.record(audit.Entry{Op: opDump, Domain: c.Domain, Actor: by.Name, Target: c.ID, Correlation: by.Correlation})
	return &apiv1.CrashBundleResponse{Crash: toCrash(c)}, nil
}

// keepCrash dumps a kernel process that died by itself: its last words, among
// them the stacks of its goroutines if it panicked, and what the daemon knows.
func (d *System) keepCrash(dom *domain, info domainInfo, lost []*record) {
	if dom.stopping.Load() {
		return
	}
	var b bundle
	d.ours(&b, info, lost)
	if c, err := d.keep(&b, info.Name, "the kernel process "+strconv.Itoa(info.PID)+" died"); err != nil {
		d.log.Error("dump of a kernel process", "domain", info.Name, "err", err)
	} else {
		d.log.Info("dumped", "domain", info.Name, "dump", c.ID)
	}
}
