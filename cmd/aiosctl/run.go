package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

// agentFlags are what run and spawn share.
type agentFlags struct {
	process processFlags
	grants  grantFlags

	name, domain, image, hostname, tz, clock string
	from                                     string
	isolated                                 bool
	mounts, labels                           []string
	restart                                  string
	memory                                   string
	pids                                     uint32
	platform                                 string
	strict                                   bool
	remove, keep                             bool
}

func (f *agentFlags) register(a *app, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SetInterspersed(false)
	fs.StringVar(&f.name, "name", "", "`NAME` of the agent; the name works wherever its ID does")
	fs.StringVar(&f.domain, "domain", "", "run in the domain `NAME`, together with the agents there")
	fs.BoolVar(&f.isolated, "isolated", false, "run in a domain of its own, which ends with the agent")
	fs.StringVar(&f.image, "image", "", "root file system: an `IMAGE`'s name (default \"host\": this host's programs, without its secrets)")
	fs.StringVar(&f.from, "from", "", "begin as a copy of `TEMPLATE`; PROGRAM and ARGs are arguments for it: see `aiosctl template`")
	fs.StringVar(&f.hostname, "hostname", "", "host `NAME` inside (default: the agent's name, else its ID)")
	fs.StringVar(&f.tz, "tz", "", "time `ZONE` inside, such as Europe/Berlin (default: the image's)")
	fs.StringVar(&f.clock, "clock", "", "clocks of its own: `KEYS` are offset=36h to the host's or wall=2030-01-01T00:00:00Z, rate=60 times as fast, and monotonic=10m")
	fs.StringArrayVar(&f.mounts, "mount", nil, "grant a host directory at another path: `SRC:DST[:ro|rw]` (default ro)")
	fs.StringVar(&f.memory, "memory", "", "the same as --limit memory=`SIZE`")
	fs.Uint32Var(&f.pids, "pids", 0, "the same as --limit pids=`N`")
	fs.StringArrayVar(&f.labels, "label", nil, "attach `KEY=VALUE`")
	fs.StringVar(&f.platform, "platform", "", "`PLATFORM` of a domain that this starts: auto, systrap, ptrace or kvm")
	fs.BoolVar(&f.strict, "strict", false, "refuse to start a domain that the host cannot box fully")
	fs.StringVar(&f.restart, "restart", "", "start the agent again when it ends: `POLICY` is no, on-failure[:N] or always[:N], at most N times in ten minutes (default no, 10)")
	fs.BoolVar(&f.remove, "rm", false, "forget the agent and its log once it has ended (the default of run)")
	fs.BoolVar(&f.keep, "keep", false, "keep the agent's record and log after its end (the default of spawn)")
	f.process.register(cmd)
	f.grants.register(a, cmd)
	a.completeFlag(cmd, "image", a.imageNames)
	a.completeFlag(cmd, "domain", a.domainNames)
	a.completeFlag(cmd, "from", a.templateNames)
	_ = cmd.RegisterFlagCompletionFunc("platform", cobra.FixedCompletions([]string{"auto", "systrap", "ptrace", "kvm"}, cobra.ShellCompDirectiveNoFileComp))
}

// program demands one, unless the image may name it.
func (f *agentFlags) program(cmd *cobra.Command, args []string) error {
	if f.image != "" || f.from != "" {
		return nil
	}
	return atLeast(1, "the program to run")(cmd, args)
}

// request builds the message; joined tells whether streams will be attached.
func (f *agentFlags) request(a *app, argv []string, joined bool) (*apiv1.SpawnRequest, error) {
	switch {
	case f.remove && f.keep:
		return nil, errdefs.New(errdefs.InvalidArgument, "--rm and --keep exclude each other", errdefs.Fix("give one of them"))
	case f.isolated && f.domain != "":
		return nil, errdefs.New(errdefs.InvalidArgument, "--isolated and --domain exclude each other",
			errdefs.Fix("give one of them: --isolated makes a domain for this agent alone"))
	}
	for flag, name := range map[string]string{"--name": f.name, "--domain": f.domain, "--image": f.image} {
		if err := checkName(flag, name); err != nil {
			return nil, err
		}
	}
	switch f.platform {
	case "", "auto", "systrap", "ptrace", "kvm":
	default:
		return nil, invalid("--platform", f.platform, "no such platform", "use auto, systrap, ptrace or kvm")
	}
	p, err := f.process.message(a, argv)
	if err != nil {
		return nil, err
	}
	labels, err := parseLabels(f.labels)
	if err != nil {
		return nil, err
	}
	r := &apiv1.SpawnRequest{
		Name: f.name, Domain: f.domain, Isolated: f.isolated, Image: f.image, Hostname: f.hostname, TimeZone: f.tz, From: f.from,
		Process: p, Labels: labels, Platform: f.platform, Strict: f.strict,
		Remove: f.remove || joined && !f.keep,
	}
	if r.OwnClock, err = parseOwnClock("--clock", f.clock); err != nil {
		return nil, err
	}
	if r.Restart, err = parseRestart(f.restart); err != nil {
		return nil, err
	}
	if r.Restart != nil && !f.remove {
		r.Remove = false // Its record is what it is started again from.
	}
	if len(f.mounts) > 0 {
		dir, err := os.Getwd()
		if err != nil {
			return nil, errdefs.Wrap(err, errdefs.HostIO, "find the current directory")
		}
		for _, s := range f.mounts {
			m, err := parseMount(s, dir)
			if err != nil {
				return nil, err
			}
			r.Mounts = append(r.Mounts, m)
		}
	}
	if f.memory != "" || f.pids != 0 {
		r.Limits = &apiv1.Limits{Processes: f.pids}
		if f.memory != "" {
			if r.Limits.MemoryBytes, err = parseSize("--memory", f.memory); err != nil {
				return nil, err
			}
		}
	}
	return r, f.grants.fill(a, r)
}

// parseRestart reads POLICY[:N]; nil for none.
func parseRestart(text string) (*apiv1.RestartPolicy, error) {
	if text == "" {
		return nil, nil
	}
	when, count, counted := strings.Cut(text, ":")
	p := &apiv1.RestartPolicy{When: when}
	if counted {
		n, err := strconv.ParseUint(count, 10, 32)
		if err != nil || n == 0 {
			return nil, invalid("--restart", text, "it does not say how often", "write on-failure:5 for at most five times in ten minutes")
		}
		p.Restarts = uint32(n)
	}
	return p, nil
}

// processFlags describe a program: of a new agent, or a further one.
type processFlags struct {
	env         []string
	cwd, user   string
	tty         bool
	interactive bool
}

func (f *processFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SetInterspersed(false)
	fs.StringArrayVarP(&f.env, "env", "e", nil, "set `NAME=value`, or pass your own value of NAME on")
	fs.StringVarP(&f.cwd, "cwd", "w", "", "working `DIR` inside")
	fs.StringVarP(&f.user, "user", "u", "", "`USER` inside: a name, UID or UID:GID")
	fs.BoolVarP(&f.tty, "tty", "t", false, "give the program a terminal")
}

func (f *processFlags) message(a *app, argv []string) (*apiv1.Process, error) {
	env, err := parseEnv(f.env, a.getenv)
	if err != nil {
		return nil, err
	}
	p := &apiv1.Process{Argv: argv, Env: env, Cwd: f.cwd, User: f.user, Tty: f.tty, Stdin: f.interactive}
	if f.tty {
		if t, ok := a.getenv("TERM"); ok {
			p.Env = append([]string{"TERM=" + t}, p.Env...)
		}
		for _, file := range []any{a.stdin, a.stdout, a.stderr} {
			if file, ok := file.(*os.File); ok {
				if rows, cols, ok := client.TerminalSize(file); ok {
					p.Rows, p.Cols = rows, cols
					break
				}
			}
		}
	}
	return p, nil
}

func (a *app) runCmd() *cobra.Command {
	var (
		f      agentFlags
		detach bool
	)
	cmd := &cobra.Command{
		Use:   "run [flags] [--] [PROGRAM [ARG…]]",
		Short: "Run a program as an agent, as if it ran here",
		Long: `Run starts an agent and joins it: the same input, output and exit status as the
program's own, and signals reach it. The agent is forgotten when it ends, unless
--keep is given.

An image may name a program of its own: its entrypoint comes before PROGRAM, and
its command is what runs when PROGRAM is left out.

Input is read ahead, as ssh does: in a loop that reads standard input itself, give
-i=false. With -t, ctrl-p ctrl-q leaves the agent running.

Exit status: the program's; 128+N when signal N ended it; 125 when AIOS failed; 126
when the program cannot be executed; 127 when it does not exist.`,
		Example: `  aiosctl run -- python3 -c 'print(6*7)'
  aiosctl run -t -- bash
  echo hello | aiosctl run -- tr a-z A-Z
  aiosctl run --grant fs:.:rw -w $PWD --limit memory=512M,pids=64,cpu=1.5 -- make test
  aiosctl run --image alpine --isolated -- sh -c 'id; hostname'
  aiosctl run --from py -e LANG=C -- first second`,
		Args: f.program,
		RunE: func(cmd *cobra.Command, args []string) error {
			if detach {
				if !cmd.Flags().Changed("interactive") {
					f.process.interactive = false
				}
				return a.spawn(cmd, &f, args, 1)
			}
			req, err := f.request(a, args, true)
			if err != nil {
				return err
			}
			return a.join(cmd, &apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Spawn{Spawn: req}},
				joinOptions{typed: cmp.Or(f.from, f.image), stdin: f.process.interactive, signals: true, own: true})
		},
	}
	f.register(a, cmd)
	cmd.Flags().BoolVarP(&f.process.interactive, "interactive", "i", true, "pass standard input on")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "do not join the agent: the same as spawn")
	return cmd
}

func (a *app) spawnCmd() *cobra.Command {
	var f agentFlags
	var count uint32
	cmd := &cobra.Command{
		Use:   "spawn [flags] [--] [PROGRAM [ARG…]]",
		Short: "Start an agent and print its ID",
		Long: `Spawn starts an agent that goes on by itself and prints its ID. What it writes is
kept for ` + "`aiosctl logs`" + `, and ` + "`aiosctl attach`" + ` joins it.`,
		Example: `  aiosctl spawn --name web --grant net:loopback -- python3 -m http.server
  aiosctl spawn -t -i --name shell -- bash
  id=$(aiosctl spawn -- sleep 60); aiosctl wait $id`,
		Args: f.program,
		RunE: func(cmd *cobra.Command, args []string) error { return a.spawn(cmd, &f, args, count) },
	}
	f.register(a, cmd)
	cmd.Flags().Uint32VarP(&count, "count", "n", 1, "start `N` agents, at most 64; with --name, NAME-1, NAME-2 and so on")
	cmd.Flags().BoolVarP(&f.process.interactive, "interactive", "i", false, "keep standard input open for clients that attach")
	return cmd
}

// maxSpawned is how many agents one command starts at most.
const maxSpawned = 64

// spawn starts count agents, one after the other, until one cannot be started.
func (a *app) spawn(cmd *cobra.Command, f *agentFlags, argv []string, count uint32) error {
	if count < 1 || count > maxSpawned {
		return usage(cmd, fmt.Sprintf("%d agents are none, or more than %d", count, maxSpawned))
	}
	req, err := f.request(a, argv, false)
	if err != nil {
		return err
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		for i := range count {
			if count > 1 && f.name != "" {
				req.Name = fmt.Sprintf("%s-%d", f.name, i+1)
			}
			resp, err := c.Spawn(ctx, req)
			if err != nil {
				return a.suggest(ctx, c, err, cmp.Or(f.from, f.image))
			}
			a.warn(resp.GetWarnings())
			if _, err := fmt.Fprintln(a.stdout, resp.GetId()); err != nil {
				return err
			}
		}
		return nil
	})
}

// joinOptions are how a command joins a process.
type joinOptions struct {
	typed               string // the name of the agent or image, for suggestions
	stdin, signals, own bool
}

// join carries streams until the process ends and returns its status.
func (a *app) join(cmd *cobra.Command, first *apiv1.AttachRequest, o joinOptions) error {
	s := client.Streams{Stdout: a.stdout, Stderr: a.stderr, ForwardSignals: o.signals, Own: o.own}
	if o.stdin {
		s.Stdin = a.stdin
		if term.IsTerminal(int(a.stdin.Fd())) {
			s.Terminal = a.stdin
		}
	}
	s.OnStart = func(info *apiv1.AttachStarted) {
		if isTerminal(a.stderr) { // Elsewhere the program's own streams stay as they are.
			a.warn(info.GetWarnings())
		}
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		out, err := c.Join(ctx, first, s)
		if err != nil {
			return a.suggest(ctx, c, err, o.typed)
		}
		if r := out.Exit.GetReason(); r != "" {
			fmt.Fprintf(a.stderr, "aiosctl: agent %s was ended: %s\n", out.Started.GetId(), printable(r))
		}
		a.explainLeft(out)
		if s := out.Status(); s != 0 {
			return status(s)
		}
		return nil
	})
}

// explainLeft says, to people, that a process goes on without them.
func (a *app) explainLeft(out client.Outcome) {
	id := out.Started.GetId()
	switch {
	case id == "" || !isTerminal(a.stderr):
	case out.Detached:
		fmt.Fprintf(a.stderr, "\naiosctl: detached; agent %s goes on, `aiosctl attach %s` joins it again\n", id, id)
	case out.Signal == unix.SIGINT || out.Signal == unix.SIGTERM:
		if !out.Started.GetTty() {
			fmt.Fprintf(a.stderr, "aiosctl: agent %s does not react and goes on, `aiosctl kill %s` ends it\n", id, id)
		}
	}
}
