package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/profile"
	"aios.dev/aios/sentry/trap"
)

// grantFlags say what an agent is given.
type grantFlags struct {
	grants  []string
	profile string
	limits  []string
	cpu     []string
	seccomp string
	faults  []string
	violate []string
	oom     string
	dog     time.Duration
	onDog   string
	quiet   bool
}

func (f *grantFlags) register(a *app, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringArrayVar(&f.grants, "grant", nil, "give `CLASS:OBJECT[:RIGHTS][,KEY=VALUE]…`, such as fs:/data:ro or net:loopback")
	fs.StringVar(&f.profile, "profile", "", "give what the `PROFILE` bundles, and say so: see `aiosctl profile ls` (default none)")
	fs.StringSliceVar(&f.limits, "limit", nil, "bound `RESOURCE=AMOUNT`: memory=256M, swap=512M, pids=64, cpu=0.5, disk=1G, bps=10M, ops=100")
	fs.StringSliceVar(&f.cpu, "cpu", nil, "share the CPUs by `KEY=VALUE`: "+cpuKeys)
	fs.StringVar(&f.seccomp, "seccomp", "", "apply the seccomp profile in `FILE`, in the form of OCI, to the agent")
	fs.StringArrayVar(&f.faults, "on-fault", nil, "do `[EXCEPTION=]ACTION[,COUNT/TIME:ACTION]` when the agent faults: "+actionNames(trap.OnFault)+" (default deliver)")
	fs.StringArrayVar(&f.violate, "on-violation", nil, "do `[KIND=]ACTION[,COUNT/TIME:ACTION]` when it tries what it may not: "+actionNames(trap.OnViolation)+" (default deny)")
	fs.StringVar(&f.oom, "on-oom", "", "do `ACTION[,COUNT/TIME:ACTION]` when it runs out of memory: "+actionNames(trap.OnOOM)+" (default kill-agent)")
	fs.DurationVar(&f.dog, "watchdog", 0, "expect the agent to write to /aios/self/watchdog every `TIME`, such as 30s (default only if it asks for that itself)")
	fs.StringVar(&f.onDog, "on-watchdog", "", "do `ACTION[,COUNT/TIME:ACTION]` when it does not: "+actionNames(trap.OnWatchdog)+" (default kill-agent)")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "do not print what a profile gives")
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(profile.Names(a.profileOptions()), cobra.ShellCompDirectiveNoFileComp))
}

// fill adds what the flags say to a request.
func (f *grantFlags) fill(a *app, r *apiv1.SpawnRequest) error {
	if f.profile != "" {
		p, err := profile.Load(f.profile, a.profileOptions())
		if err != nil {
			return err
		}
		if !f.quiet {
			a.printProfile(p)
		}
		r.Profile, r.Grants = p.Name, p.Grants
		r.OnFault, r.OnViolation = p.OnFault, p.OnViolation
	}
	r.OnFault, r.OnViolation = append(r.OnFault, f.faults...), append(r.OnViolation, f.violate...)
	r.OnOom = f.oom
	if f.dog != 0 || f.onDog != "" {
		r.Watchdog = &apiv1.WatchdogPolicy{TimeoutNanos: int64(f.dog), OnExpiry: f.onDog}
	}
	grants, err := parseGrants(f.grants)
	if err != nil {
		return err
	}
	r.Grants = append(r.Grants, grants...)
	if len(f.cpu) > 0 {
		g, err := cpuGrant("--cpu", f.cpu)
		if err != nil {
			return err
		}
		r.Grants = append(r.Grants, g)
	}
	for _, l := range f.limits {
		if r.Limits == nil {
			r.Limits = &apiv1.Limits{}
		}
		if err := parseLimit(r.Limits, l); err != nil {
			return err
		}
	}
	if f.seccomp != "" {
		if r.Seccomp, err = os.ReadFile(f.seccomp); err != nil {
			return errdefs.Wrap(err, errdefs.InvalidArgument, "--seccomp", errdefs.Fix("name a file with a seccomp profile in JSON"))
		}
	}
	return nil
}

// actionNames lists what can be done about faults, violations or watchdogs.
func actionNames(u trap.Use) string { return strings.Join(trap.ActionNames(u), ", ") }

// printProfile says, before anything starts, what a profile gives.
func (a *app) printProfile(p profile.Profile) {
	gives := "nothing"
	if len(p.Grants) > 0 {
		gives = strings.Join(p.Grants, " ")
	}
	fmt.Fprintf(a.stderr, "aiosctl: profile %s gives %s\n", p.Name, printable(gives))
	for _, rule := range p.OnFault {
		fmt.Fprintf(a.stderr, "aiosctl: profile %s does on a fault: %s\n", p.Name, printable(rule))
	}
	for _, rule := range p.OnViolation {
		fmt.Fprintf(a.stderr, "aiosctl: profile %s does on a violation: %s\n", p.Name, printable(rule))
	}
}

// parseLimit reads RESOURCE=AMOUNT.
func parseLimit(l *apiv1.Limits, s string) error {
	name, value, _ := strings.Cut(s, "=")
	switch name {
	case "memory", "swap", "disk", "bps":
		n, err := parseSize("--limit", value)
		if err != nil {
			return invalid("--limit", s, "not a size", "write a number with a unit, such as "+name+"=256M")
		}
		switch name {
		case "memory":
			l.MemoryBytes = n
		case "swap":
			l.SwapBytes = n
		case "disk":
			l.DiskBytes = n
		case "bps":
			l.IoBytesPerSec = n
		}
	case "pids", "ops":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n == 0 {
			return invalid("--limit", s, "not a number from 1 up", "write "+name+"=64")
		}
		if name == "pids" {
			l.Processes = uint32(n)
		} else {
			l.IoOpsPerSec = n
		}
	case "cpu":
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || !(n >= 0.001 && n <= math.MaxUint16) {
			return invalid("--limit", s, "not a number of CPUs from 0.001 up", "write cpu=0.5 for half of one")
		}
		l.MilliCpu = uint64(math.Round(n * 1000))
	default:
		return invalid("--limit", s, "no such resource", "use memory, swap, pids, cpu, disk, bps or ops, as in --limit memory=256M,pids=64")
	}
	return nil
}

// absoluteGrant reads a grant, in which a directory may be relative, and
// returns it in canonical form.
func absoluteGrant(text string) (string, error) {
	if rest, ok := strings.CutPrefix(text, "fs:"); ok && !strings.HasPrefix(rest, "/") {
		dir, err := os.Getwd()
		if err != nil {
			return "", errdefs.Wrap(err, errdefs.HostIO, "find the current directory")
		}
		name, more := rest, ""
		if i := strings.IndexAny(rest, ":,"); i >= 0 {
			name, more = rest[:i], rest[i:]
		}
		text = "fs:" + filepath.Join(dir, name) + more
	}
	spec, err := capability.ParseSpec(text)
	if err != nil {
		return "", err
	}
	return spec.String(), nil
}

// profileOptions say where profiles are: the user's, then the host's.
func (a *app) profileOptions() profile.Options {
	o := profile.Options{Vars: make(map[string]string)}
	if home, ok := a.getenv("HOME"); ok && filepath.IsAbs(home) {
		o.Vars["HOME"] = home
		o.Dirs = append(o.Dirs, filepath.Join(home, ".config", "aios", "profiles"))
	}
	if dir, ok := a.getenv("XDG_CONFIG_HOME"); ok && filepath.IsAbs(dir) {
		o.Dirs = []string{filepath.Join(dir, "aios", "profiles")}
	}
	o.Dirs = append(o.Dirs, "/etc/aios/profiles")
	if dir, err := os.Getwd(); err == nil {
		o.Vars["PWD"] = dir
	}
	return o
}

func (a *app) profileCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Show the bundles of grants that --profile gives",
		Long: `A profile is a file of grants, one on a line. Your own go into
~/.config/aios/profiles/NAME.profile, those for all users of the host into
/etc/aios/profiles; they come before the ones that AIOS brings.`,
		Example: "  aiosctl profile ls\n  aiosctl profile show coder\n  aiosctl run --profile coder -- bash",
		Args:    cobra.ArbitraryArgs,
		RunE:    group,
	}
	cmd.AddCommand(a.profileLsCmd(), a.profileShowCmd())
	return cmd
}

func (a *app) profileLsCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Short:   "List profiles",
		Example: "  aiosctl profile ls",
		Args:    exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			o := a.profileOptions()
			var rows [][]string
			all := []profileView{}
			for _, n := range profile.Names(o) {
				p, err := profile.Load(n, o)
				about := p.About
				if err != nil {
					about = "broken: " + err.Error()
				}
				all = append(all, profileView{Name: n, About: about, File: p.File, Grants: orEmpty(p.Grants)})
				rows = append(rows, []string{n, orElse(p.File, "built in"), about})
			}
			if json {
				return a.printJSON(all)
			}
			return a.table([]string{"NAME", "FILE", "ABOUT"}, rows)
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) profileShowCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "show [flags] NAME",
		Short:   "Print what a profile gives, as a profile",
		Example: "  aiosctl profile show coder > ~/.config/aios/profiles/mine.profile",
		Args:    exactly(1, "the profile"),
		RunE: func(_ *cobra.Command, args []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			p, err := profile.Load(args[0], a.profileOptions())
			if err != nil {
				return err
			}
			if json {
				return a.printJSON(profileView{Name: p.Name, About: p.About, File: p.File, Grants: orEmpty(p.Grants)})
			}
			fmt.Fprintf(a.stdout, "# %s\n", printable(p.About))
			for _, g := range p.Grants {
				fmt.Fprintln(a.stdout, printable(g))
			}
			return nil
		},
		ValidArgsFunction: cobra.FixedCompletions(profile.Names(a.profileOptions()), cobra.ShellCompDirectiveNoFileComp),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}
