package sentry

import (
	"strings"
	"sync"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// Operations of records that the derivation tree does not make: of a refusal,
// and of a call that an agent's seccomp profile only wants to be seen.
const (
	opDenied = "denied"
	opLogged = "logged"
)

const (
	// trailMax is how many audit records wait for a daemon; older ones are
	// dropped and counted.
	trailMax = 16384
	// trailBatch is how many travel in one message, trailFirst how many of
	// what others lost by a revocation are sent before it is answered.
	trailBatch = 256
	trailFirst = 16
	// trailDelay gathers records that follow each other into one message;
	// trailPause lies between messages with those of a large tree, since the
	// daemon works for each record, and has others to answer.
	trailDelay = 2 * time.Millisecond
	trailPause = 25 * time.Millisecond
)

// trail holds audit records until the daemon has written them. The file is
// the daemon's, beyond the reach of agents and of this process; without a
// daemon records wait here.
type trail struct {
	s *Kernel

	// sendMu keeps messages in order. It is taken before mu.
	sendMu sync.Mutex

	mu sync.Mutex
	// Not yet acknowledged, the oldest first; the first has the number first.
	records []control.AuditRecord // +checklocks:mu
	first   uint64                // +checklocks:mu
	// How many of records were sent.
	sent int // +checklocks:mu
	// Records dropped since the last that was sent.
	lost uint64 // +checklocks:mu
	// A flush is on its way.
	armed bool // +checklocks:mu
}

func (l *trail) init(s *Kernel) {
	l.s = s
	l.first = 1 // +checklocksignore: the kernel boots.
}

// denied records a refusal.
func (l *trail) denied(d Denial) {
	r := capability.Record{Op: opDenied, Actor: d.Agent, Agent: d.Agent, Target: strings.TrimSpace(d.Operation + " " + d.Object), Count: d.Count}
	if d.Capability != "" {
		r.Spec, r.Reason = d.Capability, "it lacks "+d.Capability
	}
	if d.Why != "" {
		r.Reason = d.Why
	}
	l.tellDenied(d)
	rec := control.AuditRecord{Record: r}
	if strings.HasPrefix(d.Object, seccompObject) {
		rec.Code = errdefs.SyscallDenied
		if strings.HasSuffix(d.Object, "SCMP_ACT_LOG") { // It went through.
			rec.Op = opLogged
		}
	}
	if d.Errno != 0 {
		rec.Errno = abi.ErrnoName(d.Errno)
	}
	l.put(rec)
}

// add takes a record of the derivation tree. What every agent is made of is
// gathered when it comes and goes: a record instead of one for each.
func (l *trail) add(r capability.Record) {
	l.tell(r)
	if r.Op == capability.OpMint || r.Op == capability.OpRevoke {
		if a := l.s.findAgent(r.Agent); a != nil && a.gathers() && a.isMadeOf(r.Spec) {
			l.mu.Lock()
			a.gathered = append(a.gathered, r)
			l.mu.Unlock()
			return
		}
	}
	l.put(control.AuditRecord{Record: r})
}

// isMadeOf reports whether a grant is of the agent itself.
func (a *Agent) isMadeOf(spec string) bool {
	class, object, _ := strings.Cut(spec, ":")
	c, _ := abi.ClassNamed(class)
	info, _ := c.Info()
	if c == abi.ClassEvent {
		object, _, _ = strings.Cut(object, ",")
		_, whose := capability.Object{Class: c, Name: object}.Topic()
		return whose == a.id
	}
	return info.Self && strings.HasPrefix(object, "self")
}

// putGathered takes what add has gathered of an agent, as one record.
func (l *trail) putGathered(a *Agent) {
	l.mu.Lock()
	gathered := a.gathered
	a.gathered = nil
	l.mu.Unlock()
	if len(gathered) == 0 {
		return
	}
	r := gathered[0]
	var ids, specs []string
	for _, g := range gathered {
		ids, specs = append(ids, string(g.Cap)), append(specs, g.Spec)
	}
	r.Cap, r.Spec, r.Count = "", strings.Join(specs, " "), uint64(len(specs))
	r.Reason = strings.TrimPrefix(r.Reason+": "+strings.Join(ids, " "), ": ")
	l.put(control.AuditRecord{Record: r})
}

// put takes a record, for the daemon to hear of soon. Who wants the daemon to
// know before it goes on calls flush.
func (l *trail) put(r control.AuditRecord) {
	r.Time = l.s.cfg.Clock.Now()
	l.mu.Lock()
	l.records = append(l.records, r)
	if len(l.records) > trailMax {
		l.records = append([]control.AuditRecord(nil), l.records[trailMax/8:]...)
		l.first += trailMax / 8
		l.lost += trailMax / 8
		l.sent = max(0, l.sent-trailMax/8)
	}
	if r.Op == capability.OpLost || r.Count > trailFirst {
		l.arm(trailPause) // There are more to come.
	} else {
		l.arm(trailDelay)
	}
	l.mu.Unlock()
}

// arm has the timer send what was not sent yet.
//
// +checklocks:l.mu
func (l *trail) arm(after time.Duration) {
	if !l.armed {
		l.armed = true
		l.s.cfg.Clock.AfterFunc(after, l.flushSlowly)
	}
}

// flush sends what was not sent yet.
func (l *trail) flush() {
	for l.flushSome(trailBatch) {
	}
}

// flushSlowly sends one batch, and the next after a pause, unless so many wait
// that some might be dropped.
func (l *trail) flushSlowly() {
	l.mu.Lock()
	l.armed = false
	l.mu.Unlock()
	for l.flushSome(trailBatch) {
		l.mu.Lock()
		hurry := len(l.records) > trailMax/2
		if !hurry {
			l.arm(trailPause)
		}
		l.mu.Unlock()
		if !hurry {
			return
		}
	}
}

// flushSoon sends what was not sent yet, but leaves what others lost, if that
// is much, to the timer: whoever ended a large tree has the end of what it named
// on record when it is answered, and does not wait for thousands of records of
// what hung below.
func (l *trail) flushSoon() {
	for {
		l.mu.Lock()
		n := len(l.records) - l.sent
		for n > 0 && l.records[l.sent+n-1].Op == capability.OpLost {
			n--
		}
		l.mu.Unlock()
		if !l.flushSome(min(n+trailFirst, trailBatch)) {
			return
		}
		if n <= trailBatch-trailFirst {
			break
		}
	}
	l.mu.Lock()
	l.arm(trailPause)
	l.mu.Unlock()
}

// flushSome sends at most so many records, and reports whether there may be
// more.
func (l *trail) flushSome(most int) bool {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	l.s.dogs.trail.Busy()
	defer l.s.dogs.trail.Idle()
	l.mu.Lock()
	rest := l.records[l.sent:]
	if len(rest) == 0 {
		l.mu.Unlock()
		return false
	}
	batch := control.AuditBatch{First: l.first + uint64(l.sent), Lost: l.lost, Records: rest[:min(len(rest), most)]}
	l.mu.Unlock()
	if l.s.cfg.Push == nil || l.s.cfg.Push(control.EventAudit, batch) == 0 {
		return false // The daemon pulls when it is back.
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Meanwhile records may have been acknowledged or dropped.
	if next := batch.First + uint64(len(batch.Records)); next > l.first {
		l.sent = max(l.sent, int(next-l.first))
	}
	l.lost -= batch.Lost
	return l.sent < len(l.records)
}

// pull sends everything again that was not acknowledged.
func (l *trail) pull() {
	l.sendMu.Lock()
	l.mu.Lock()
	l.sent = 0
	l.mu.Unlock()
	l.sendMu.Unlock()
	l.flush()
}

// ack forgets the records up to last.
func (l *trail) ack(last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last < l.first {
		return
	}
	n := min(int(last-l.first+1), len(l.records))
	l.records = append([]control.AuditRecord(nil), l.records[n:]...)
	l.first += uint64(n)
	l.sent = max(0, l.sent-n)
}

// written reports whether the daemon has written everything, as far as can be
// told without waiting.
//
// +checklocksignore: the analysis does not know TryLock.
func (l *trail) written() bool {
	if !l.mu.TryLock() {
		return false
	}
	defer l.mu.Unlock()
	return len(l.records) == 0
}
