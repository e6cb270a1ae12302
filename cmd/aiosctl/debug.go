package main

import (
	"github.com/spf13/cobra"
)

func (a *app) debugCmd() *cobra.Command {
	var g gdbOptions
	cmd := &cobra.Command{
		Use:   "debug [flags] AGENT",
		Short: "Debug an agent with gdb",
		Long: `Debug with --gdb lets gdb debug an agent, or with --pid one process of it: breakpoints, steps,
registers, memory, signals. The agent stops when gdb comes, and goes on when gdb detaches, is
killed, or loses its connection; so it does when aiosctl or the daemon is killed. One gdb is
served at a time, and the next after it, until the agent ends or you press Ctrl-C.

--gdb takes an address, [HOST]:PORT or unix:PATH; without HOST only this host can connect, and
there only you and root. Port 0 is one that is free. - is standard input and output, for gdb to
start aiosctl itself, with no address that anybody could connect to.

gdb reads programs and libraries from the agent. Who debugs an agent can do whatever it can: it
takes the operation debug in a token, and is in the audit trail.`,
		Example: `  aiosctl debug web --gdb :1234
  gdb -ex 'target remote 127.0.0.1:1234'
  gdb -ex 'target remote | aiosctl debug web --gdb -'
  aiosctl debug web --pid 7 --gdb unix:/run/user/1000/gdb`,
		Args: exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("gdb") {
				return usage(cmd, "--gdb is missing")
			}
			g.agent = args[0]
			return a.gdb(cmd, g)
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	f := cmd.Flags()
	f.StringVar(&g.address, "gdb", "", "serve gdb at `ADDRESS`: [HOST]:PORT, unix:PATH, or - for standard input and output")
	f.Int32Var(&g.pid, "pid", 0, "debug only process `PID`, as the agent numbers it")
	f.BoolVar(&g.remote, "allow-remote", false, "let --gdb name a HOST that others can reach: whoever can gets the agent, nothing is encrypted")
	f.BoolVar(&g.once, "once", false, "serve one gdb, and end when it leaves")
	return cmd
}
