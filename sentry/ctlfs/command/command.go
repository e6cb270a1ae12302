// Package command is the language of /aios/ctl, and of what programs write to
// /aios/events: one command per line, words separated by blanks. Values are written as in the text of a grant, where %20
// is a blank.
//
//	delegate 3 to=worker rights=read lease=30s
//	topics=agent.*@worker severity=notice
//
// Parse turns a line from a program that may be hostile into a Command, and
// refuses what it does not understand with an error that names the fix.
// Command.Change turns its keys into what package capability wants, once the
// capability is known. Line is the form in which a capability is shown to the
// agent that holds it. ParseWatch reads which events a program wants, ParseRegion
// what is to be done with a region of memory.
//
// The package is pure: it takes no locks, knows no file and no task, and must
// not import gVisor, so that it can be fuzzed.
package command

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// MaxLen is the longest command, in bytes: two paths and some words.
const MaxLen = 10 << 10

// Verb is the first word of a command.
type Verb string

// The verbs.
const (
	List           Verb = "list"
	Inspect        Verb = "inspect"
	Tree           Verb = "tree"
	Attenuate      Verb = "attenuate"
	Delegate       Verb = "delegate"
	Move           Verb = "move"
	Seal           Verb = "seal"
	Renew          Verb = "renew"
	Revoke         Verb = "revoke"
	RevokeChildren Verb = "revoke-children"
	Explain        Verb = "explain"
	Signal         Verb = "signal"
	Pause          Verb = "pause"
	Resume         Verb = "resume"
)

// Info describes a verb to people.
type Info struct {
	Verb    Verb
	Usage   string
	Meaning string
}

// changeKeys are the keys that attenuate, delegate and move take.
var changeKeys = append([]string{"object", "rights"}, specKeys...)

type rule struct {
	Info
	target target
	keys   []string // that may be said as KEY=VALUE
	need   []string // of them, those that must be
	sealed bool     // takes the word "sealed"
}

// target says which capability a verb takes.
type target uint8

const (
	noTarget  target = iota
	ownTarget        // a handle
	anyTarget        // a handle or an ID
)

var rules = []rule{
	{Info{List, "list", "your capabilities, as in /aios/self/caps"}, noTarget, nil, nil, false},
	{Info{Inspect, "inspect HANDLE", "one capability; if it is one to an agent with the right inspect, the agent too"}, ownTarget, []string{"agent"}, nil, false},
	{Info{Tree, "tree", "what was derived from your capabilities, as in /aios/self/tree"}, noTarget, nil, nil, false},
	{Info{Attenuate, "attenuate HANDLE KEY=VALUE... [sealed]", "narrow a capability of yours in place"}, ownTarget, changeKeys, nil, true},
	{Info{Delegate, "delegate HANDLE to=AGENT [KEY=VALUE...] [sealed]", "give an agent a capability that is the same or narrower"}, ownTarget, append([]string{"to"}, changeKeys...), []string{"to"}, true},
	{Info{Move, "move HANDLE to=AGENT [KEY=VALUE...] [sealed]", "the same, and you no longer have it"}, ownTarget, append([]string{"to"}, changeKeys...), []string{"to"}, true},
	{Info{Seal, "seal HANDLE", "forbid that it is delegated further"}, ownTarget, nil, nil, false},
	{Info{Renew, "renew HANDLE|ID lease=DURATION", "extend the lease of a capability that you gave"}, anyTarget, []string{"lease"}, []string{"lease"}, false},
	{Info{Revoke, "revoke HANDLE|ID", "end a capability of yours, or one that you gave, and all that was derived from it"}, anyTarget, nil, nil, false},
	{Info{RevokeChildren, "revoke-children HANDLE|ID", "end all that was derived from it, and keep it"}, anyTarget, nil, nil, false},
	{Info{Explain, "explain OPERATION", "whether it would be allowed, and why: explain open /etc/shadow"}, noTarget, nil, nil, false},
	{Info{Signal, "signal HANDLE SIGNAL [agent=NAME]", "send a signal to the agent that the capability is to"}, ownTarget, []string{"agent"}, nil, false},
	{Info{Pause, "pause HANDLE [agent=NAME]", "stop that agent"}, ownTarget, []string{"agent"}, nil, false},
	{Info{Resume, "resume HANDLE [agent=NAME]", "let it run on"}, ownTarget, []string{"agent"}, nil, false},
}

// Verbs describes every verb.
func Verbs() []Info {
	out := make([]Info, len(rules))
	for i, r := range rules {
		out[i] = r.Info
	}
	return out
}

// Help is the text of /aios/help: every command, and what it does.
func Help() string {
	var b strings.Builder
	b.WriteString("Write one command to /aios/ctl and read the answer from the same open file:\n\n")
	for _, r := range rules {
		b.WriteString("  " + r.Usage + "\n      " + r.Meaning + "\n")
	}
	b.WriteString(regionHelp())
	b.WriteString("\nRead /aios/events for events, as lines of JSON; what you write to it says which:\n\n  " + WatchUsage +
		"\n\nHANDLE is the number, ID the second word of a line of /aios/self/caps.\nKEY is one of " +
		strings.Join(changeKeys, ", ") + ".\nValues are written as in grants: %20 is a blank.\n")
	return b.String()
}

// Command is one parsed line.
type Command struct {
	Verb Verb
	// Handle or ID says which capability is meant; the other is zero.
	Handle capability.Handle
	ID     capability.ID
	// To is the agent that is given something: its ID or name.
	To string
	// Agent says which agent is meant, where the capability is to all of them.
	Agent string
	// Signal is its number.
	Signal int
	// Lease is what renew asks for.
	Lease time.Duration
	// Op is what explain asks about.
	Op string

	keys   map[string]string
	sealed bool
}

// Target names the capability that the command is about.
func (c *Command) Target() string {
	if c.ID != "" {
		return string(c.ID)
	}
	if c.Handle == 0 {
		return ""
	}
	return "handle " + strconv.FormatUint(uint64(c.Handle), 10)
}

// Parse reads a line; a newline at its end is dropped.
func Parse(line string) (*Command, error) {
	line, err := oneLine(line)
	if err != nil {
		return nil, err
	}
	verb, rest := strings.Trim(line, " \t"), ""
	if i := strings.IndexAny(verb, " \t"); i >= 0 {
		verb, rest = verb[:i], verb[i:]
	}
	i := slices.IndexFunc(rules, func(r rule) bool { return r.Verb == Verb(verb) })
	if i < 0 {
		if verb == "" {
			return nil, bad("the command is empty").With(errdefs.Fix("read /aios/help"))
		}
		return nil, bad("there is no command %q", clip(verb)).With(errdefs.Fix("read /aios/help"))
	}
	r := rules[i]
	c := &Command{Verb: r.Verb}
	if r.Verb == Explain {
		if c.Op = strings.Trim(rest, " \t"); c.Op == "" {
			return nil, r.misuse("say which operation: explain open /etc/shadow")
		}
		return c, nil
	}
	words, err := split(rest)
	if err != nil {
		return nil, err
	}
	if r.target != noTarget {
		if len(words) == 0 || words[0].key != "" {
			return nil, r.misuse("say which capability")
		}
		if err := c.setTarget(r, words[0].value); err != nil {
			return nil, err
		}
		words = words[1:]
	}
	if r.Verb == Signal {
		if len(words) == 0 || words[0].key != "" {
			return nil, r.misuse("say which signal")
		}
		if c.Signal, err = signalNumber(words[0].value); err != nil {
			return nil, err
		}
		words = words[1:]
	}
	if err := c.setKeys(r, words); err != nil {
		return nil, err
	}
	return c, nil
}

// setTarget reads the word that says which capability is meant.
func (c *Command) setTarget(r rule, word string) error {
	if capability.IsID(word) {
		if r.target != anyTarget {
			return r.misuse("it takes a capability of your own, by its handle")
		}
		c.ID = capability.ID(word)
		return nil
	}
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil || n == 0 {
		return r.misuse("%q is no handle and no ID of a capability", clip(word))
	}
	c.Handle = capability.Handle(n)
	return nil
}

// setKeys reads the words behind the target.
func (c *Command) setKeys(r rule, words []word) error {
	for _, w := range words {
		switch {
		case w.key == "" && w.value == "sealed" && r.sealed && !c.sealed:
			c.sealed = true
			continue
		case w.key == "":
			return r.misuse("it does not take %q", clip(w.value))
		case !slices.Contains(r.keys, w.key):
			return r.misuse("it does not take the key %q", clip(w.key))
		case w.value == "":
			return r.misuse("%s has no value", w.key)
		}
		if _, twice := c.keys[w.key]; twice {
			return r.misuse("%s is said twice", w.key)
		}
		if c.keys == nil {
			c.keys = make(map[string]string)
		}
		c.keys[w.key] = w.value
	}
	for _, k := range r.need {
		if c.keys[k] == "" {
			return r.misuse("%s= is missing", k)
		}
	}
	for key, field := range map[string]*string{"to": &c.To, "agent": &c.Agent} {
		name, said := c.keys[key]
		if !said {
			continue
		}
		if !abi.ValidName(name) && !abi.IsAgentID(name) {
			return r.misuse("%q is no ID and no name of an agent", clip(name))
		}
		*field = name
	}
	switch r.Verb {
	case Renew:
		d, err := time.ParseDuration(c.keys["lease"])
		if err != nil || d <= 0 {
			return r.misuse("lease=%s is no time to come", clip(c.keys["lease"])).With(errdefs.Fix("write lease=30s or lease=5m"))
		}
		c.Lease = d
	case Attenuate:
		if len(c.keys) == 0 && !c.sealed {
			return r.misuse("say what is to be narrower")
		}
	}
	return nil
}

func (r rule) misuse(format string, args ...any) *errdefs.Error {
	return errdefs.Newf(errdefs.InvalidArgument, format, args...).With(errdefs.Op(string(r.Verb)), errdefs.Fix("usage: %s", r.Usage))
}

func bad(format string, args ...any) *errdefs.Error {
	return errdefs.Newf(errdefs.InvalidArgument, format, args...)
}

// clip shortens a word from outside before it is shown.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	for n := most; ; n-- {
		if utf8.RuneStart(s[n]) {
			return s[:n] + "…"
		}
	}
}
