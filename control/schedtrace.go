package control

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
)

// MethodSchedTrace has a kernel process note what its scheduler does, for a
// time: SchedTraceRequest, SchedTraceReply. The request brings a socket, to which
// the trace is written when it has ended. Who shuts the other end down for writing
// before ends it there; who closes it wants it no more.
const MethodSchedTrace = "sched.trace"

// SchedTraceRequest says for how long, and how many entries are kept. ID names the
// agent that is asked about; of others the trace has when somebody of them had a
// CPU, and not who. "": all are.
type SchedTraceRequest struct {
	ID    string        `json:"id,omitempty"`
	For   time.Duration `json:"for"`
	Limit int           `json:"limit"`
}

// SchedTraceReply says what was written.
type SchedTraceReply struct {
	Entries int    `json:"entries"`
	Dropped uint64 `json:"dropped"`
}

// Bounds of a trace.
const (
	SchedTraceMostFor = 10 * time.Minute
	SchedTraceMost    = 4 << 20 // entries

	traceHeadMost  = 256 << 20 // bytes
	traceEntrySize = 28
)

// traceHead is a trace but its entries.
type traceHead struct {
	Begin, End        int64
	CPUs, Entries     int
	Switches, Dropped uint64
	Groups            []string
	Tasks             []sched.TracedTask
}

// WriteSchedTrace writes a trace.
func WriteSchedTrace(out io.Writer, t *sched.Trace) error {
	head, err := json.Marshal(traceHead{t.Begin, t.End, t.CPUs, len(t.Entries), t.Switches, t.Dropped, t.Groups, t.Tasks})
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "write trace")
	}
	w := bufio.NewWriterSize(out, 1<<16)
	var b [traceEntrySize]byte
	binary.LittleEndian.PutUint32(b[:], uint32(len(head)))
	w.Write(b[:4])
	w.Write(head)
	for _, e := range t.Entries {
		binary.LittleEndian.PutUint64(b[0:], uint64(e.At))
		binary.LittleEndian.PutUint64(b[8:], uint64(e.Took))
		binary.LittleEndian.PutUint32(b[16:], e.Who)
		binary.LittleEndian.PutUint32(b[20:], e.Waiting)
		binary.LittleEndian.PutUint16(b[24:], uint16(e.CPU))
		b[26], b[27] = byte(e.Kind), 0
		if e.Before {
			b[27] = 1
		}
		w.Write(b[:])
	}
	return errdefs.Wrap(w.Flush(), errdefs.HostIO, "write trace")
}

// ReadSchedTrace reads what WriteSchedTrace wrote, or somebody else who claims to
// have: what it returns names no task, group or CPU that there is not, and goes
// on in time.
func ReadSchedTrace(in io.Reader) (*sched.Trace, error) {
	bad := func(what string) (*sched.Trace, error) {
		return nil, errdefs.New(errdefs.Protocol, what, errdefs.Op("read trace"))
	}
	r := bufio.NewReaderSize(in, 1<<16)
	var b [traceEntrySize]byte
	if _, err := io.ReadFull(r, b[:4]); err != nil {
		return nil, errdefs.Wrap(err, errdefs.Protocol, "read trace")
	}
	n := binary.LittleEndian.Uint32(b[:])
	if n > traceHeadMost {
		return bad("its head is too long")
	}
	raw, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil || len(raw) < int(n) {
		return bad("its head is cut off")
	}
	var h traceHead
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, errdefs.Wrap(err, errdefs.Protocol, "read trace")
	}
	if h.Entries < 0 || h.Entries > 2*SchedTraceMost || h.CPUs < 0 || h.CPUs > math.MaxInt16 || h.Begin < 0 || h.End < h.Begin {
		return bad("its numbers make no sense")
	}
	for _, t := range h.Tasks {
		if int(t.Group) >= len(h.Groups) {
			return bad("a task is of no group")
		}
	}
	t := &sched.Trace{Begin: h.Begin, End: h.End, CPUs: h.CPUs, Switches: h.Switches, Dropped: h.Dropped, Groups: h.Groups, Tasks: h.Tasks}
	last := h.Begin
	for range h.Entries {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return bad("it is cut off")
		}
		e := sched.TraceEntry{
			At: int64(binary.LittleEndian.Uint64(b[0:])), Took: int64(binary.LittleEndian.Uint64(b[8:])), Who: binary.LittleEndian.Uint32(b[16:]),
			Waiting: binary.LittleEndian.Uint32(b[20:]), CPU: int16(binary.LittleEndian.Uint16(b[24:])), Kind: sched.TraceKind(b[26]), Before: b[27] != 0,
		}
		if err := t.Check(e, last); err != nil {
			return nil, err
		}
		last = e.At
		t.Entries = append(t.Entries, e)
	}
	return t, nil
}
