// Package profile reads profiles: named bundles of grants, as plain files.
//
// A profile is a text of lines. '#' begins a comment, the first of which
// describes the profile; "include NAME" takes over what is in another;
// "on-fault RULE" and "on-violation RULE" are policies as package trap reads
// them; any other line is a grant as package capability reads it. ${PWD} and ${HOME}
// stand for directories of whoever asks.
//
// Load looks for NAME.profile in the directories it is given, the first that
// has it wins, and then among those that come with AIOS. It only reads: what
// a profile gives is minted by the daemon, like any other grant.
//
// The package has no state and takes no locks. It imports nothing of AIOS but
// abi, errdefs, capability and sentry/trap.
package profile

import (
	"embed"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/trap"
)

//go:embed builtin/*.profile
var builtin embed.FS

const (
	suffix = ".profile"
	// maxSize bounds a file, in bytes; maxDepth how deep profiles include
	// each other; MaxGrants what one comes to.
	maxSize  = 64 << 10
	maxDepth = 8
	// MaxGrants is how many grants a profile may come to.
	MaxGrants = 256
)

// Profile is what a name stands for.
type Profile struct {
	Name string
	// About is the first comment.
	About string
	// File is where it was found; "" for one that comes with AIOS.
	File string
	// Grants are in canonical form, without duplicates, in order.
	Grants []string
	// OnFault and OnViolation are policies, as package trap reads them.
	OnFault, OnViolation []string
}

// Options say where profiles are and what their variables stand for.
type Options struct {
	// Dirs are looked into in order, before what comes with AIOS. One that
	// does not exist is passed over.
	Dirs []string
	// Vars are the variables; one that is not here is an error.
	Vars map[string]string
}

// Load reads the profile of that name.
func Load(name string, o Options) (Profile, error) {
	l := loader{Options: o}
	p, err := l.load(name)
	if err != nil {
		return Profile{}, err
	}
	return p, nil
}

// Names returns the names of all profiles, sorted.
func Names(o Options) []string {
	seen := make(map[string]bool)
	add := func(file string) {
		if n, ok := strings.CutSuffix(file, suffix); ok && abi.ValidName(n) {
			seen[n] = true
		}
	}
	for _, d := range o.Dirs {
		entries, _ := os.ReadDir(d) // One that is missing has none.
		for _, e := range entries {
			add(e.Name())
		}
	}
	entries, _ := builtin.ReadDir("builtin")
	for _, e := range entries {
		add(e.Name())
	}
	names := make([]string, 0, len(seen))
	for n := range seen {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// loader reads one profile and what it includes.
type loader struct {
	Options
	open []string // being read, the outermost first
}

func (l *loader) load(name string) (Profile, error) {
	if !abi.ValidName(name) {
		return Profile{}, errdefs.New(errdefs.InvalidArgument, "not a profile's name", errdefs.Resource("%q", name),
			errdefs.Fix("`aiosctl profile ls` lists the profiles"))
	}
	if slices.Contains(l.open, name) {
		return Profile{}, errdefs.New(errdefs.ProfileInvalid, "it includes itself: "+strings.Join(append(l.open, name), " > "), errdefs.Resource("profile %s", name))
	}
	if len(l.open) >= maxDepth {
		return Profile{}, errdefs.Newf(errdefs.ProfileInvalid, "profiles include each other more than %d deep", maxDepth)
	}
	text, file, err := l.read(name)
	if err != nil {
		return Profile{}, err
	}
	l.open = append(l.open, name)
	defer func() { l.open = l.open[:len(l.open)-1] }()
	p := Profile{Name: name, File: file}
	for i, line := range strings.Split(text, "\n") {
		if err := l.line(&p, strings.TrimSpace(line)); err != nil {
			where := file
			if where == "" {
				where = name
			}
			return Profile{}, errdefs.Wrap(err, errdefs.ProfileInvalid, "read profile", errdefs.Resource("%s:%d", where, i+1))
		}
	}
	return p, nil
}

// read returns the text of a profile, and its file.
func (l *loader) read(name string) (text, file string, err error) {
	for _, d := range l.Dirs {
		file := filepath.Join(d, name+suffix)
		info, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var raw []byte
		if err == nil && info.Size() > maxSize {
			return "", "", errdefs.Newf(errdefs.ProfileInvalid, "the file is larger than %d bytes", maxSize).With(errdefs.Resource("%s", file))
		}
		if err == nil {
			raw, err = os.ReadFile(file)
		}
		if err != nil {
			return "", "", errdefs.Wrap(err, errdefs.HostIO, "read profile", errdefs.Resource("%s", name))
		}
		return string(raw), file, nil
	}
	raw, err := builtin.ReadFile(path.Join("builtin", name+suffix))
	if err != nil {
		return "", "", errdefs.New(errdefs.ProfileNotFound, "no such profile", errdefs.Resource("%q", name),
			errdefs.Fix("the profiles are: %s", strings.Join(Names(l.Options), ", ")))
	}
	return string(raw), "", nil
}

// line takes one line in.
func (l *loader) line(p *Profile, line string) error {
	comment, isComment := strings.CutPrefix(line, "#")
	switch {
	case line == "":
		return nil
	case isComment:
		if p.About == "" {
			p.About = strings.TrimSpace(comment)
		}
		return nil
	}
	if name, ok := strings.CutPrefix(line, "include "); ok {
		inner, err := l.load(strings.TrimSpace(name))
		if err != nil {
			return err
		}
		for _, g := range inner.Grants {
			if err := p.add(g); err != nil {
				return err
			}
		}
		p.OnFault = append(p.OnFault, inner.OnFault...)
		p.OnViolation = append(p.OnViolation, inner.OnViolation...)
		return nil
	}
	if rule, ok := strings.CutPrefix(line, "on-fault "); ok {
		p.OnFault = append(p.OnFault, strings.TrimSpace(rule))
		_, err := trap.ParseFaults(p.OnFault)
		return err
	}
	if rule, ok := strings.CutPrefix(line, "on-violation "); ok {
		p.OnViolation = append(p.OnViolation, strings.TrimSpace(rule))
		_, err := trap.ParseViolations(p.OnViolation)
		return err
	}
	text, err := l.expand(line)
	if err != nil {
		return err
	}
	spec, err := capability.ParseSpec(text)
	if err != nil {
		return err
	}
	return p.add(spec.String())
}

func (p *Profile) add(grant string) error {
	if slices.Contains(p.Grants, grant) {
		return nil
	}
	if len(p.Grants) >= MaxGrants {
		return errdefs.Newf(errdefs.ProfileInvalid, "more than %d grants", MaxGrants)
	}
	p.Grants = append(p.Grants, grant)
	return nil
}

// expand replaces ${NAME}.
func (l *loader) expand(line string) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(line, "${")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		value, known := l.Vars[name]
		if !closed || !known {
			var have []string
			for v := range l.Vars {
				have = append(have, "${"+v+"}")
			}
			sort.Strings(have)
			return "", errdefs.Newf(errdefs.ProfileInvalid, "no variable ${%s}", name).With(errdefs.Fix("there are %s", strings.Join(have, ", ")))
		}
		if strings.ContainsAny(value, ":,\n") {
			return "", errdefs.Newf(errdefs.ProfileInvalid, "${%s} is %q, and a grant cannot hold ':' or ','", name, value).
				With(errdefs.Fix("work in a directory without these characters, or grant it with --mount"))
		}
		b.WriteString(value)
		line = after
	}
}
