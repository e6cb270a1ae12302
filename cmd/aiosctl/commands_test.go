package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

func TestFlagsBecomeRequests(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	spawn := func(r *apiv1.SpawnRequest) proto.Message { return r }
	run := func(r *apiv1.SpawnRequest) proto.Message {
		return &apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Spawn{Spawn: r}}
	}
	process := func(argv ...string) *apiv1.Process { return &apiv1.Process{Argv: argv} }
	withInput := func(argv ...string) *apiv1.Process { return &apiv1.Process{Argv: argv, Stdin: true} }
	for _, tc := range []struct {
		line string
		want proto.Message
	}{
		{"run true", run(&apiv1.SpawnRequest{Process: withInput("true"), Remove: true})},
		{"run -- ls -l --color", run(&apiv1.SpawnRequest{Process: withInput("ls", "-l", "--color"), Remove: true})},
		{"run ls -t -- x", run(&apiv1.SpawnRequest{Process: withInput("ls", "-t", "--", "x"), Remove: true})},
		{"run --keep -i=false true", run(&apiv1.SpawnRequest{Process: process("true")})},
		{"run -d --name n true", spawn(&apiv1.SpawnRequest{Name: "n", Process: process("true")})},
		{"run -d -i --rm cat", spawn(&apiv1.SpawnRequest{Process: withInput("cat"), Remove: true})},
		{"spawn sleep 1", spawn(&apiv1.SpawnRequest{Process: process("sleep", "1")})},
		{"spawn -t sh", spawn(&apiv1.SpawnRequest{Process: &apiv1.Process{Argv: []string{"sh"}, Tty: true, Env: []string{"TERM=vt100"}}})},
		{"spawn -e A=1 -e TOKEN -e UNSET -e B= -w /w -u 1:2 x", spawn(&apiv1.SpawnRequest{
			Process: &apiv1.Process{Argv: []string{"x"}, Env: []string{"A=1", "TOKEN=secret", "B="}, Cwd: "/w", User: "1:2"}})},
		{"spawn --domain d --image i --hostname h --platform ptrace --strict --label a=b --label c --memory 256M --pids 9 x", spawn(&apiv1.SpawnRequest{
			Domain: "d", Image: "i", Hostname: "h", Platform: "ptrace", Strict: true, Labels: map[string]string{"a": "b", "c": ""},
			Limits: &apiv1.Limits{MemoryBytes: 256 << 20, Processes: 9}, Process: process("x")})},
		{"spawn --isolated --mount /a:/b --mount rel/..:/c:rw --mount .:/d/:ro x", spawn(&apiv1.SpawnRequest{
			Isolated: true, Process: process("x"), Mounts: []*apiv1.Mount{
				{Source: "/a", Target: "/b"}, {Source: here, Target: "/c", Writable: true}, {Source: here, Target: "/d"}}})},
		{"exec web -- ps -t", &apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Exec{Exec: &apiv1.ExecRequest{Agent: "web", Process: withInput("ps", "-t")}}}},
		{"exec -d -w /x web ps", &apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Exec{Exec: &apiv1.ExecRequest{
			Agent: "web", Detach: true, Process: &apiv1.Process{Argv: []string{"ps"}, Cwd: "/x"}}}}},
		{"attach --no-stdin web", &apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Target{Target: &apiv1.AttachTarget{Agent: "web"}}}},
		{"attach web", &apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Target{Target: &apiv1.AttachTarget{Agent: "web", Stdin: true}}}},
		{"kill web", &apiv1.SignalRequest{Agent: "web", Signal: 9}},
		{"kill -s usr1 --all web", &apiv1.SignalRequest{Agent: "web", Signal: 10, All: true}},
		{"kill --force web", &apiv1.SignalRequest{Agent: "web", Signal: 9, Force: true}},
		{"rm -f web", &apiv1.RemoveRequest{Agent: "web", Force: true}},
		{"ps -a --domain lab", &apiv1.ListRequest{All: true, Domain: "lab"}},
		{"ls", &apiv1.ListRequest{}},
		{"logs -f --tail 5 --stderr web", &apiv1.LogsRequest{Agent: "web", Follow: true, TailLines: 5, Stderr: true}},
		{"sched set web weight=300,quota=0.5 period=50ms,burst=20ms cpus=0-1+3 deadline=20ms/100ms,priority=25,class=idle", &apiv1.SchedSetRequest{
			Agent: "web", Weight: new(uint64(300)), QuotaMilli: new(uint64(500)), PeriodNano: new(int64(50e6)), BurstNano: new(int64(20e6)), Cpus: new("0-1,3"),
			Reserved: &apiv1.SchedReservation{RuntimeNano: 20e6, PeriodNano: 100e6}, Priority: new(uint64(25)), Idle: new(true)}},
		{"sched set web quota=none burst=none,deadline=none,cpus=all class=fair", &apiv1.SchedSetRequest{
			Agent: "web", QuotaMilli: new(uint64(0)), BurstNano: new(int64(0)), Cpus: new(""), Reserved: &apiv1.SchedReservation{}, Idle: new(false)}},
		{"hint web", &apiv1.HintRequest{Agent: "web"}},
		{"hint web interactive", &apiv1.HintRequest{Agent: "web", Hint: "interactive"}},
		{"run --cpu weight=300,deadline=20ms/100ms,cpus=0+1 x", run(&apiv1.SpawnRequest{Remove: true, Process: withInput("x"), Grants: []string{
			"cpu:0-1,weight=300,reserve=0.2,every=100ms"}})},
		{"image import --replace alpine some/dir", &apiv1.ImageImportRequest{Name: "alpine", Source: filepath.Join(here, "some/dir"), Replace: true}},
	} {
		b := newBench(t)
		if got := b.run(strings.Fields(tc.line)...); got != 0 {
			t.Errorf("%s: status %d; %s", tc.line, got, b.errOut.String())
			continue
		}
		if got := b.last(t); !proto.Equal(got, tc.want) {
			t.Errorf("%s asked for\n  %v, want\n  %v", tc.line, got, tc.want)
		}
	}
}

func TestBadCommandLines(t *testing.T) {
	for line, want := range map[string]string{
		"":                                        "",
		"run":                                     "the program to run is missing",
		"run --rm --keep x":                       "exclude each other",
		"run --isolated --domain d x":             "exclude each other",
		"run --name -x y":                         "not a valid name",
		"run --name a123456789012 y":              "not a valid name",
		"run --image ../etc x":                    "not a valid name",
		"run --platform xen x":                    "no such platform",
		"run --mount /a x":                        "a source and a target",
		"run --mount /a:b x":                      "not an absolute path",
		"run --mount /a:/b:rx x":                  `ro or rw, not "rx"`,
		"run --mount /a:/../ x":                   "the agent's root",
		"run --mount :/b x":                       "a source and a target",
		"run --memory lots x":                     "not a size",
		"run --memory -5 x":                       "not a size",
		"run --pids -1 x":                         `--pids "-1": not a number from 0 up`,
		"run --isolated=maybe x":                  "neither true nor false",
		"logs --tail x web":                       "not a number",
		"run -e =x y":                             "the name is empty",
		"run --label =x y":                        "the key is empty",
		"run --nonsense x":                        "unknown flag: --nonsense",
		"exec web":                                "the program to run is missing",
		"exec":                                    "the agent is missing",
		"exec web --":                             "the program to run is missing",
		"attach a b":                              `unexpected argument "b"`,
		"kill":                                    "the agent is missing",
		"kill -s NONE web":                        "no such signal",
		"kill -s 65 web":                          "no such signal",
		"ps -o yaml":                              "no such form",
		"logs --tail -1 web":                      "--tail is negative",
		"image import x":                          "the image's name or its source is missing",
		"image import a/b x":                      "not a valid name",
		"image nope":                              `unknown command "nope"`,
		"help nope":                               `unknown command "nope"`,
		"help image nope":                         `unknown command "nope"`,
		"pss":                                     `unknown command "pss"`,
		"completion tcsh":                         "no completion for",
		"domain ls x":                             `unexpected argument "x"`,
		"--state-dir":                             "flag needs an argument",
		"wait -o wide web":                        "no such form",
		"inspect nobody --output json --bogus":    "unknown flag",
		"sched set":                               "the agent is missing",
		"sched set web":                           "what to change is missing",
		"sched set web weight=0":                  "not a number from 1 to 10000",
		"sched set web speed=3":                   "no such key",
		"sched set web weight=1,weight=2":         "said twice",
		"sched set web weight=1 weight=2":         "said twice",
		"sched set web quota=all":                 "not a number of CPUs",
		"sched set web period=2s":                 "not a time from 1ms to 1s",
		"sched set web period=none":               "not a time",
		"sched set web deadline=2s/1s":            "not a runtime and a period",
		"sched set web cpus=x":                    "not CPUs",
		"sched set web class=fast":                "not a class",
		"sched set web weight=1,":                 "no such key",
		"run --cpu quota=none x":                  "not a number of CPUs",
		"run --cpu cpus=all x":                    "not CPUs",
		"sched trace --for 0s -o x":               "not a time up to 10m",
		"sched trace --for 11m -o x":              "not a time up to 10m",
		"sched trace --limit 0 -o x":              "not a number of entries",
		"sched trace -o commands_test.go":         "the file exists",
		"sched trace a b":                         `unexpected argument "b"`,
		"hibernate":                               "the agent is missing",
		"split web":                               "the processes are missing",
		"upgrade web":                             "the image is missing",
		"vm":                                      "the agent is missing",
		"vm set web":                              "what to change",
		"vm set web on-oom=deny":                  "no action on memory that runs out has that name",
		"vm set web limit=5":                      "nothing that can be set",
		"spawn --on-oom":                          "flag needs an argument",
		"clock":                                   "the agent is missing",
		"clock set":                               "the agent is missing",
		"clock set web":                           "say what to set",
		"clock set web offset=x":                  "not a length of time",
		"clock set web offset=1d-3h":              "not a length of time",
		"clock set web offset=300000d":            "not a length of time",
		"clock set web wall=tomorrow":             "not a time from 1970 to 2241",
		"clock set web wall=1969-12-31T00:00:00Z": "not a time from 1970 to 2241",
		"clock set web monotonic=1h":              "not what can be set of an agent that runs",
		"clock set web offset=1h,monotonic=1h":    "not what can be set of an agent that runs",
		"run --clock speed=2 x":                   "nothing that can be set",
		"run --clock offset=1h,offset=2h x":       "said twice",
		"run --clock offset=1h,wall=2030-01-01T00:00:00Z x": "the clock is set twice",
		"fabric usage --by size":                            "nothing that regions are tagged with",
		"clone -n 0 web":                                    "that makes no copy",
		"clone -n -3 web":                                   "not a number from 0 up",
		"merge --ours --theirs web":                         "exclude each other",
		"merge --ours --abort web":                          "exclude each other",
		"domain checkpoint default --every 5":               `--every "5": not a time`,
		"cap delegate web#1 hog --lease 1 day":              `--lease "1": not a time`,
		"hint":                                              "the agent is missing",
		"hint web fast":                                     "there is no such hint",
		"hint web batch x":                                  `unexpected argument "x"`,
	} {
		b := newBench(t)
		got := b.run(strings.Fields(line)...)
		text := b.errOut.String()
		if line == "" {
			if got != 0 || !strings.Contains(b.out.String(), "Usage:") {
				t.Errorf("no arguments: status %d, %q", got, b.out.String())
			}
			continue
		}
		if got != errdefs.ExitFailure || !strings.Contains(text, want) || !strings.HasPrefix(text, "aiosctl: ") || !strings.Contains(text, "\nfix: ") {
			t.Errorf("%s: status %d, %q, want %q and a fix", line, got, text, want)
		}
		if len(b.requests()) != 0 {
			t.Errorf("%s: the daemon was asked %v", line, b.requests())
		}
	}
}

func TestRunEndsAsTheProgramDid(t *testing.T) {
	for _, tc := range []struct {
		exit   *apiv1.Exit
		refuse error
		want   int
		says   string
	}{
		{&apiv1.Exit{}, nil, 0, "err\n"},
		{&apiv1.Exit{Code: 42}, nil, 42, "err\n"},
		{&apiv1.Exit{Signal: 11}, nil, 139, "err\n"},
		{&apiv1.Exit{Signal: 9, Reason: "memory limit reached"}, nil, 137, "err\naiosctl: agent a00000000000f was ended: memory limit reached\n"},
		{nil, errdefs.New(errdefs.ProgramNotFound, "no program x", errdefs.Op("spawn agent"), errdefs.Fix("look at PATH")), 127, "aiosctl: spawn agent: no program x\nfix: look at PATH\n"},
		{nil, errdefs.New(errdefs.ProgramNotRunable, "no execute bit"), 126, "aiosctl: no execute bit\n"},
		{nil, errdefs.New(errdefs.DiskFull, "disk \x1b]0;full"), 125, "aiosctl: disk \\x1b]0;full\n"},
	} {
		for _, line := range []string{"run x", "exec web x", "attach web"} {
			b := newBench(t)
			b.exit, b.refuse = tc.exit, tc.refuse
			got := b.run(strings.Fields(line)...)
			// What is the host's fault names the request, which is another each time.
			says, request, _ := strings.Cut(b.errOut.String(), "request: ")
			if hosts := errdefs.CodeOf(tc.refuse) == errdefs.DiskFull; hosts != (request != "") {
				t.Errorf("%s: request %q", line, request)
			}
			if got != tc.want || says != tc.says {
				t.Errorf("%s, %v: status %d, want %d; standard error %q", line, tc.exit, got, tc.want, b.errOut.String())
			}
			if tc.exit != nil && b.out.String() != "out\n" {
				t.Errorf("%s: standard output %q", line, b.out.String())
			}
		}
	}
}

func TestUnknownNamesAreMetWithNearOnes(t *testing.T) {
	for line, want := range map[string]string{
		"kill wbe":                `did you mean "web"?`,
		"inspect hgo":             `did you mean "hog"?`,
		"logs a00000000000":       `did you mean "a00000000000b"?`,
		"attach zzzzzzzzz":        "`aiosctl ps -a` lists what there is",
		"spawn --image alpin x":   `did you mean "alpine"?`,
		"kill web nobody-at-all":  "`aiosctl ps -a` lists what there is",
		"rm -f don web go":        `did you mean "gone"?`,
		"wait nonesuch-anywhere":  "lists what there is",
		"exec webb -- ps":         `did you mean "web"?`,
		"rm web":                  "`aiosctl rm -f web` ends it first",
		"image import alpine /x":  "--replace",
		"inspect -o json missing": "lists what there is",
	} {
		b := newBench(t)
		if got := b.run(strings.Fields(line)...); got != errdefs.ExitFailure || !strings.Contains(b.errOut.String(), want) {
			t.Errorf("%s: status %d, %q, want %q", line, got, b.errOut.String(), want)
		}
	}
}

func TestSeveralAgentsAreAllTried(t *testing.T) {
	b := newBench(t)
	if got := b.run("rm", "nobody", "done", "ghost", "hog"); got != errdefs.ExitFailure {
		t.Errorf("status %d", got)
	}
	if n := len(b.requests()) - 2; n < 4 { // Two lists for the suggestions.
		t.Errorf("%d removals were tried", n)
	}
	if text := b.errOut.String(); strings.Count(text, "aiosctl: ") != 2 {
		t.Errorf("two failures are reported as %q", text)
	}
}

func TestWait(t *testing.T) {
	b := newBench(t)
	if got := b.run("wait", "hog", "done"); got != 1 || b.out.String() != "hog 137\ndone 1\n" {
		t.Errorf("status %d, %q", got, b.out.String())
	}
	if got := b.run("wait", "-o", "json", "done", "hog"); got != 137 || !strings.Contains(b.out.String(), `"signal": "SIGKILL"`) {
		t.Errorf("status %d, %s", got, b.out.String())
	}
	if got := b.run("wait", "done", "nobody"); got != errdefs.ExitFailure || b.out.String() != "done 1\n" {
		t.Errorf("status %d, %q", got, b.out.String())
	}
}

func TestCompletionAsksOnlyARunningDaemon(t *testing.T) {
	b := newBench(t)
	for line, want := range map[string]string{
		"kill ":           "web\na00000000000b\n",
		"kill web ":       "a00000000000b\n",
		"rm ho":           "hog\n",
		"exec ":           "web\n",
		"run --image al":  "alpine\n",
		"spawn --domain ": "default\n",
		"image rm ":       "host\nalpine\n",
		"domain stop ":    "default\n",
		"run --platform ": "auto\nsystrap\nptrace\nkvm\n",
		"ps -o ":          "json\nwide\n",
		"completion f":    "fish\n",
	} {
		args := append([]string{"__complete"}, strings.Split(line, " ")...)
		if got := b.run(args...); got != 0 || !strings.HasPrefix(b.out.String(), want) {
			t.Errorf("%q: status %d, %q, want %q", line, got, b.out.String(), want)
		}
	}
	if b.started != 0 {
		t.Errorf("completion was ready to start a daemon %d times", b.started)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := b.run("completion", shell); got != 0 || !strings.Contains(b.out.String(), "__complete") {
			t.Errorf("%s: status %d, %d bytes", shell, got, b.out.Len())
		}
	}
}

// walk visits every command.
func walk(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		walk(sub, f)
	}
}

// A command line makes the command that it names, and none but that.
func TestCommandsAreNamed(t *testing.T) {
	a := newBench(t).app
	all := a.root("").Commands()
	for _, c := range all {
		one := a.root(c.Name()).Commands()
		want := 1
		if c.Name() == "completion" {
			want = len(all) // It tells of the others.
		}
		if len(one) != want || !slices.ContainsFunc(one, func(o *cobra.Command) bool { return o.Name() == c.Name() && o.GroupID == c.GroupID }) {
			t.Errorf("%s: %d commands", c.Name(), len(one))
		}
	}
	a.root("").PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.NoOptDefVal == "" != slices.Contains(globalFlags, "--"+f.Name) {
			t.Errorf("--%s is not known as what it is", f.Name)
		}
	})
	for _, c := range []struct{ line, want string }{
		{"", ""}, {"ps -a", "ps"}, {"--state-dir /x domain ls", "domain"}, {"--state-dir=/x domain ls", "domain"},
		{"--help", ""}, {"-h run", ""}, {"--token-file", ""}, {"--state-dir run", ""}, {"-- run", ""}, {"ls", "ls"},
		{"__complete run", "__complete"},
	} {
		if got := named(strings.Fields(c.line)); got != c.want {
			t.Errorf("%q names %q, want %q", c.line, got, c.want)
		}
	}
	for _, line := range []string{"ls", "nothing", "__complete"} {
		if n := len(a.root(line).Commands()); n < len(all) {
			t.Errorf("%s: %d commands of %d", line, n, len(all))
		}
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	b := newBench(t)
	root := b.app.root("")
	walk(root, func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" || c.RunE == nil {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		if strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the summary ends with a period", c.CommandPath())
		}
		own := false
		for _, line := range strings.Split(c.Example, "\n") {
			for _, rest := range strings.Split(line, "aiosctl ")[1:] {
				words := strings.Fields(rest)
				target, args, err := b.app.root("").Find(words)
				if err != nil || target == nil || !target.HasParent() {
					t.Errorf("%s: example %q names no command: %v", c.CommandPath(), line, err)
					continue
				}
				for _, a := range args {
					name, _, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
					if a == "--" || !strings.HasPrefix(a, "-") {
						break
					}
					if strings.HasPrefix(a, "--") && target.Flags().Lookup(name) == nil && target.InheritedFlags().Lookup(name) == nil {
						t.Errorf("%s: example %q uses unknown flag %s", c.CommandPath(), line, a)
					}
				}
				own = own || strings.HasPrefix(target.CommandPath(), c.CommandPath())
			}
		}
		if !own {
			t.Errorf("%s: no example shows it", c.CommandPath())
		}
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if name, _ := pflag.UnquoteUsage(f); name != "" && name[0] >= 'a' {
				t.Errorf("%s --%s: its value is called %q: write a name in `CAPITALS` into what it does", c.CommandPath(), f.Name, name)
			}
		})
	})
	for _, help := range [][]string{{"run", "--help"}, {"help", "image", "import"}} {
		if got := b.run(help...); got != 0 || !strings.Contains(b.out.String(), "Examples:") {
			t.Errorf("%v: status %d, %s", help, got, b.out.String())
		}
	}
	if b.started != 0 {
		t.Error("help was ready to start a daemon")
	}
}

func TestDaemonAndVersion(t *testing.T) {
	b := newBench(t)
	var v versionView
	if got := b.run("version", "-o", "json"); got != 0 {
		t.Fatalf("status %d, %s", got, b.errOut.String())
	}
	if err := json.Unmarshal(b.out.Bytes(), &v); err != nil || v.Daemon == nil || v.Daemon.Version != "9.9.9" || v.Daemon.API != "1.4" || v.Client.Go == "" {
		t.Errorf("%+v, %v", v, err)
	}
	if got := b.run("daemon", "status"); got != 0 || !strings.Contains(b.out.String(), "running, pid 77, version 9.9.9") {
		t.Errorf("status %d, %s", got, b.out.String())
	}
	if b.started != 0 {
		t.Error("a question about the daemon was ready to start one")
	}
	b.app.dial = nil // The client's own version asks nobody.
	if got := b.run("version", "--client"); got != 0 || strings.Contains(b.out.String(), "aiosd") {
		t.Errorf("status %d, %s", got, b.out.String())
	}
}

func TestWithoutADaemon(t *testing.T) {
	b := newBench(t)
	b.app.dial = b.app.connect // The recorder's socket is not where a daemon's is.
	for line, want := range map[string]int{"daemon status": 1, "daemon stop": 0, "version": 0} {
		if got := b.run(strings.Fields(line)...); got != want {
			t.Errorf("%s: status %d, want %d; %s", line, got, want, b.errOut.String())
		}
	}
}
