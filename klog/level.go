package klog

import (
	"log/slog"
	"strconv"
	"strings"

	"aios.dev/aios/errdefs"
)

// Levels beside those of package slog.
const (
	// LevelNotice is normal but worth knowing: a domain starts, a limit nears.
	LevelNotice slog.Level = 2
	// LevelCritical means that something of AIOS itself has failed.
	LevelCritical slog.Level = 12
)

// levels are all that have names, the lowest first.
var levels = []struct {
	level slog.Level
	name  string
	// syslog is the priority of the same meaning in syslog(3).
	syslog int
}{
	{slog.LevelDebug, "debug", 7},
	{slog.LevelInfo, "info", 6},
	{LevelNotice, "notice", 5},
	{slog.LevelWarn, "warning", 4},
	{slog.LevelError, "error", 3},
	{LevelCritical, "critical", 2},
}

// LevelNames returns the names that ParseLevel takes, the lowest first.
func LevelNames() []string {
	names := make([]string, len(levels))
	for i, l := range levels {
		names[i] = l.name
	}
	return names
}

// LevelName returns the name of the highest level that is not above l.
func LevelName(l slog.Level) string { return levels[levelIndex(l)].name }

// Priority returns the syslog priority of l, from 2 (critical) to 7 (debug).
func Priority(l slog.Level) int { return levels[levelIndex(l)].syslog }

func levelIndex(l slog.Level) int {
	i := 0
	for i+1 < len(levels) && levels[i+1].level <= l {
		i++
	}
	return i
}

// ParseLevel reads the name of a level, in any case; "warn" is "warning".
func ParseLevel(s string) (slog.Level, error) {
	name := strings.ToLower(s)
	if name == "warn" {
		name = "warning"
	}
	for _, l := range levels {
		if l.name == name {
			return l.level, nil
		}
	}
	return 0, errdefs.New(errdefs.InvalidArgument, "it is no level", errdefs.Resource("%s", strconv.Quote(s)),
		errdefs.Fix("use one of %s", strings.Join(LevelNames(), ", ")))
}

// Setting is the level of a subsystem, as people write it.
type Setting struct {
	Subsystem string // "*" for all
	Level     slog.Level
}

// ParseSettings reads SUBSYSTEM=LEVEL, separated by commas; "*=LEVEL" is all.
func ParseSettings(s string) ([]Setting, error) {
	var out []Setting
	for part := range strings.SplitSeq(s, ",") {
		if part == "" {
			continue
		}
		name, text, ok := strings.Cut(part, "=")
		if !ok || name == "" {
			return nil, errdefs.New(errdefs.InvalidArgument, "it is not SUBSYSTEM=LEVEL", errdefs.Resource("%s", strconv.Quote(part)),
				errdefs.Fix("write for example gvisor=info, or *=debug"))
		}
		level, err := ParseLevel(text)
		if err != nil {
			return nil, err
		}
		out = append(out, Setting{name, level})
	}
	return out, nil
}
