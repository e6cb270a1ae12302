package daemon

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/crash"
	"aios.dev/aios/errdefs"
)

// A kernel process cannot open files. It writes a dump to a socket, whose other
// end goes through the store of dumps: the daemon, which trusts no kernel
// process, checks and bounds what is kept.

// dumpTimeout bounds one dump, however large.
const dumpTimeout = 10 * time.Minute

// CrashDump implements the RPC.
func (d *System) CrashDump(ctx context.Context, req *apiv1.CrashDumpRequest) (*apiv1.CrashDumpResponse, error) {
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	if req.GetPid() < 0 {
		return nil, errdefs.Newf(errdefs.InvalidArgument, "no process has the number %d", req.GetPid())
	}
	ctx, cancel := context.WithTimeout(ctx, dumpTimeout)
	defer cancel()
	by := actor(ctx)
	c, err := d.dump(ctx, r, dom, "asked for by "+actorOf(ctx), control.DumpRequest{
		ID: r.id, PID: req.GetPid(), Limit: req.GetLimitBytes(), Full: req.GetFull(),
	})
	if err != nil {
		return nil, err
	}
	d.record(audit.Entry{Op: opDump, Domain: c.Domain, Actor: by.Name, Agent: c.Agent, Target: c.ID, Correlation: by.Correlation})
	return &apiv1.CrashDumpResponse{Crash: toCrash(c)}, nil
}

// Operations on dumps, which show memory, in the audit trail.
const (
	opDump     = "dump"
	opDumpRead = "dump.read"
)

// actorOf names who makes a call.
func actorOf(ctx context.Context) string {
	if b := bearerFrom(ctx); b != nil {
		return b.actor()
	}
	return "the operator"
}

// dump has a kernel process write cores of an agent, and keeps them.
func (d *System) dump(ctx context.Context, r *record, dom *domain, why string, req control.DumpRequest) (crash.Crash, error) {
	c := crash.Crash{Kind: crash.KindAgent, Domain: dom.name, Why: why, Agent: r.id, Name: r.name, Labels: r.spec().GetLabels()}
	for _, id := range r.tokens {
		c.Tokens = append(c.Tokens, id.String())
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return c, err
	}
	defer ours.Close()
	defer context.AfterFunc(ctx, func() { ours.Close() })()
	type outcome struct {
		reply control.DumpReply
		err   error
	}
	ended := make(chan outcome, 1)
	go func() {
		var o outcome
		o.err = dom.call(ctx, control.MethodDump, req, &o.reply, theirs)
		theirs.Close() // Now the stream ends with what the kernel process has written.
		ended <- o
	}()
	kept, err := d.crashes.Add(c, ours)
	ours.Close()
	o := <-ended
	defer func() { d.sayDumped(kept, "core", errors.Join(o.err, err)) }()
	if o.err != nil {
		if err == nil { // Complete, and yet it failed.
			d.crashes.Remove(kept.ID)
		}
		return c, o.err
	}
	if err != nil {
		return c, err
	}
	d.log.Info("dumped", "agent", r.label(), "dump", kept.ID, "why", why, "bytes", kept.Bytes, "unreadable", o.reply.Unreadable)
	return kept, nil
}

// collect takes a dump that the kernel process asked for, holding the agent
// still.
func (dom *domain) collect(e control.DumpEvent) {
	d := dom.d
	r, err := d.find(e.ID)
	if err != nil {
		return // Its record is not written yet, or gone: nobody was told of it.
	}
	ctx, cancel := background(dumpTimeout)
	defer cancel()
	if _, err := d.dump(ctx, r, dom, e.Why, control.DumpRequest{ID: e.ID, Pending: true}); err != nil {
		d.log.Error("dump", "agent", r.label(), "why", e.Why, "err", err)
	}
}

// CrashList implements the RPC.
func (d *System) CrashList(context.Context, *apiv1.CrashListRequest) (*apiv1.CrashListResponse, error) {
	u := d.crashes.Usage()
	resp := &apiv1.CrashListResponse{
		Removed: u.Removed, Bytes: u.Bytes, LimitBytes: u.Limits.Bytes, LimitCrashes: uint32(u.Limits.Crashes),
	}
	for _, c := range d.crashes.List() {
		resp.Crashes = append(resp.Crashes, toCrash(c))
	}
	return resp, nil
}

func toCrash(c crash.Crash) *apiv1.Crash {
	out := &apiv1.Crash{
		Id: c.ID, Kind: c.Kind, Domain: c.Domain, Agent: c.Agent, AgentName: c.Name, Why: c.Why,
		TimeUnixNano: c.Time.UnixNano(), Bytes: c.Bytes, Remarks: c.Remarks,
	}
	for _, m := range c.Members {
		out.Members = append(out.Members, &apiv1.CrashMember{Name: m.Name, Bytes: m.Bytes})
	}
	return out
}

// CrashInspect implements the RPC.
func (d *System) CrashInspect(_ context.Context, req *apiv1.CrashInspectRequest) (*apiv1.CrashInspectResponse, error) {
	c, err := d.crashes.Find(req.GetId())
	if err != nil {
		return nil, err
	}
	return &apiv1.CrashInspectResponse{Crash: toCrash(c), Manifest: string(c.Manifest)}, nil
}

// crashPiece is how much of a dump one message carries.
const crashPiece = 256 << 10

// CrashGet implements the RPC.
func (d *System) CrashGet(req *apiv1.CrashGetRequest, rpc grpc.ServerStreamingServer[apiv1.CrashGetResponse]) error {
	r, size, err := d.crashes.Open(req.GetId(), req.GetMember())
	if err != nil {
		return err
	}
	defer r.Close()
	by := actor(rpc.Context())
	e := audit.Entry{Op: opDumpRead, Actor: by.Name, Target: req.GetId(), Reason: req.GetMember(), Correlation: by.Correlation}
	if c, err := d.crashes.Find(req.GetId()); err == nil {
		e.Agent, e.Domain = c.Agent, c.Domain
	}
	d.record(e)
	buf := make([]byte, crashPiece)
	for first := true; ; first = false {
		n, err := io.ReadFull(r, buf)
		if n > 0 || first {
			resp := &apiv1.CrashGetResponse{Data: buf[:n]}
			if first {
				resp.Total = size
			}
			if err := rpc.Send(resp); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF, err == io.ErrUnexpectedEOF:
			return nil
		case err != nil:
			return errdefs.Wrap(err, errdefs.HostIO, "read dump", errdefs.Resource("%s", req.GetId()))
		}
	}
}

// CrashRemove implements the RPC.
func (d *System) CrashRemove(_ context.Context, req *apiv1.CrashRemoveRequest) (*apiv1.CrashRemoveResponse, error) {
	return &apiv1.CrashRemoveResponse{}, d.crashes.Remove(req.GetId())
}

// aboutCrash says whether a bearer may do something with a dump: as with the
// agent that it is of. Those of kernel processes hold every agent's.
func (a *asked) aboutCrash(id string) error {
	c, err := a.d.crashes.Find(id)
	if err != nil {
		if none := a.b.Allow(a.method.op, &token.Agent{}); none != nil {
			return none // It is not told whether there is such a dump.
		}
		return err
	}
	if c.Kind != crash.KindAgent {
		return operatorOnly(a, nil)
	}
	a.agent, a.subject = c.Agent, crashSubject(c)
	return a.b.Allow(a.method.op, a.subject)
}

func crashSubject(c crash.Crash) *token.Agent {
	s := &token.Agent{ID: c.Agent, Name: c.Name, Labels: c.Labels}
	for _, text := range c.Tokens {
		if id, err := token.ParseID(text); err == nil {
			s.Tokens = append(s.Tokens, id)
		}
	}
	return s
}

func (a *asked) crashInspect(m *apiv1.CrashInspectRequest) error { return a.aboutCrash(m.GetId()) }
func (a *asked) crashGet(m *apiv1.CrashGetRequest) error         { return a.aboutCrash(m.GetId()) }
func (a *asked) crashRemove(m *apiv1.CrashRemoveRequest) error   { return a.aboutCrash(m.GetId()) }

// crashes takes out of a list what the bearer may not see.
func (a *asked) crashes(m *apiv1.CrashListResponse) {
	m.Crashes = slices.DeleteFunc(m.Crashes, func(c *apiv1.Crash) bool {
		kept, err := a.d.crashes.Find(c.GetId())
		return err != nil || kept.Kind != crash.KindAgent || a.b.Allow(a.method.op, crashSubject(kept)) != nil
	})
}
