package aios

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// listen opens /aios/events; tests have another.
var listen = func() (eventsFile, error) { return os.OpenFile(filepath.Join(root, "events"), os.O_RDWR, 0) }

// eventsFile is what is needed of an open /aios/events.
type eventsFile interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// Choice says which events are wanted.
type Choice struct {
	// Topics are TOPIC[@AGENT], such as "agent.*@worker" and "*@self". Without
	// any it is everything that this agent may see, but what is only made on
	// demand.
	Topics []string
	// Severity is the least: "debug", "info", "notice", "warning", "error" or
	// "critical".
	Severity string
	// Filter is an expression of CEL.
	Filter string
	// Queue is how many events may wait, and Policy what becomes of more:
	// "drop-oldest", "drop-newest" or "disconnect".
	Queue  int
	Policy string
}

// Event is one thing that happened.
type Event struct {
	// ID no other event has.
	ID string
	// Topic is what happened: "agent.exit". "bus.lost" says that events are
	// missing right here.
	Topic    string
	Time     time.Time
	Severity string
	Domain   string
	// Agent is the ID of the agent that it is about, Correlation the request
	// that caused it; "" where there is none.
	Agent, Correlation string
	// Data is a JSON object of its fields; those that are zero or empty are left
	// out.
	Data json.RawMessage
}

// ParseEvent reads a line of /aios/events.
func ParseEvent(line []byte) (Event, error) {
	var raw struct {
		ID, Source, Type, Subject string
		Time                      time.Time
		Severity                  string `json:"aiosseverity"`
		Correlation               string `json:"aioscorrelation"`
		Data                      json.RawMessage
	}
	if err := json.Unmarshal(line, &raw); err != nil {
		return Event{}, invalid("%.80q is not an event: %v", line, err)
	}
	topic, ok := strings.CutPrefix(raw.Type, "dev.aios.")
	domain, ok2 := strings.CutPrefix(raw.Source, "/aios/")
	if !ok || !ok2 || raw.ID == "" {
		return Event{}, invalid("%.80q is not an event of AIOS", line)
	}
	domain, _, _ = strings.Cut(domain, "/")
	return Event{
		ID: raw.ID, Topic: topic, Time: raw.Time, Severity: raw.Severity, Domain: domain, Agent: raw.Subject,
		Correlation: raw.Correlation, Data: raw.Data,
	}, nil
}

// Events are events as they happen. Next belongs to one goroutine; Close may be
// called by any.
type Events struct {
	f    eventsFile
	rest []byte // read, and not yet returned
	err  error
}

// Watch listens to events from now on.
func Watch(c Choice) (*Events, error) {
	f, err := listen()
	if err != nil {
		return nil, outside(err)
	}
	line, err := c.line()
	if err == nil && line != "" {
		if _, refused := f.Write([]byte(line)); refused != nil {
			text := make([]byte, 64<<10)
			n := 0
			if !errors.Is(refused, syscall.EACCES) && !errors.Is(refused, syscall.E2BIG) { // Those are not explained.
				n, _ = f.Read(text) // Without it the errno has to do.
			}
			err = refusal(refused, string(text[:n]))
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Events{f: f}, nil
}

// line is what is written.
func (c *Choice) line() (string, error) {
	var words []string
	for _, t := range c.Topics {
		if t == "" || strings.ContainsAny(t, ", \t\n") {
			return "", invalid("%q is no topic", t)
		}
	}
	if len(c.Topics) > 0 {
		words = append(words, "topics="+strings.Join(c.Topics, ","))
	}
	for _, w := range []struct{ key, value string }{{"severity", c.Severity}, {"policy", c.Policy}} {
		if strings.ContainsAny(w.value, " \t\n") {
			return "", invalid("%q is no %s", w.value, w.key)
		}
		if w.value != "" {
			words = append(words, w.key+"="+w.value)
		}
	}
	if c.Queue != 0 {
		words = append(words, "queue="+strconv.Itoa(c.Queue))
	}
	if strings.Contains(c.Filter, "\n") {
		return "", invalid("a filter is one line, not %q", c.Filter)
	}
	if c.Filter != "" { // It goes on to the end of the line.
		words = append(words, "filter="+c.Filter)
	}
	return strings.Join(words, " "), nil
}

// Next returns the next event. It waits for one until ctx ends. When the
// authority to listen ends, it fails with EACCES; with the policy disconnect, a
// reader that was too slow gets ENOBUFS.
func (e *Events) Next(ctx context.Context) (Event, error) {
	stop := context.AfterFunc(ctx, func() { e.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if line, rest, whole := bytes.Cut(e.rest, []byte("\n")); whole {
			e.rest = rest
			return ParseEvent(line)
		}
		if err := ctx.Err(); err != nil {
			return Event{}, context.Cause(ctx)
		}
		if e.err != nil {
			return Event{}, e.err
		}
		buf := make([]byte, 64<<10)
		n, err := e.f.Read(buf)
		e.rest = append(e.rest, buf[:n]...)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			e.f.SetReadDeadline(time.Time{})
		case err != nil:
			e.err = ended(err)
		}
	}
}

// ended is the error of a read.
func ended(err error) error {
	out := &Error{Message: err.Error(), Errno: errnoOf(err)}
	switch out.Errno {
	case syscall.EACCES:
		out.Fix = "a capability that they came through has ended; listen anew to what is left"
	case syscall.ENOBUFS:
		out.Fix = "read faster, or ask for fewer"
	}
	return out
}

// All returns the events until ctx ends, or an error, which comes last.
func (e *Events) All(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			next, err := e.Next(ctx)
			if !yield(next, err) || err != nil {
				return
			}
		}
	}
}

// Close ends it, and a Next that waits.
func (e *Events) Close() error { return e.f.Close() }
