package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

// templateView is what -o json prints of a template.
type templateView struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Domain     string            `json:"domain"`
	State      string            `json:"state"`
	Image      string            `json:"image"`
	Argv       []string          `json:"argv"`
	Created    *time.Time        `json:"created,omitempty"`
	Processes  uint32            `json:"processes"`
	Memory     uint64            `json:"memory_bytes"`
	Agents     uint32            `json:"agents"`
	ClonedFrom string            `json:"cloned_from,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Ahead      uint32            `json:"ahead"`
	Wanted     uint32            `json:"ahead_wanted"`
	Warm       int64             `json:"warm_ns,omitempty"`
}

func viewTemplate(t *apiv1.Template) templateView {
	return templateView{
		ID: t.GetId(), Name: t.GetName(), Domain: t.GetDomain(), State: t.GetState(), Image: t.GetImage(), Argv: t.GetArgv(),
		Created: viewTime(t.GetCreatedUnixNano()), Processes: t.GetProcesses(), Memory: t.GetMemoryBytes(), Agents: t.GetAgents(),
		ClonedFrom: t.GetClonedFrom(), Labels: t.GetLabels(), Ahead: t.GetAhead(), Wanted: t.GetAheadWanted(),
	}
}

func (a *app) templateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "template",
		Short: "Warm programs that agents begin from: make, list, remove",
		Long: `Template keeps agents that stand still at the moment at which their program was warm: an interpreter
with its imports done. ` + "`aiosctl run --from NAME`" + ` and ` + "`spawn --from NAME`" + ` begin an agent as a copy of one, in a
few milliseconds. docs/templates.md says how a program tells that it is warm, and how a copy hears of its job.`,
		Example: `  aiosctl template create py -- python3 -c 'import json, asyncio, sys; exec(sys.stdin.read())'
  echo 'print(json.dumps(6*7))' | aiosctl run --from py
  aiosctl template ls
  aiosctl template rm py`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(a.templateCreateCmd(), a.templateLsCmd(), a.templateShowCmd(), a.templateRmCmd())
	return cmd
}

// notOfTemplates are the flags of spawn that say nothing about a template.
var notOfTemplates = []string{"name", "from", "rm", "keep", "restart", "tty"}

func (a *app) templateCreateCmd() *cobra.Command {
	var (
		f             agentFlags
		agent, output string
		policy        apiv1.TemplatePolicy
		timeout       time.Duration
		ahead         uint32
	)
	cmd := &cobra.Command{
		Use:   "create [flags] NAME [--] [PROGRAM [ARG…]]",
		Short: "Warm a program and keep it, for agents to begin from",
		Long: `Create starts PROGRAM as an agent and stops it for good as soon as it is warm: when it writes "ready" to
/aios/self/template, when it reads its standard input or waits for it, or, with --ready, when it has written
that text. If it ends before, or takes longer than --timeout, there is no template, and what it wrote is shown.

With --agent the template is a copy of an agent that runs, as it is now.

The memory of a few copies is made ahead, in idle moments, so that an agent that begins from the template does
so sooner. Each takes a MiB or two of the template's memory; --ahead says how many.

The flags are those of spawn. What they grant is for warming up: an agent that begins from the template gets
what its own command says.`,
		Example: `  aiosctl template create py -- python3 -c 'import json, asyncio, sys; exec(sys.stdin.read())'
  aiosctl template create --ready 'listening' --timeout 2m model -- ./server
  aiosctl template create --agent worker worker-now`,
		Args: atLeast(1, "the name of the template"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			for _, name := range notOfTemplates {
				if cmd.Flags().Changed(name) {
					return usage(cmd, "--"+name+" says nothing about a template")
				}
			}
			if err := checkName("template", args[0]); err != nil {
				return err
			}
			req := &apiv1.TemplateCreateRequest{Name: args[0], Agent: agent}
			if cmd.Flags().Changed("ahead") {
				req.Ahead, policy.Ahead = &ahead, &ahead
			}
			if agent == "" {
				if len(args) == 1 && f.image == "" {
					return usage(cmd, "the program to warm is missing")
				}
				if req.Spec, err = f.request(a, args[1:], false); err != nil {
					return err
				}
				policy.TimeoutNanos = int64(timeout)
				req.Spec.Name, req.Spec.Template = args[0], &policy
			} else if len(args) > 1 {
				return usage(cmd, "a template is made of a program or, with --agent, of an agent")
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.TemplateCreate(ctx, req)
				if err != nil {
					return a.suggest(ctx, c, err, agent)
				}
				a.warn(resp.GetWarnings())
				if asJSON {
					v := viewTemplate(resp.GetTemplate())
					v.Warm = resp.GetWarmNanos()
					return a.printJSON(v)
				}
				_, err = fmt.Fprintln(a.stdout, resp.GetTemplate().GetId())
				return err
			})
		},
	}
	f.register(a, cmd)
	fs := cmd.Flags()
	fs.SetInterspersed(true) // NAME may come first; the program comes after --.
	for _, name := range notOfTemplates {
		_ = fs.MarkHidden(name)
	}
	fs.StringVar(&agent, "agent", "", "make it of a copy of `AGENT`")
	fs.StringVar(&policy.Output, "ready", "", "it is warm when it has written `TEXT`")
	fs.DurationVar(&timeout, "timeout", 0, "give it so much `TIME` to become warm (default 1m)")
	fs.Uint32Var(&ahead, "ahead", abi.DefaultAhead, "have the memory of `N` copies ready before anybody asks; 0: of none")
	outputFlag(cmd, &output, "json")
	a.completeFlag(cmd, "agent", a.runningAgents)
	return cmd
}

func (a *app) templateLsCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Short:   "List the templates",
		Example: "  aiosctl template ls\n  aiosctl template ls -o json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.TemplateList(ctx, &apiv1.TemplateListRequest{})
				switch {
				case err != nil:
					return err
				case asJSON:
					return a.printJSON(views(resp.GetTemplates(), viewTemplate))
				}
				return a.templateTable(resp.GetTemplates())
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) templateTable(all []*apiv1.Template) error {
	var rows [][]string
	for _, t := range all {
		rows = append(rows, []string{
			t.GetName(), t.GetId(), t.GetDomain(), t.GetState(), a.age(t.GetCreatedUnixNano()), strconv.Itoa(int(t.GetProcesses())),
			size(t.GetMemoryBytes()), fmt.Sprintf("%d/%d", t.GetAhead(), t.GetAheadWanted()), strconv.Itoa(int(t.GetAgents())), commandLine(t.GetArgv(), true),
		})
	}
	return a.table([]string{"NAME", "ID", "DOMAIN", "STATE", "AGE", "PROCS", "MEMORY", "AHEAD", "AGENTS", "COMMAND"}, rows)
}

func (a *app) templateShowCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "show [flags] NAME",
		Short:   "Show a template",
		Example: "  aiosctl template show py",
		Args:    exactly(1, "the template"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.TemplateList(ctx, &apiv1.TemplateListRequest{Template: args[0]})
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				t := resp.GetTemplates()[0]
				if asJSON {
					return a.printJSON(viewTemplate(t))
				}
				f := a.facts()
				f.add("Name", t.GetName())
				f.add("ID", t.GetId())
				f.add("Domain", t.GetDomain())
				f.add("State", t.GetState())
				f.add("Image", t.GetImage())
				f.add("Command", commandLine(t.GetArgv(), false))
				f.add("Cloned from", t.GetClonedFrom())
				f.add("Age", a.age(t.GetCreatedUnixNano()))
				f.add("Processes", strconv.Itoa(int(t.GetProcesses())))
				f.add("Memory", size(t.GetMemoryBytes()))
				f.add("Ahead", fmt.Sprintf("%d of %d", t.GetAhead(), t.GetAheadWanted()))
				f.add("Agents", strconv.Itoa(int(t.GetAgents())))
				f.add("Labels", pairs(t.GetLabels()))
				return f.w.Flush()
			})
		},
		ValidArgsFunction: a.complete(a.templateNames),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) templateRmCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME…",
		Short:   "Remove templates",
		Long:    "Rm ends templates. Agents that began from one go on; one of them that is to be started again stays ended.",
		Example: "  aiosctl template rm py",
		Args:    atLeast(1, "the template"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd, args, func(ctx context.Context, c *client.Client, name string) error {
				_, err := c.TemplateRemove(ctx, &apiv1.TemplateRemoveRequest{Template: name})
				return err
			})
		},
		ValidArgsFunction: a.complete(a.templateNames),
	}
}

// templateNames lists the templates.
func (a *app) templateNames(ctx context.Context, c *client.Client) ([]string, error) {
	resp, err := c.TemplateList(ctx, &apiv1.TemplateListRequest{})
	var out []string
	for _, t := range resp.GetTemplates() {
		out = append(out, t.GetName())
	}
	return out, err
}
