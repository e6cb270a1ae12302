package alert

import (
	"fmt"
	"regexp"
	"strconv"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
)

// Bounds and defaults of what is configured.
const (
	MaxRules  = 64
	maxTopics = 64
	maxNote   = 512
	// Of windows and of times that something must last.
	leastWithin = 100 * time.Millisecond
	maxWait     = 24 * time.Hour

	leastEvery   = 100 * time.Millisecond
	defaultEvery = 5 * time.Second
)

// Config is what the configuration file says of a rule.
type Config struct {
	Name string `yaml:"name"`
	// Which events it looks at, as `aiosctl events` chooses them.
	On     []string `yaml:"on"`
	Filter string   `yaml:"filter"`
	// By is what has a state of its own: "agent", "domain" or "none".
	By string `yaml:"by"`
	// One of:
	Threshold *Threshold `yaml:"threshold"`
	Rate      *Rate      `yaml:"rate"`
	Absence   *Absence   `yaml:"absence"`
	// For is how long it must hold before it fires, Hold how long it must not
	// before it is resolved.
	For  time.Duration `yaml:"for"`
	Hold time.Duration `yaml:"hold"`
	// Severity is that of the event.
	Severity string   `yaml:"severity"`
	Note     string   `yaml:"note"`
	Actions  *Actions `yaml:"actions"`
}

// SetDefaults implements config.Defaulter.
func (c *Config) SetDefaults() { c.By, c.Severity = "agent", "warning" }

// Threshold is a number that must not be passed.
type Threshold struct {
	// A counter of agents, or an expression over the latest event.
	Counter string `yaml:"counter"`
	Value   string `yaml:"value"`
	// One of:
	Above *Number `yaml:"above"`
	Below *Number `yaml:"below"`
	// Clear is what it must come back to; the limit itself if it is left out.
	Clear *Number `yaml:"clear"`
	// Every is how often a counter is sampled.
	Every time.Duration `yaml:"every"`
	// Within is for how long the latest event counts; 0: until the next.
	Within time.Duration `yaml:"within"`
}

// SetDefaults implements config.Defaulter.
func (t *Threshold) SetDefaults() { t.Every = defaultEvery }

// Rate is how many events there may be in a window.
type Rate struct {
	Above  *Number       `yaml:"above"`
	Clear  *Number       `yaml:"clear"`
	Within time.Duration `yaml:"within"`
	// Value is what one event counts for; 1 if it is left out.
	Value string `yaml:"value"`
}

// Absence is that there is no event.
type Absence struct {
	After time.Duration `yaml:"after"`
}

// Actions are what is done while a rule holds, besides saying so.
type Actions struct {
	Throttle *Throttle `yaml:"throttle"`
	Pause    *Pause    `yaml:"pause"`
	Kill     bool      `yaml:"kill"`
	Hook     *Hook     `yaml:"hook"`
}

// Throttle gives an agent less of the CPUs while the rule holds.
type Throttle struct {
	CPU float64 `yaml:"cpu"`
}

// Milli is the quota in thousandths of a CPU.
func (t *Throttle) Milli() uint64 { return uint64(t.CPU*1000 + 0.5) }

// Pause stops an agent; with Resume only until the rule holds no longer.
type Pause struct {
	Resume bool `yaml:"resume"`
}

// Hook is a program that is run.
type Hook struct {
	Command []string      `yaml:"command"`
	Timeout time.Duration `yaml:"timeout"`
	// Resolved has it run as well when the rule holds no longer.
	Resolved bool `yaml:"resolved"`
}

// SetDefaults implements config.Defaulter.
func (h *Hook) SetDefaults() { h.Timeout = config.DefaultProgramTime }

// Names are those of the actions, in the order in which they are taken.
func (a *Actions) Names() (out []string) {
	if a == nil {
		return nil
	}
	for _, one := range []struct {
		name string
		set  bool
	}{{"throttle", a.Throttle != nil}, {"pause", a.Pause != nil}, {"kill", a.Kill}, {"hook", a.Hook != nil}} {
		if one.set {
			out = append(out, one.name)
		}
	}
	return out
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

// bad is the error of a value that makes no sense.
func bad(detail, fix string) error {
	return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Fix("%s", fix))
}

func quoted(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return strconv.Quote(s)
}

// badTime refuses a duration that is out of bounds; 0 is left alone unless it
// must be given.
func badTime(d, least time.Duration, given bool) error {
	if d == 0 && !given || d >= least && d <= maxWait {
		return nil
	}
	if d == 0 {
		return bad("it is not said how long", fmt.Sprintf("write a duration from %v to 24h", least))
	}
	return bad("it is too short or too long", fmt.Sprintf("write a duration from %v to 24h", least))
}

// checkPlain refuses what makes no sense without looking at topics and
// expressions, and names the key.
func (c *Config) checkPlain() (key string, err error) {
	switch {
	case !validName.MatchString(c.Name):
		return "name", bad(quoted(c.Name)+" is no name", "give the rule a name of 1 to 63 letters, digits, dots, dashes and underscores")
	case c.By != "agent" && c.By != "domain" && c.By != "none":
		return "by", bad("nothing is grouped by "+quoted(c.By), "write agent, domain or none")
	case len(c.On) > maxTopics:
		return "on", bad("there are too many", fmt.Sprintf("name at most %d, or patterns such as agent.*", maxTopics))
	case len(c.Note) > maxNote:
		return "note", bad("it is too long", fmt.Sprintf("keep it to %d bytes", maxNote))
	}
	kinds := 0
	for _, there := range []bool{c.Threshold != nil, c.Rate != nil, c.Absence != nil} {
		if there {
			kinds++
		}
	}
	if kinds != 1 {
		return "", bad("it is not said what must hold", "write one of threshold, rate and absence")
	}
	for _, t := range []struct {
		key string
		d   time.Duration
	}{{"for", c.For}, {"hold", c.Hold}} {
		if err := badTime(t.d, time.Millisecond, false); err != nil {
			return t.key, err
		}
	}
	if key, err := c.checkKind(); err != nil {
		return key, err
	}
	if counter := c.Threshold != nil && c.Threshold.Counter != ""; counter != (len(c.On) == 0) {
		if counter {
			return "on", bad("a counter is sampled, whatever happens", "leave on out, or the counter")
		}
		return "on", bad("it is not said which events count", "name topics: on: [capability.deny]")
	}
	return c.checkActions()
}

func (c *Config) checkKind() (key string, err error) {
	switch {
	case c.Threshold != nil:
		key, err = c.Threshold.check()
		return "threshold" + dotted(key), err
	case c.Rate != nil:
		key, err = c.Rate.check()
		return "rate" + dotted(key), err
	case c.For != 0:
		return "for", bad("an absence says itself how long", "leave for out, and write absence: {after: …}")
	}
	return "absence.after", badTime(c.Absence.After, leastWithin, true)
}

func dotted(key string) string {
	if key == "" {
		return ""
	}
	return "." + key
}

func (t *Threshold) check() (key string, err error) {
	switch {
	case (t.Counter == "") == (t.Value == ""):
		return "", bad("it is not said what is compared", "write either counter or value")
	case (t.Above == nil) == (t.Below == nil):
		return "", bad("it is not said with what it is compared", "write either above or below")
	case t.Clear != nil && t.Above != nil && *t.Clear > *t.Above:
		return "clear", bad("it is beyond the limit itself", "write a number that is not more than above")
	case t.Clear != nil && t.Below != nil && *t.Clear < *t.Below:
		return "clear", bad("it is beyond the limit itself", "write a number that is not less than below")
	case t.Counter != "" && t.Within != 0:
		return "within", bad("it is about events, and a counter is sampled", "leave it out; for says how long it must last")
	}
	if t.Counter != "" {
		if _, err := parseCounter(t.Counter); err != nil {
			return "counter", err
		}
		return "every", badTime(t.Every, leastEvery, true)
	}
	return "within", badTime(t.Within, leastWithin, false)
}

func (r *Rate) check() (key string, err error) {
	switch {
	case r.Above == nil || *r.Above < 0:
		return "above", bad("it is not said how many are too many", "write a number that is not negative: above: 10")
	case r.Clear != nil && *r.Clear > *r.Above:
		return "clear", bad("it is beyond the limit itself", "write a number that is not more than above")
	case r.Clear != nil && *r.Clear < 0:
		return "clear", bad("there are never fewer events than none", "write a number that is not negative")
	}
	return "within", badTime(r.Within, leastWithin, true)
}

func (c *Config) checkActions() (key string, err error) {
	a := c.Actions
	switch {
	case a == nil:
		return "", nil
	case c.By != "agent" && (a.Throttle != nil || a.Pause != nil || a.Kill):
		return "actions", bad("it acts on agents, and does not say on which", "write by: agent, or leave a hook alone")
	case a.Kill && (a.Throttle != nil || a.Pause != nil):
		return "actions.kill", bad("what is killed can be neither throttled nor paused", "keep one of them")
	case a.Throttle != nil && !(a.Throttle.CPU >= 0.001 && a.Throttle.CPU <= 1024):
		return "actions.throttle.cpu", bad("nothing is throttled to this", "write a number of CPUs from 0.001 up: cpu: 0.1")
	case a.Hook == nil:
		return "", nil
	}
	if err := config.CheckCommand(a.Hook.Command); err != nil {
		return "actions.hook.command", err
	}
	return "actions.hook.timeout", config.CheckProgramTime(a.Hook.Timeout)
}
