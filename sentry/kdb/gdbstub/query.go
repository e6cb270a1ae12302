package gdbstub

import (
	"encoding/xml"
	"slices"
	"strings"
)

// startNoAck is what the request to leave acknowledgements out comes to: the
// reply to it is still acknowledged.
const startNoAck = "no ack"

// supported is what the stub can do, as gdb calls it.
var supported = strings.Join([]string{
	"PacketSize=" + hexOf(PacketSize), "QStartNoAckMode+", "multiprocess+", "swbreak+", "vContSupported+", "exec-events+",
	"QPassSignals+", "qXfer:features:read+", "qXfer:threads:read+", "qXfer:auxv:read+", "qXfer:exec-file:read+", "qXfer:siginfo:read+",
}, ";")

// query does q and Q.
func (s *session) query(p string) string {
	name, args, _ := strings.Cut(p, ":")
	switch {
	case name == "qSupported":
		features := strings.Split(args, ";")
		s.processes = slices.Contains(features, "multiprocess+")
		s.target.StopAtExec(slices.Contains(features, "exec-events+"))
		return supported
	case p == "QStartNoAckMode":
		return startNoAck
	case name == "QPassSignals":
		return s.passSignals(args)
	case p == "qC":
		if t, ok := s.find(s.general); ok {
			return "QC" + idText(t, s.processes)
		}
		return replyGone
	case p == "qfThreadInfo":
		s.listed = 0
		return s.moreThreads()
	case p == "qsThreadInfo":
		return s.moreThreads()
	case strings.HasPrefix(p, "qThreadExtraInfo,"):
		id, ok := parseID(strings.TrimPrefix(p, "qThreadExtraInfo,"))
		if !ok {
			return replyBad
		}
		t, ok := s.find(id)
		if !ok {
			return replyGone
		}
		return hexText(t.Name)
	case name == "qAttached":
		return "1"
	case name == "qSymbol":
		return replyOK
	case name == "qXfer":
		return s.transfer(args)
	}
	return replyNone
}

// passSignals names the signals that do not stop the program.
func (s *session) passSignals(args string) string {
	var pass []int32
	for part := range strings.SplitSeq(args, ";") {
		if part == "" {
			continue
		}
		n, ok := parseHex(part)
		if !ok {
			return replyBad
		}
		if sig := fromGDB(n); sig != 0 {
			pass = append(pass, sig)
		}
	}
	s.target.PassSignals(pass)
	return replyOK
}

// threadsPerReply bounds the replies about threads.
const threadsPerReply = 500

func (s *session) moreThreads() string {
	rest := s.known()
	rest = rest[min(s.listed, len(rest)):]
	rest = rest[:min(len(rest), threadsPerReply)]
	if len(rest) == 0 {
		return "l"
	}
	s.listed += len(rest)
	ids := make([]string, len(rest))
	for i, t := range rest {
		ids[i] = idText(t, s.processes)
	}
	return "m" + strings.Join(ids, ",")
}

// document is something that the client reads piece by piece.
type document struct {
	name string // what it asked for
	data []byte
}

// transfer does qXfer: OBJECT:read:ANNEX:OFFSET,LENGTH.
func (s *session) transfer(args string) string {
	f := strings.Split(args, ":")
	if len(f) != 4 || f[1] != "read" {
		return replyNone
	}
	offset, n, ok := parseRange(f[3])
	if !ok {
		return replyBad
	}
	name := f[0] + ":" + f[2]
	if offset == 0 || s.doc.name != name {
		data, reply := s.document(f[0], f[2])
		if data == nil {
			return reply
		}
		s.doc = document{name, data}
	}
	data := s.doc.data
	if offset >= uint64(len(data)) {
		return "l"
	}
	data = data[offset:]
	whole := uint64(len(data)) <= n
	if !whole {
		data = data[:n]
	}
	if fit := escapedFit(data, PacketSize-8); fit < len(data) {
		data, whole = data[:fit], false
	}
	if whole {
		return "l" + string(data)
	}
	return "m" + string(data)
}

// document makes what the client wants to read, or the reply that refuses it.
func (s *session) document(object, annex string) (data []byte, reply string) {
	if object == "threads" && annex == "" {
		return s.threadList(), ""
	}
	t, ok := s.find(s.general)
	if object == "exec-file" && annex != "" {
		pid, parsed := parseIDNumber(annex)
		if !parsed {
			return nil, replyBad
		}
		t, ok = s.find(ID{pid, AnyID})
	}
	if !ok {
		return nil, replyGone
	}
	switch {
	case object == "features" && annex == "target.xml":
		r, err := s.target.ReadRegisters(t)
		if err != nil {
			return nil, replyGone
		}
		s.described[t.PID] = true
		return []byte(layoutFor(r).xml), ""
	case object == "auxv" && annex == "":
		auxv, err := s.target.Auxv(t)
		if err != nil || len(auxv) == 0 {
			return nil, replyGone
		}
		return auxv, ""
	case object == "exec-file":
		path, err := s.target.Executable(t)
		if err != nil || path == "" {
			return nil, replyGone
		}
		return []byte(path), ""
	case object == "siginfo" && annex == "":
		info := s.target.Signal(t)
		if info == nil {
			return nil, replyGone
		}
		return info, ""
	}
	return nil, replyNone
}

// threadList describes the threads in XML. Their names are the program's.
func (s *session) threadList() []byte {
	var b strings.Builder
	b.WriteString("<threads>")
	for _, t := range s.known() {
		b.WriteString(`<thread id="` + idText(t, s.processes) + `" name="`)
		xml.EscapeText(&b, []byte(t.Name)) // A Builder takes everything.
		b.WriteString(`"/>`)
	}
	b.WriteString("</threads>")
	return []byte(b.String())
}
