package gdbstub

import "strings"

// resume does vCont: ACTION[:THREAD] of each thread, separated by semicolons.
func (s *session) resume(args string) error {
	plan, ok := parsePlan(args)
	if !ok {
		return s.send([]byte(replyBad))
	}
	return s.start(plan)
}

// parsePlan reads the actions of vCont.
func parsePlan(args string) (Plan, bool) {
	var plan Plan
	if args == "" {
		return nil, false
	}
	for part := range strings.SplitSeq(args, ";") {
		what, who, named := strings.Cut(part, ":")
		if what == "" {
			return nil, false
		}
		a := Action{ID: ID{AllID, AllID}}
		if named {
			var ok bool
			if a.ID, ok = parseID(who); !ok {
				return nil, false
			}
		}
		ok := true
		rest := what[1:]
		switch what[0] {
		case 'c', 's', 't':
			ok = rest == ""
		case 'C', 'S':
			var n uint64
			n, ok = parseHex(rest)
			a.Signal = fromGDB(n)
		case 'r':
			from, to, found := strings.Cut(rest, ",")
			var ok1, ok2 bool
			a.Start, ok1 = parseHex(from)
			a.End, ok2 = parseHex(to)
			ok = found && ok1 && ok2
		default:
			ok = false
		}
		switch what[0] {
		case 'c', 'C':
			a.Motion = Go
		case 's', 'S', 'r':
			a.Motion = Step
		}
		if !ok {
			return nil, false
		}
		plan = append(plan, a)
	}
	return plan, true
}

// resumeOld does c, s, C and S: [SIGNAL;][ADDR].
func (s *session) resumeOld(kind byte, args string) error {
	a := Action{ID: s.motion, Motion: Go}
	if kind == 's' || kind == 'S' {
		a.Motion = Step
		if t, ok := s.find(s.motion); ok { // One thread.
			a.ID = ID{t.PID, t.TID}
		}
	}
	addr := args
	if kind == 'C' || kind == 'S' {
		var sig string
		sig, addr, _ = strings.Cut(args, ";")
		n, ok := parseHex(sig)
		if !ok {
			return s.send([]byte(replyBad))
		}
		a.Signal = fromGDB(n)
	}
	if addr != "" {
		at, ok := parseHex(addr)
		if !ok {
			return s.send([]byte(replyBad))
		}
		s.general = ID{s.stop.Thread.PID, s.stop.Thread.TID}
		if reply := s.change(func(_ *layout, r *Registers) bool { r.General[genRIP] = at; return true }); reply != replyOK {
			return s.send([]byte(reply))
		}
	}
	return s.start(Plan{a})
}

// start lets threads go on; the reply is the next stop.
func (s *session) start(plan Plan) error {
	moves := false
	for _, t := range s.known() {
		moves = moves || plan.Of(t).Motion != Stay
	}
	if !moves {
		return s.send([]byte(replyGone))
	}
	if err := s.target.Resume(plan); err != nil {
		return s.send([]byte(replyInput))
	}
	s.running, s.threads = true, nil
	return nil
}
