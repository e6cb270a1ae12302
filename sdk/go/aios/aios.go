// Package aios is for programs inside an AIOS agent: what the agent may do,
// and how to narrow that, lend it and take it back.
//
// An agent holds capabilities. Caps reads them from /aios/self, their methods
// act on them through /aios/ctl; docs/inside.md describes both.
//
//	caps, err := aios.Caps()
//	lent, err := caps[0].Delegate("worker", aios.Rights("read"), aios.Lease(30*time.Second))
//	n, err := lent.Revoke()
//
// Watch reads what happens, from /aios/events:
//
//	events, err := aios.Watch(aios.Choice{Topics: []string{"agent.exit@worker"}})
//	for e, err := range events.All(ctx) { … }
//
// A Capability is what was read at one time, and does not change. All may be
// used from several goroutines; nothing locks. Lengths of time are durations,
// sizes bytes. The package imports the standard library only, so that a
// program that uses it links nothing else of AIOS.
package aios

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Where the kernel shows itself and takes commands; tests have others.
var (
	root = "/aios"
	dial = func() (io.ReadWriteCloser, error) { return os.OpenFile(filepath.Join(root, "ctl"), os.O_RDWR, 0) }
)

// Error is a refusal.
type Error struct {
	// Code is stable and what programs compare: RIGHTS_EXCEED. It is empty if
	// /aios itself could not be used.
	Code string
	// Message says what was refused and why; Fix what helps, if anything is
	// known to.
	Message, Fix string
	// Errno is that of the call that failed.
	Errno syscall.Errno
}

// Error implements error.
func (e *Error) Error() string {
	out := e.Message
	if e.Code != "" {
		out = e.Code + ": " + out
	}
	if e.Fix != "" {
		out += "; " + e.Fix
	}
	return out
}

// Unwrap returns the errno, for errors.Is(err, syscall.EPERM).
func (e *Error) Unwrap() error { return e.Errno }

// Identity is who the agent is.
type Identity struct{ ID, Name, Domain string }

// Self returns who this agent is.
func Self() (Identity, error) {
	var out Identity
	for name, to := range map[string]*string{"id": &out.ID, "name": &out.Name, "domain": &out.Domain} {
		text, err := read(name)
		if err != nil {
			return Identity{}, err
		}
		*to = strings.TrimSuffix(text, "\n")
	}
	return out, nil
}

// Caps returns what this agent holds, by handle.
func Caps() ([]*Capability, error) {
	text, err := read("caps")
	if err != nil {
		return nil, err
	}
	var out []*Capability
	for line := range strings.Lines(text) {
		c, err := Parse(line)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// Node is a capability in the tree of what was derived from this agent's.
type Node struct {
	Depth int // 0 for the agent's own
	*Capability
}

// Tree returns what this agent holds, each followed by what was derived from
// it.
func Tree() ([]Node, error) {
	text, err := read("tree")
	if err != nil {
		return nil, err
	}
	var out []Node
	for line := range strings.Lines(text) {
		c, err := Parse(line)
		if err != nil {
			return nil, err
		}
		out = append(out, Node{len(line) - len(strings.TrimLeft(line, " ")), c})
	}
	return out, nil
}

// Explanation says whether an operation would be allowed, and why.
type Explanation struct {
	Allowed bool
	Why     string
}

// Explain asks what would happen: Explain("open /etc/shadow").
func Explain(operation string) (Explanation, error) {
	text, err := Command("explain " + operation)
	if err != nil {
		return Explanation{}, err
	}
	verdict, why, _ := strings.Cut(text, "\n")
	return Explanation{verdict == "allowed", strings.TrimSuffix(why, "\n")}, nil
}

// Limits returns what this agent may use, by class and name of the limit; one
// that is missing is none.
func Limits() (map[string]map[string]uint64, error) {
	text, err := read("limits")
	if err != nil {
		return nil, err
	}
	out := make(map[string]map[string]uint64)
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		of := make(map[string]uint64)
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			if of[key], err = strconv.ParseUint(value, 10, 64); err != nil {
				return nil, err
			}
		}
		out[words[0]] = of
	}
	return out, nil
}

// Stats decodes what this agent has used, a JSON object, into v.
func Stats(v any) error {
	text, err := read("stats")
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), v)
}

// Arm arms this agent's watchdog: it must be fed at least that often, from now
// on.
func Arm(timeout time.Duration) error { return order("watchdog", timeout.String()) }

// Feed feeds this agent's watchdog. It does nothing while it is not armed.
func Feed() error { return order("watchdog", "feed") }

// Disarm disarms a watchdog that this agent has armed.
func Disarm() error { return order("watchdog", "off") }

// Hint says what this agent does, for the scheduler: "interactive", "batch",
// "waiting-for-model", "tool-call", "speculative" or "none".
func Hint(what string) error { return order("hint", what) }

func order(file, text string) error {
	f, err := os.OpenFile(filepath.Join(root, "self", file), os.O_WRONLY, 0)
	if err != nil {
		return outside(err)
	}
	defer f.Close()
	_, err = f.Write([]byte(text))
	return err
}

// Command writes a command to /aios/ctl and returns the answer without its
// "ok".
func Command(line string) (string, error) {
	f, err := dial()
	if err != nil {
		return "", outside(err)
	}
	defer f.Close()
	_, refused := f.Write([]byte(line))
	answer, err := io.ReadAll(f)
	if refused != nil {
		return "", refusal(refused, string(answer))
	}
	if err != nil {
		return "", outside(err)
	}
	return strings.TrimLeft(strings.TrimPrefix(string(answer), "ok"), " \n"), nil
}

// refusal is the error that an answer speaks of.
func refusal(err error, answer string) *Error {
	out := &Error{Message: err.Error(), Errno: errnoOf(err)}
	first, rest, _ := strings.Cut(answer, "\n")
	code, message, ok := strings.Cut(strings.TrimPrefix(first, "error "), ": ")
	if !ok || !strings.HasPrefix(first, "error ") {
		return out
	}
	out.Code, out.Message = code, message
	if fix, ok := strings.CutPrefix(rest, "fix: "); ok {
		out.Fix = strings.TrimSuffix(fix, "\n")
	}
	return out
}

func read(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, "self", name))
	if err != nil {
		return "", outside(err)
	}
	return string(text), nil
}

// outside is the error for a file of /aios that cannot be used.
func outside(err error) *Error {
	out := &Error{Message: err.Error(), Errno: errnoOf(err)}
	if _, statErr := os.Stat(root); statErr != nil {
		out.Fix = "run this inside an AIOS agent"
	}
	return out
}

// invalid is what the kernel would say too.
func invalid(format string, args ...any) *Error {
	return &Error{Code: "INVALID_ARGUMENT", Message: fmt.Sprintf(format, args...), Errno: syscall.EINVAL}
}

func errnoOf(err error) syscall.Errno {
	var n syscall.Errno
	if !errors.As(err, &n) {
		return syscall.EIO
	}
	return n
}
