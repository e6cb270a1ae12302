package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

// reloadView is what `daemon reload -o json` prints.
type reloadView struct {
	File    string             `json:"file"`
	Exists  bool               `json:"exists"`
	Changes []configChangeView `json:"changes"`
}

type configChangeView struct {
	Key          string `json:"key"`
	Before       string `json:"before,omitempty"`
	After        string `json:"after,omitempty"`
	NeedsRestart bool   `json:"needs_restart"`
}

func (a *app) daemonReloadCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "reload [flags]",
		Short: "Have the daemon read its configuration file again",
		Long: `Reload has the daemon read its configuration file again, as SIGHUP does, and prints what has
changed. If anything in the file is wrong, nothing changes, and the message says what and where.`,
		Example: "  aiosctl daemon reload\n  aiosctl daemon reload -o json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			c, err := a.dial(cmd.Context(), true)
			if err != nil {
				return err
			}
			defer c.Close()
			resp, err := c.ConfigReload(cmd.Context(), &apiv1.ConfigReloadRequest{})
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(reloadView{resp.GetFile(), resp.GetExists(), views(resp.GetChanges(), func(c *apiv1.ConfigChange) configChangeView {
					return configChangeView{c.GetKey(), c.GetBefore(), c.GetAfter(), c.GetNeedsRestart()}
				})})
			}
			return a.printReload(resp)
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) printReload(resp *apiv1.ConfigReloadResponse) error {
	if !resp.GetExists() {
		fmt.Fprintf(a.stdout, "there is no %s: nothing is configured\n", printable(resp.GetFile()))
	}
	if len(resp.GetChanges()) == 0 {
		fmt.Fprintln(a.stdout, "nothing has changed")
		return nil
	}
	var rows [][]string
	for _, c := range resp.GetChanges() {
		when := "now"
		if c.GetNeedsRestart() {
			when = "when the daemon starts again"
		}
		rows = append(rows, []string{printable(c.GetKey()), orElse(printable(c.GetBefore()), "-"), orElse(printable(c.GetAfter()), "-"), when})
	}
	return a.table([]string{"KEY", "BEFORE", "AFTER", "COUNTS"}, rows)
}

func (a *app) daemonCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Examine a configuration file, without a daemon and without effect",
		Long: `Check reads a configuration file as the daemon does, with the user's own rights, and says what is
wrong with it. Without FILE it is the one that a daemon would read.`,
		Example: "  aiosctl daemon check ./config.yaml && sudo cp config.yaml /etc/aios/ && sudo aiosctl daemon reload",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			bin, err := client.FindDaemon()
			if err != nil {
				return err
			}
			argv := []string{"check"}
			if a.stateDir != "" {
				argv = append(argv, "--state-dir", a.stateDir)
			}
			if len(args) > 0 {
				argv = append(argv, "--config", args[0])
			}
			check := exec.CommandContext(cmd.Context(), bin, argv...)
			check.Stdout, check.Stderr = a.stdout, a.stderr
			err = check.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.Exited() {
				return status(exit.ExitCode())
			}
			return errdefs.Wrap(err, errdefs.DaemonUnreachable, "examine the configuration", errdefs.Fix("check that %s runs: `%s version`", bin, bin))
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"yaml"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
}

// startWith starts the daemon with a configuration file, or says that one runs
// with another.
func (a *app) startWith(ctx context.Context, file string) error {
	abs, err := filepath.Abs(file)
	if err != nil {
		return errdefs.Wrap(err, errdefs.InvalidArgument, "find the configuration file")
	}
	if at := a.address(); at != "" {
		return errdefs.New(errdefs.InvalidArgument, "the daemon at "+at+" is started by somebody else",
			errdefs.Fix("leave --config or --connect out"))
	}
	a.configFile = abs
	c, err := a.dial(ctx, false)
	if err != nil {
		return err
	}
	defer c.Close()
	st, err := c.ConfigStatus(ctx, &apiv1.ConfigStatusRequest{})
	if err != nil {
		return err
	}
	if st.GetFile() != abs {
		return errdefs.New(errdefs.WrongState, "a daemon runs already, with "+st.GetFile(), errdefs.Op("start daemon"),
			errdefs.Fix("`aiosctl daemon stop` first; agents go on running"))
	}
	return nil
}
