package aios

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Capability is a capability, as it was when it was read.
type Capability struct {
	// Handle is what its holder calls it by, 0 in another domain; ID is its
	// name everywhere.
	Handle uint64
	ID     string
	// Grant is the text of a grant that says the same.
	Grant string
	// Class is "fs", "net" and so on, Object a path, "self", an agent's name...
	Class, Object string
	Rights        []string
	// Limits are as grants have them: quota → 1G.
	Limits map[string]string
	// At is where files appear, if not at their own path.
	At     string
	Badge  uint64
	Sealed bool
	// Holder is who holds it, "" if this agent does; Parent the ID of what it
	// was derived from.
	Holder, Parent string
	// Expires is how long it still lived, if it is Leased.
	Leased  bool
	Expires time.Duration
	// Rest is what is left of limits that were divided.
	Rest map[string]uint64
}

// rights are the rights of every class, the lowest bit first.
var rights = map[string][]string{
	"fs":       {"read", "write", "exec", "create", "delete"},
	"net":      {"connect", "bind"},
	"mem":      {"map", "exec"},
	"cpu":      {"run"},
	"io":       {"read", "write"},
	"proc":     {"spawn", "exec", "signal", "debug"},
	"agent":    {"signal", "inspect", "pause"},
	"sys":      {"use"},
	"event":    {"subscribe"},
	"svc":      {"connect"},
	"region":   {"read", "write", "snapshot", "share"},
	"semantic": {"read", "write", "delete", "share"},
}

// Parse reads a line of /aios/self/caps.
func Parse(line string) (*Capability, error) {
	words := strings.Fields(line)
	bad := func(why string) (*Capability, error) {
		return nil, invalid("%q is not a capability: %s", strings.TrimSpace(line), why)
	}
	if len(words) < 3 {
		return bad("it has fewer than three words")
	}
	c := &Capability{ID: words[1], Grant: words[2], Limits: map[string]string{}, Rest: map[string]uint64{}}
	var err error
	if c.Handle, err = strconv.ParseUint(words[0], 10, 64); err != nil {
		return bad("the first word is no handle")
	}
	if why := c.parseGrant(); why != "" {
		return bad(why)
	}
	for _, w := range words[3:] {
		key, value, ok := strings.Cut(w, "=")
		switch {
		case !ok:
			return bad(w + " has no value")
		case key == "holder":
			c.Holder = value
		case key == "parent":
			c.Parent = value
		case key == "expires":
			c.Leased = true
			c.Expires, err = time.ParseDuration(value)
		case key == "rest":
			for part := range strings.SplitSeq(value, ",") {
				name, n, _ := strings.Cut(part, ":")
				if c.Rest[name], err = strconv.ParseUint(n, 10, 64); err != nil {
					break
				}
			}
		}
		if err != nil {
			return bad(w + " cannot be read")
		}
	}
	return c, nil
}

// parseGrant reads the text of the grant, and returns what is wrong with it.
func (c *Capability) parseGrant() string {
	head, options, _ := strings.Cut(c.Grant, ",")
	parts := strings.Split(head, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return "its grant is not CLASS:OBJECT[:RIGHTS]"
	}
	c.Class = parts[0]
	var err error
	if c.Object, err = url.PathUnescape(parts[1]); err != nil {
		return "its object cannot be read"
	}
	switch {
	case len(parts) == 2 || parts[2] == "all" || parts[2] == "rw" && c.Class == "fs":
		c.Rights = slices.Clone(rights[c.Class])
	case parts[2] == "ro" && c.Class == "fs":
		c.Rights = []string{"read", "exec"}
	default:
		c.Rights = strings.Split(parts[2], "+")
	}
	if options == "" {
		return ""
	}
	for option := range strings.SplitSeq(options, ",") {
		switch key, value, _ := strings.Cut(option, "="); key {
		case "sealed":
			c.Sealed = true
		case "lease": // Expires says it better.
		case "at":
			c.At, err = url.PathUnescape(value)
		case "badge":
			c.Badge, err = strconv.ParseUint(value, 10, 64)
		default:
			c.Limits[key] = value
		}
		if err != nil {
			return option + " cannot be read"
		}
	}
	return ""
}

// Change is how a capability is to differ.
type Change func(*[]string)

func say(key, value string) Change {
	return func(words *[]string) { *words = append(*words, key+"="+value) }
}

// Object narrows it to a part of its object: a path below its own.
func Object(name string) Change { return say("object", escape(name)) }

// Rights leaves it these rights.
func Rights(names ...string) Change { return say("rights", strings.Join(names, "+")) }

// Limit sets a limit of its class, as grants have it: Limit("quota", "1G").
func Limit(key, value string) Change { return say(key, value) }

// At has files appear at another path.
func At(path string) Change { return say("at", escape(path)) }

// Lease ends it after d, unless it is renewed.
func Lease(d time.Duration) Change { return say("lease", d.String()) }

// Badge marks it with a number, by which a service knows who gave it.
func Badge(n uint64) Change { return say("badge", strconv.FormatUint(n, 10)) }

// Sealed forbids to delegate it further.
func Sealed() Change { return func(words *[]string) { *words = append(*words, "sealed") } }

// escape writes a name as grants have it.
func escape(name string) string {
	// PathEscape leaves a few characters that separate words here.
	s := strings.ReplaceAll(url.PathEscape(name), "%2F", "/")
	return strings.NewReplacer(":", "%3A", ",", "%2C", "=", "%3D").Replace(s)
}

// Delegate gives the same or less to an agent, by name or ID, and returns what
// that agent got.
func (c *Capability) Delegate(to string, changes ...Change) (*Capability, error) {
	return c.derive("delegate", []Change{say("to", to)}, changes)
}

// Move is Delegate, after which this agent no longer has it.
func (c *Capability) Move(to string, changes ...Change) (*Capability, error) {
	return c.derive("move", []Change{say("to", to)}, changes)
}

// Attenuate narrows it in place, and returns it as it is then.
func (c *Capability) Attenuate(changes ...Change) (*Capability, error) {
	return c.derive("attenuate", nil, changes)
}

// Seal forbids to delegate it further, and returns it as it is then.
func (c *Capability) Seal() (*Capability, error) { return c.derive("seal", nil, nil) }

// Renew lets one that this agent gave live for d from now on.
func (c *Capability) Renew(d time.Duration) (*Capability, error) {
	return answerCapability("renew " + c.ref() + " lease=" + d.String())
}

// Revoke ends it and all that was derived from it, and returns how many ended.
// When it returns, nothing of that works any more, in any domain.
func (c *Capability) Revoke() (int, error) { return answerCount("revoke " + c.ref()) }

// RevokeChildren ends all that was derived from it, and keeps it.
func (c *Capability) RevokeChildren() (int, error) {
	return answerCount("revoke-children " + c.ref())
}

// Signal sends a signal, by name or number, to the agent that it is to; agent
// says which if it covers all, and is "" otherwise.
func (c *Capability) Signal(signal, agent string) error { return c.act("signal", signal, agent) }

// Pause stops that agent.
func (c *Capability) Pause(agent string) error { return c.act("pause", "", agent) }

// Resume lets that agent run on.
func (c *Capability) Resume(agent string) error { return c.act("resume", "", agent) }

func (c *Capability) act(verb, signal, agent string) error {
	words := []string{verb, strconv.FormatUint(c.Handle, 10)}
	if signal != "" {
		words = append(words, signal)
	}
	if agent != "" {
		words = append(words, "agent="+agent)
	}
	line, err := c.line(words)
	if err != nil {
		return err
	}
	_, err = Command(line)
	return err
}

func (c *Capability) derive(verb string, first, changes []Change) (*Capability, error) {
	words := []string{verb, strconv.FormatUint(c.Handle, 10)}
	for _, change := range append(first, changes...) {
		change(&words)
	}
	line, err := c.line(words)
	if err != nil {
		return nil, err
	}
	return answerCapability(line)
}

// line joins the words of a command on what this agent holds. A word with
// blanks would be several, and say what its author did not mean to.
func (c *Capability) line(words []string) (string, error) {
	if c.Holder != "" {
		return "", invalid("%s is held by %s, not by this agent", c.ID, c.Holder)
	}
	for _, w := range words {
		if w == "" || strings.ContainsFunc(w, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			return "", invalid("%q is not one word", w)
		}
	}
	return strings.Join(words, " "), nil
}

// ref names it for commands that take a handle or an ID.
func (c *Capability) ref() string {
	if c.Holder != "" {
		return c.ID
	}
	return strconv.FormatUint(c.Handle, 10)
}

func answerCapability(line string) (*Capability, error) {
	answer, err := Command(line)
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(answer, "\n")
	return Parse(first)
}

func answerCount(line string) (int, error) {
	answer, err := Command(line)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(answer, "revoked=")))
}
