// Command aiosctl is AIOS for people: it runs agents and shows, steers and
// removes them, their images and their domains. It starts the daemon when
// none runs.
//
// Each file holds one group of commands; a command parses its flags into a
// request of api/v1, sends it through package client, and renders the answer
// as a table or, with -o json, as the structures of view.go, which are a
// stable interface. The exit status is the program's own where a command
// joins one, and that of package errdefs for failures of AIOS.
//
// It must not import the kernel's side of AIOS: it has to start in
// milliseconds.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"aios.dev/aios/client"
	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// app is what commands share.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	getenv         func(string) (string, bool)
	clock          ktime.Clock
	zone           *time.Location // of times shown to people
	stateDir       string         // --state-dir
	configFile     string         // of a daemon that is started; "": the usual one
	connectTo      string         // --connect
	tokenFile      string         // --token-file
	tokenless      bool           // no token is shown
	// dial connects to the daemon; noStart does not start one.
	dial func(ctx context.Context, noStart bool) (*client.Client, error)
}

// status is an error that only carries the exit status.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.LookupEnv, clock: ktime.Real, zone: time.Local}
	a.dial = a.connect
	os.Exit(a.main(os.Args[1:]))
}

// connect dials the daemon of the state directory that was asked for.
func (a *app) connect(ctx context.Context, noStart bool) (*client.Client, error) {
	o := client.Options{Address: a.address(), NoStart: noStart}
	var err error
	if o.Address == "" {
		if o.Paths, err = config.Resolve(a.stateDir); err != nil {
			return nil, err
		}
		if o.Paths, err = o.Paths.WithConfig(a.configFile); err != nil {
			return nil, err
		}
	}
	if !a.tokenless {
		if o.Token, err = a.secret(); err != nil {
			return nil, err
		}
	}
	return client.Dial(ctx, o)
}

// address is that of another daemon than the one of the state directory, "" for
// that.
func (a *app) address() string {
	if a.connectTo != "" {
		return a.connectTo
	}
	s, _ := a.getenv("AIOS_CONNECT")
	return s
}

// main runs one command line and returns the exit status.
func (a *app) main(args []string) int {
	root := a.root(named(args))
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	var s status
	switch {
	case err == nil:
		return 0
	case errors.As(err, &s):
		return int(s)
	}
	a.report(err)
	return errdefs.ExitOf(err)
}

// report prints an error and what to do about it.
func (a *app) report(err error) {
	fmt.Fprintf(a.stderr, "aiosctl: %s\n", printableLines(err.Error()))
	if fix := errdefs.FixOf(err); fix != "" {
		fmt.Fprintf(a.stderr, "fix: %s\n", printableLines(fix))
	}
	// What is not the caller's own fault is worth looking up.
	if id := errdefs.ScopeOf(err).Correlation; id != "" && errdefs.InfoOf(errdefs.CodeOf(err)).Blame != errdefs.BlameCaller {
		fmt.Fprintf(a.stderr, "request: %s, by which the daemon's log and the audit trail tell it\n", id)
	}
}

// warn prints remarks that do not change the outcome.
func (a *app) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(a.stderr, "aiosctl: warning: %s\n", printable(w))
	}
}

// with dials, starting a daemon if need be, and calls f.
func (a *app) with(cmd *cobra.Command, f func(context.Context, *client.Client) error) error {
	c, err := a.dial(cmd.Context(), false)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(cmd.Context(), c)
}

// command is one of the commands, in its group.
type command struct {
	group, name string
	make        func() *cobra.Command
}

// commands are all of them, in the order of the help.
func (a *app) commands() []command {
	return []command{
		{"agents", "run", a.runCmd},
		{"agents", "spawn", a.spawnCmd},
		{"agents", "ps", a.psCmd},
		{"agents", "inspect", a.inspectCmd},
		{"agents", "logs", a.logsCmd},
		{"agents", "exec", a.execCmd},
		{"agents", "attach", a.attachCmd},
		{"agents", "wait", a.waitCmd},
		{"agents", "kill", a.killCmd},
		{"agents", "pause", a.pauseCmd},
		{"agents", "resume", a.resumeCmd},
		{"agents", "clone", a.cloneCmd},
		{"agents", "specialize", a.specializeCmd},
		{"agents", "split", a.splitCmd},
		{"agents", "upgrade", a.upgradeCmd},
		{"agents", "merge", a.mergeCmd},
		{"agents", "template", a.templateCmd},
		{"agents", "rm", a.rmCmd},
		{"agents", "stats", a.statsCmd},
		{"agents", "vm", a.vmCmd},
		{"agents", "hibernate", a.hibernateCmd},
		{"agents", "top", a.topCmd},
		{"agents", "sched", a.schedCmd},
		{"agents", "hint", a.hintCmd},
		{"agents", "clock", a.clockCmd},
		{"authority", "cap", a.capCmd},
		{"authority", "profile", a.profileCmd},
		{"authority", "audit", a.auditCmd},
		{"authority", "token", a.tokenCmd},
		{"objects", "image", a.imageCmd},
		{"objects", "domain", a.domainCmd},
		{"objects", "fabric", a.fabricCmd},
		{"objects", "memory", a.memoryCmd},
		{"debugging", "events", a.eventsCmd},
		{"debugging", "sink", a.sinkCmd},
		{"debugging", "alert", a.alertCmd},
		{"debugging", "hook", a.hookCmd},
		{"debugging", "klog", a.klogCmd},
		{"debugging", "irq", a.irqCmd},
		{"debugging", "crash", a.crashCmd},
		{"debugging", "debug", a.debugCmd},
		{"system", "health", a.healthCmd},
		{"system", "time", a.timeCmd},
		{"system", "doctor", a.doctorCmd},
		{"system", "cpus", a.cpusCmd},
		{"system", "errors", a.errorsCmd},
		{"system", "daemon", a.daemonCmd},
		{"system", "version", a.versionCmd},
		{"system", "completion", a.completionCmd},
	}
}

// globalFlags take a value, and can come before the command.
var globalFlags = []string{"--state-dir", "--connect", "--token-file"}

// named returns the first word of a command line that is not a flag: the command, if
// there is nothing but global flags before it.
func named(args []string) string {
	for i := 0; i < len(args); i++ {
		name, _, whole := strings.Cut(args[i], "=")
		switch {
		case !strings.HasPrefix(args[i], "-"):
			return args[i]
		case !slices.Contains(globalFlags, name):
			return ""
		case !whole:
			i++
		}
	}
	return ""
}

// root makes the tree of commands: that of one alone, if only is its name. All of them
// have some hundred flags, and a millisecond is a good part of what a command takes.
func (a *app) root(only string) *cobra.Command {
	root := &cobra.Command{
		Use:   "aiosctl",
		Short: "Run and manage agents on AIOS",
		Long: `aiosctl runs programs as agents: processes in a user-space kernel, each agent with
its own namespaces, files and limits. It starts the daemon when none runs.`,
		Example: `  aiosctl run -- python3 -c 'print("hello")'
  aiosctl run -t -- bash
  aiosctl spawn --name web --grant net:loopback -- python3 -m http.server
  aiosctl ps
  aiosctl doctor`,
		Args:              cobra.ArbitraryArgs,
		RunE:              group,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentFlags().StringVar(&a.stateDir, "state-dir", a.stateDir, "keep everything in `DIR` ($"+config.StateDirEnv+")")
	root.PersistentFlags().StringVar(&a.connectTo, "connect", a.connectTo, "use the daemon at `ADDRESS`, unix:PATH or tcp:ADDRESS:PORT, and start none ($AIOS_CONNECT)")
	root.PersistentFlags().StringVar(&a.tokenFile, "token-file", a.tokenFile, "show the token in `FILE`: commands do what it allows ($AIOS_TOKEN holds a token)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var bad *pflag.InvalidValueError
		if errors.As(err, &bad) { // It would quote the parsing function.
			f, detail, fix := bad.GetFlag(), "not a number", "see `"+cmd.CommandPath()+" --help`"
			switch f.Value.Type() {
			case "duration":
				detail, fix = "not a time", "write a number with a unit, such as 30s, 500ms or 2h"
			case "bool":
				detail = "neither true nor false"
			case "uint32":
				detail = "not a number from 0 up"
			}
			return invalid("--"+f.Name, bad.GetValue(), detail, fix)
		}
		return usage(cmd, err.Error())
	})
	root.AddGroup(
		&cobra.Group{ID: "agents", Title: "Agents:"},
		&cobra.Group{ID: "authority", Title: "Authority:"},
		&cobra.Group{ID: "objects", Title: "Images, domains and memory:"},
		&cobra.Group{ID: "debugging", Title: "Debugging:"},
		&cobra.Group{ID: "system", Title: "System:"},
	)
	all := a.commands()
	if i := slices.IndexFunc(all, func(c command) bool { return c.name == only && c.name != "completion" }); i >= 0 {
		all = all[i : i+1]
	}
	for _, c := range all {
		cmd := c.make()
		cmd.GroupID = c.group
		root.AddCommand(cmd)
	}
	root.SetHelpCommandGroupID("system")
	root.SetHelpCommand(a.helpCmd())
	return root
}

// group is what a command that only has subcommands does: help, or say that
// the one named does not exist.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	detail := fmt.Sprintf("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Fix("did you mean `%s %s`?", cmd.CommandPath(), near[0]))
	}
	return usage(cmd, detail)
}

// usage is the error of a command line that makes no sense.
func usage(cmd *cobra.Command, detail string) error {
	return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Fix("see `%s --help`", cmd.CommandPath()))
}

// atLeast demands n arguments and says which are missing.
func atLeast(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usage(cmd, what+" is missing")
		}
		return nil
	}
}

// exactly demands n arguments.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < n:
			return usage(cmd, what+" is missing")
		case len(args) > n:
			return usage(cmd, fmt.Sprintf("unexpected argument %q", args[n]))
		}
		return nil
	}
}
