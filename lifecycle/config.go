package lifecycle

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
)

// Bounds of what is configured.
const (
	MaxHooks  = 64
	maxGlobs  = 64
	maxOrder  = 1_000_000
	allAgents = "*"
)

// Config is what the configuration file says of a hook: a program.
type Config struct {
	Name string `yaml:"name"`
	// On are the operations that it hears of.
	On []string `yaml:"on"`
	// Agents are patterns of names; * stands for any number of characters. None:
	// all agents, also those without a name.
	Agents []string `yaml:"agents"`
	// Before has it run before, to be asked; After has it run after, to be told.
	Before    bool          `yaml:"before"`
	After     bool          `yaml:"after"`
	Command   []string      `yaml:"command"`
	Order     int           `yaml:"order"`
	Timeout   time.Duration `yaml:"timeout"`
	OnFailure string        `yaml:"on_failure"`
}

// SetDefaults implements config.Defaulter.
func (c *Config) SetDefaults() { c.Timeout, c.OnFailure = config.DefaultProgramTime, string(Refuse) }

var (
	validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)
	validGlob = regexp.MustCompile(`^[a-zA-Z0-9._*-]{1,63}$`)
)

// Compile examines a hook and returns it without what runs it. The key names
// what is wrong. It does not look whether the program is there.
func (c *Config) Compile() (h Hook, key string, err error) {
	bad := func(key, detail, fix string) (Hook, string, error) {
		return Hook{}, key, errdefs.New(errdefs.InvalidArgument, detail, errdefs.Fix("%s", fix))
	}
	switch {
	case !validName.MatchString(c.Name):
		return bad("name", fmt.Sprintf("%.60q is no name", c.Name), "give the hook a name of 1 to 63 letters, digits, dots, dashes and underscores")
	case len(c.On) == 0:
		return bad("on", "it is not said of which operations it hears", "name some: on: [spawn, exec]")
	case !c.Before && !c.After:
		return bad("", "it is not said when it runs", "write before: true, after: true, or both")
	case len(c.Agents) > maxGlobs:
		return bad("agents", "there are too many", fmt.Sprintf("name at most %d, or patterns such as web-*", maxGlobs))
	case c.Order < -maxOrder || c.Order > maxOrder:
		return bad("order", "nobody needs such a number", fmt.Sprintf("write one from %d to %d", -maxOrder, maxOrder))
	case c.OnFailure != string(Refuse) && c.OnFailure != string(GoOn):
		return bad("on_failure", fmt.Sprintf("%.60q is no policy", c.OnFailure), "write refuse or go-on")
	}
	h = Hook{Name: c.Name, Order: c.Order, OnFailure: Policy(c.OnFailure)}
	refusable := false
	for i, name := range c.On {
		op, err := ParseOp(name)
		at := "on[" + strconv.Itoa(i) + "]"
		if err != nil {
			return Hook{}, at, err
		}
		if slices.Contains(h.Ops, op) {
			return bad(at, name+" is there already", "keep one of the two")
		}
		info, _ := infoOf(op)
		refusable = refusable || info.Refusable
		h.Ops = append(h.Ops, op)
	}
	if c.Before && !refusable {
		return bad("before", "what it hears of has happened, and cannot be refused", "write after: true instead")
	}
	for i, g := range c.Agents {
		if !validGlob.MatchString(g) {
			return bad("agents["+strconv.Itoa(i)+"]", fmt.Sprintf("%.60q is no pattern of names", g), "write a name, or one with * in it, such as web-*")
		}
	}
	if globs := slices.Clone(c.Agents); len(globs) > 0 && !slices.Contains(globs, allAgents) {
		h.Chooses = func(op *Operation) bool {
			return op.Agent.Name != "" && slices.ContainsFunc(globs, func(g string) bool {
				ok, _ := path.Match(g, op.Agent.Name) // Of these characters only * is special.
				return ok
			})
		}
	}
	if err := config.CheckCommand(c.Command); err != nil {
		return Hook{}, "command", err
	}
	return h, "timeout", config.CheckProgramTime(c.Timeout)
}
