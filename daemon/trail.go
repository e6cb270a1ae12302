package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// The audit trail is the daemon's: kernel processes send their records, keep
// them until the daemon has written them, and send them again to the next
// daemon. A record may so be written twice, never not at all; one that a
// kernel process had to drop, because nobody took it, is counted.

// domainTrail follows the records of one kernel process.
type domainTrail struct {
	mu sync.Mutex
	// The highest number that was appended to the trail.
	last uint64 // +checklocks:mu
	// An acknowledgement is on its way.
	acking bool // +checklocks:mu
}

// record appends an entry of the daemon's own.
func (d *System) record(e audit.Entry) {
	if err := d.trail.Append(e); err != nil {
		d.log.Error("audit trail", "err", err)
	}
}

// takeRecords appends what a kernel process sends. It is called by the reader
// of the connection: a disk that is slow makes the kernel process wait.
func (dom *domain) takeRecords(body json.RawMessage) {
	var b control.AuditBatch
	if json.Unmarshal(body, &b) != nil {
		return
	}
	d := dom.d
	if b.Lost > 0 {
		d.record(audit.Entry{
			Op: audit.OpGap, Domain: dom.name, Count: b.Lost,
			Reason: "the kernel process dropped its oldest records, since no daemon took them",
		})
	}
	dom.trail.mu.Lock()
	defer dom.trail.mu.Unlock()
	for i, r := range b.Records {
		number := b.First + uint64(i)
		if number <= dom.trail.last {
			continue
		}
		e := audit.Entry{
			Op: r.Op, Domain: dom.name, Actor: r.Actor, Agent: r.Agent, Target: r.Target, Cap: string(r.Cap), Parent: string(r.Parent),
			Spec: r.Spec, Errno: r.Errno, Code: string(r.Code), Reason: r.Reason, Count: r.Count, Correlation: r.Correlation,
		}
		if err := d.trail.Append(e); err != nil {
			d.log.Error("audit trail", "err", err)
			return // It is sent again to the next daemon.
		}
		dom.trail.last = number
	}
	if !dom.trail.acking {
		dom.trail.acking = true
		d.clock.AfterFunc(ackDelay, dom.ackRecords)
	}
}

// ackDelay is how long records wait in the kernel process for others to be
// acknowledged with. The trail is synced by itself sooner; to have it synced
// for every message costs more than the agents that the messages are about.
const ackDelay = 100 * time.Millisecond

// ackRecords lets the kernel process forget what is on disk.
func (dom *domain) ackRecords() {
	dom.trail.mu.Lock()
	last := dom.trail.last
	dom.trail.mu.Unlock()
	err := dom.d.trail.Sync()
	dom.trail.mu.Lock()
	again := dom.trail.last != last && err == nil
	dom.trail.acking = again
	dom.trail.mu.Unlock()
	if err != nil {
		return // The next message tries again.
	}
	dom.notify(control.MethodAuditAck, control.AuditAck{Last: last})
	if again {
		dom.d.clock.AfterFunc(ackDelay, dom.ackRecords)
	}
}

// AuditQuery implements the RPC.
func (d *System) AuditQuery(req *apiv1.AuditQueryRequest, stream grpc.ServerStreamingServer[apiv1.AuditEntry]) error {
	if err := d.trail.Sync(); err != nil {
		return err
	}
	f := audit.Filter{
		Domain: req.GetDomain(), Ops: req.GetOps(), Cap: req.GetCapability(), Correlation: req.GetCorrelation(),
		Text: req.GetText(), Last: int(req.GetLast()),
	}
	if req.GetAgent() != "" {
		f.Agent = req.GetAgent()
		if r, err := d.find(req.GetAgent()); err == nil {
			f.Agent = r.id // One that is forgotten is known by its ID alone.
		}
	}
	f.Since, f.Until = moment(req.GetSinceUnixNano()), moment(req.GetUntilUnixNano())
	entries := audit.Query(d.trail.Dir(), f)
	if req.GetFollow() {
		entries = d.trail.Follow(stream.Context(), f)
	}
	for e, err := range entries {
		if err == nil {
			err = stream.Send(&apiv1.AuditEntry{Seq: e.Seq, TimeUnixNano: e.Time.UnixNano(), Json: []byte(e.Line)})
		}
		if err != nil {
			return errdefs.Wrap(err, errdefs.HostIO, "read the audit trail")
		}
	}
	return nil
}

// moment is a time on the wire; 0 is none.
func moment(nano int64) time.Time {
	if nano == 0 {
		return time.Time{}
	}
	return time.Unix(0, nano)
}

// AuditVerify implements the RPC.
func (d *System) AuditVerify(_ context.Context, req *apiv1.AuditVerifyRequest) (*apiv1.AuditVerifyResponse, error) {
	if err := d.trail.Sync(); err != nil {
		return nil, err
	}
	o := audit.VerifyOptions{KeyFile: d.paths.AuditKey}
	if req.GetHead() != "" {
		h, err := audit.ParseHash(req.GetHead())
		if err != nil {
			return nil, err
		}
		o.Head = h
	}
	r, err := audit.Verify(d.trail.Dir(), o)
	if err != nil {
		return nil, err
	}
	resp := &apiv1.AuditVerifyResponse{
		Ok: r.OK(), Entries: r.Entries, Segments: uint32(r.Segments), First: r.First, Last: r.Last, Head: r.Head.Hash.String(),
	}
	note := func(on bool, format string, args ...any) {
		if on {
			resp.Notes = append(resp.Notes, fmt.Sprintf(format, args...))
		}
	}
	note(r.Trimmed > 0, "entries up to %d were deleted to keep the trail in bounds", r.Trimmed)
	note(r.Unsynced > 0, "%d entries are not on disk yet", r.Unsynced)
	note(r.Torn > 0, "%d bytes of a line are incomplete", r.Torn)
	note(!r.Authenticated, "the head is not authenticated")
	if !r.OK() {
		resp.Broken = r.Broken.String()
	}
	return resp, nil
}
