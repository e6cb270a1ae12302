package main

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"aios.dev/aios/abi"
	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) doctorCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Tell what this host offers and what AIOS makes of it",
		Long: `Doctor lists what AIOS wants from the host: ✓ is there, ! is missing and worked
around, ✗ is missing. It ends with status 0 when agents can run, else 1.`,
		Example: "  aiosctl doctor\n  aiosctl doctor -o json | jq '.findings[] | select(.status != \"ok\")'",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Doctor(ctx, &apiv1.DoctorRequest{})
				if err != nil {
					return err
				}
				if json {
					err = a.printJSON(doctorView{
						Usable: resp.GetUsable(), Warning: resp.GetWarning(),
						Findings: views(resp.GetFindings(), func(f *apiv1.Finding) findingView {
							return findingView{f.GetName(), f.GetStatus(), f.GetFound(), f.GetEffect(), f.GetFix()}
						}),
					})
				} else {
					err = a.printDoctor(resp)
				}
				if err == nil && !resp.GetUsable() {
					err = status(1)
				}
				return err
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// marks are the symbols and colours of a finding's status.
var marks = map[string][2]string{"ok": {"✓", "32"}, "degraded": {"!", "33"}, "missing": {"✗", "31"}}

// printDoctor writes one line for each finding, and below those that are not
// ok what AIOS does and what the reader could do.
func (a *app) printDoctor(r *apiv1.DoctorResponse) error {
	width := 0
	for _, f := range r.GetFindings() {
		width = max(width, len(printable(f.GetName())))
	}
	var b strings.Builder
	for _, f := range r.GetFindings() {
		mark, ok := marks[f.GetStatus()]
		if !ok {
			mark = [2]string{"?", "0"}
		}
		fmt.Fprintf(&b, "%s %-*s  %s\n", a.color(mark[0], mark[1]), width, printable(f.GetName()), printable(f.GetFound()))
		if f.GetStatus() == "ok" {
			continue
		}
		for _, line := range [][2]string{{"→", f.GetEffect()}, {"fix:", f.GetFix()}} {
			if line[1] != "" {
				fmt.Fprintf(&b, "  %*s  %s %s\n", width, "", line[0], printable(line[1]))
			}
		}
	}
	verdict := "agents can run on this host"
	if !r.GetUsable() {
		verdict = "agents cannot run on this host"
	}
	fmt.Fprintf(&b, "\n%s\n", verdict)
	_, err := fmt.Fprint(a.stdout, b.String())
	return err
}

func (a *app) versionCmd() *cobra.Command {
	var (
		only   bool
		output string
	)
	cmd := &cobra.Command{
		Use:     "version [flags]",
		Short:   "Print the versions of client and daemon",
		Long:    "Version prints the versions of aiosctl and, when one runs, of the daemon; it starts none.",
		Example: "  aiosctl version\n  aiosctl version --client -o json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			v := versionView{Client: clientView{Version: abi.Version, API: apiVersion(api.Minor), Go: runtime.Version()}}
			if !only {
				if v.Daemon, err = a.daemon(cmd.Context()); err != nil {
					return err
				}
			}
			if json {
				return a.printJSON(v)
			}
			f := a.facts()
			f.add("aiosctl", v.Client.Version+" (api "+v.Client.API+", "+v.Client.Go+")")
			if d := v.Daemon; d != nil && d.Running {
				f.add("aiosd", fmt.Sprintf("%s (api %s, %s, gvisor %s)", d.Version, d.API, d.Go, d.GVisor))
			} else if d != nil {
				f.add("aiosd", "not running")
			}
			return f.w.Flush()
		},
	}
	cmd.Flags().BoolVar(&only, "client", false, "only of the client")
	outputFlag(cmd, &output, "json")
	return cmd
}

func apiVersion(minor uint32) string { return "1." + strconv.FormatUint(uint64(minor), 10) }

func (a *app) completionCmd() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a completion script for bash, zsh, fish or powershell",
		Long:  "Completion prints a script that completes commands, flags, and the names of agents,\nimages and domains of a running daemon.",
		Example: `  source <(aiosctl completion bash)
  aiosctl completion zsh > "${fpath[1]}/_aiosctl"
  aiosctl completion fish > ~/.config/fish/completions/aiosctl.fish`,
		Args:      exactly(1, "the shell"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			return usage(cmd, fmt.Sprintf("no completion for %q: the shells are %s", args[0], strings.Join(shells, ", ")))
		},
	}
}

// helpCmd is the help command. Cobra's own answers an unknown topic with
// status 0.
func (a *app) helpCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND…]",
		Short:   "Help about any command",
		Example: "  aiosctl help run\n  aiosctl help image import",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil {
				return usage(cmd, err.Error())
			}
			return group(topic, rest)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if topic, rest, err := cmd.Root().Find(args); err == nil && len(rest) == 0 {
				for _, c := range topic.Commands() {
					if strings.HasPrefix(c.Name(), prefix) {
						names = append(names, c.Name())
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}
