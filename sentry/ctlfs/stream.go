package ctlfs

import (
	"aios.dev/aios/event"
	"aios.dev/aios/sentry/ctlfs/command"
)

// maxLook is how many events a filter may look at in one call, so that no call
// takes long.
const maxLook = 256

// stream makes lines of JSON of what a Watch gives. It is for one goroutine at
// a time.
type stream struct {
	w    Watch
	want *command.Watch
	// What was taken and not yet looked at.
	events []event.Event
	taken  [16]event.Event
	// What is left of the line that is being read.
	line []byte
	// Why there will be no more, or nil.
	over error
}

// advance has the next line at hand, and reports whether there is one. It looks
// at as many events as budget says, and counts them there.
func (s *stream) advance(budget *int) bool {
	for len(s.line) == 0 {
		if len(s.events) == 0 && !s.take() {
			return len(s.line) > 0
		}
		if *budget == 0 {
			return false
		}
		e := &s.events[0]
		if n := e.Missed; n > 0 {
			e.Missed = 0
			s.gap("subscriber", n)
			return true
		}
		*budget--
		if s.want.Filter != nil {
			// What has no answer is no match.
			if ok, _ := s.want.Filter.Match(e, s.w.Name(e.Agent)); !ok {
				s.pop()
				continue
			}
		}
		s.line = append(e.AppendJSON(s.line), '\n')
		s.pop()
	}
	return true
}

func (s *stream) pop() {
	s.events[0] = event.Event{}
	s.events = s.events[1:]
}

// take takes events that wait. If there are none, there may be a line that says
// what is missing.
func (s *stream) take() bool {
	missed, dropped := s.w.Missed()
	if dropped {
		s.gap("ring", 0)
		if missed > 0 {
			s.gap("subscriber", missed)
		}
		return false
	}
	if missed > 0 {
		s.gap("subscriber", missed)
		return false
	}
	n, err := s.w.Read(s.taken[:])
	s.events, s.over = s.taken[:n], err
	return n > 0
}

// gap appends a line that says that events are missing.
func (s *stream) gap(where string, n uint64) {
	e := s.w.Gap(where, n)
	s.line = append(e.AppendJSON(s.line), '\n')
}

// read returns up to most bytes: as many whole lines as fit, or a part of one
// that does not.
func (s *stream) read(most int, budget *int) []byte {
	var out []byte
	for s.advance(budget) {
		switch {
		case len(out)+len(s.line) <= most:
			out = append(out, s.line...)
			s.line = s.line[:0]
		case len(out) == 0:
			out = append(out, s.line[:most]...)
			s.line = append(s.line[:0], s.line[most:]...)
			return out
		default:
			return out
		}
	}
	return out
}

// unread puts back what could not be given away.
func (s *stream) unread(rest []byte) {
	s.line = append(append([]byte(nil), rest...), s.line...)
}

// clear forgets what was taken.
func (s *stream) clear() {
	clear(s.taken[:])
	s.events, s.line = nil, nil
}
