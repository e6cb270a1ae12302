package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
)

// daemon asks a running daemon about itself; it starts none.
func (a *app) daemon(ctx context.Context) (*daemonView, error) {
	p, err := config.Resolve(a.stateDir)
	if err != nil {
		return nil, err
	}
	v := &daemonView{StateDir: p.StateDir, Socket: p.Socket}
	if at := a.address(); at != "" {
		v.StateDir, v.Socket = "", at
	}
	c, err := a.dial(ctx, true)
	if errdefs.CodeOf(err) == errdefs.DaemonUnreachable {
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, err := c.Version(ctx, &apiv1.VersionRequest{})
	if err != nil {
		return nil, err
	}
	v.Running, v.Version, v.API, v.KernelProtocol = true, r.GetVersion(), apiVersion(r.GetApiMinor()), r.GetKernelProtocol()
	v.GVisor, v.Go, v.PID, v.StateDir = r.GetGvisor(), r.GetGo(), r.GetPid(), r.GetStateDir()
	v.Started, v.Platform = viewTime(r.GetStartedUnixNano()), r.GetPlatform()
	if st, err := c.ConfigStatus(ctx, &apiv1.ConfigStatusRequest{}); err == nil {
		v.Config, v.ConfigFailure = st.GetFile(), st.GetFailure()
		if !st.GetExists() {
			v.Config = ""
		}
	}
	return v, nil
}

func (a *app) daemonCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "daemon COMMAND",
		RunE:  group,
		Short: "Start, stop and show the daemon",
		Long: `The daemon keeps the list of agents, images and domains. Every command that needs
it starts it. Stopping it leaves agents running; the next daemon finds them again.

It reads a configuration file, if there is one: /etc/aios/config.yaml for root,
~/.config/aios/config.yaml for others, config.yaml in a state directory that was named with
--state-dir; or the one that AIOS_CONFIG or ` + "`start --config`" + ` names.`,
		Example: "  aiosctl daemon status\n  aiosctl daemon check ./config.yaml\n  aiosctl daemon reload\n  aiosctl daemon stop\n  aiosctl daemon stop --domains",
	}
	cmd.AddCommand(a.daemonStartCmd(), a.daemonStopCmd(), a.daemonStatusCmd(), a.daemonReloadCmd(), a.daemonCheckCmd())
	return cmd
}

func (a *app) daemonStartCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "start [flags]",
		Short:   "Start the daemon unless it runs",
		Example: "  aiosctl daemon start\n  aiosctl daemon start --config ./config.yaml",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" {
				return a.startWith(cmd.Context(), file)
			}
			for tries := 1; ; tries++ {
				err := a.with(cmd, func(ctx context.Context, c *client.Client) error {
					_, err := c.Version(ctx, &apiv1.VersionRequest{})
					return err
				})
				// One that is just dying still accepts.
				if errdefs.CodeOf(err) != errdefs.DaemonUnreachable || tries == startTries {
					return err
				}
			}
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "with the configuration `FILE` ($AIOS_CONFIG)")
	return cmd
}

const (
	// startTries is how often start connects to a daemon that goes away.
	startTries = 3
	// stopTimeout is how long a daemon may take to end after it said it would.
	stopTimeout = 10 * time.Second
	stopPoll    = 5 * time.Millisecond
)

func (a *app) daemonStopCmd() *cobra.Command {
	var domains bool
	cmd := &cobra.Command{
		Use:     "stop [flags]",
		Short:   "Stop the daemon; agents go on running",
		Long:    "Stop ends the daemon and returns when it has ended. Agents that go on running\nare printed; with --domains they are ended too.",
		Example: "  aiosctl daemon stop\n  aiosctl daemon stop --domains",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, err := a.dial(ctx, true)
			if errdefs.CodeOf(err) == errdefs.DaemonUnreachable {
				return nil // It does not run, which is what was asked for.
			}
			if err != nil {
				return err
			}
			defer c.Close()
			resp, err := c.Shutdown(ctx, &apiv1.ShutdownRequest{StopDomains: domains})
			if err != nil {
				return err
			}
			for _, g := range resp.GetAgentsLeftRunning() {
				fmt.Fprintln(a.stdout, g)
			}
			began := a.clock.Now()
			for a.clock.Since(began) < stopTimeout {
				probe, err := a.dial(ctx, true)
				if err == nil {
					probe.Close()
				} else if errdefs.CodeOf(err) == errdefs.DaemonUnreachable && a.stopped() {
					return nil
				}
				a.sleep(stopPoll)
			}
			return errdefs.Newf(errdefs.Timeout, "the daemon has not ended %v after it was told to stop", stopTimeout)
		},
	}
	cmd.Flags().BoolVar(&domains, "domains", false, "end every domain and its agents too")
	return cmd
}

// stopped reports whether the daemon's process, which does not answer, is known
// not to run any more; of one at another address nothing more can be known.
func (a *app) stopped() bool {
	if a.address() != "" {
		return true
	}
	p, err := config.Resolve(a.stateDir)
	return err != nil || client.Stopped(p)
}

func (a *app) sleep(d time.Duration) {
	passed := make(chan struct{})
	a.clock.AfterFunc(d, func() { close(passed) })
	<-passed
}

func (a *app) daemonStatusCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "status [flags]",
		Short:   "Tell whether the daemon runs: status 0 if so, else 1",
		Example: "  aiosctl daemon status\n  aiosctl daemon status -o json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			v, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			if json {
				err = a.printJSON(v)
			} else {
				err = a.printDaemon(v)
			}
			if err == nil && !v.Running {
				err = status(1)
			}
			return err
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) printDaemon(v *daemonView) error {
	f := a.facts()
	if v.Running {
		f.add("Daemon", fmt.Sprintf("running, pid %d, version %s", v.PID, v.Version))
		if v.Started != nil {
			f.add("Started", a.when(v.Started.UnixNano()))
		}
		f.add("Platform", v.Platform)
		f.add("Config", v.Config)
		f.add("Not read", v.ConfigFailure)
	} else {
		f.add("Daemon", "not running")
	}
	f.add("State", v.StateDir)
	f.add("Socket", v.Socket)
	return f.w.Flush()
}
