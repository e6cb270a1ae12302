package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"aios.dev/aios/client"
	"aios.dev/aios/control"
)

func (a *app) debugCmd() *cobra.Command {
	var g gdbOptions
	var mem memoryOptions
	var output string
	cmd := &cobra.Command{
		Use:   "debug [flags] AGENT|DOMAIN [VIEW...]",
		Short: "Look into agents that run, and debug them with gdb",
		Long: `Debug shows what a kernel process knows of an agent, or of all agents of a domain, and stops none
of them. The views are

  tasks    threads: what they do, where they are
  stacks   the same with the registers of the program and the stack in the kernel
  queues   places in which an agent's tasks run, who has one and who waits for one; its CPU quota
  locks    locks of the kernel; who waits for one; futexes of programs and who waits at them
  caps     capabilities
  maps     regions of memory
  files    open files
  sockets  open sockets

or all; without any, tasks, queues and locks. A thread that executes its program is interrupted for
a moment when stacks are asked for, as at the end of a slice. An agent whose name a domain has too
is named by its ID.

--read and --write read and write memory of an agent, of its first process or that of --pid, which
stands still for a moment.

With --gdb it lets gdb debug an agent, or with --pid one process of it: breakpoints, steps, registers,
memory, signals. The agent stops when gdb comes, and goes on when gdb detaches, is killed, or loses
its connection; so it does when aiosctl or the daemon is killed. One gdb is served at a time, and the
next after it, until the agent ends or you press Ctrl-C.

--gdb takes an address, [HOST]:PORT or unix:PATH; without HOST only this host can connect, and
there only you and root. Port 0 is one that is free. - is standard input and output, for gdb to
start aiosctl itself, with no address that anybody could connect to.

gdb reads programs and libraries from the agent. Who debugs an agent can do whatever it can: it
takes the operation debug in a token, and is in the audit trail.`,
		Example: `  aiosctl debug default
  aiosctl debug web stacks
  aiosctl debug web files sockets -o json
  aiosctl debug web --read 0x4c9010,16
  aiosctl debug web --write 0x4c9010=2a000000
  aiosctl debug web --gdb :1234
  gdb -ex 'target remote 127.0.0.1:1234'
  gdb -ex 'target remote | aiosctl debug web --gdb -'
  aiosctl debug web --pid 7 --gdb unix:/run/user/1000/gdb`,
		Args: atLeast(1, "the agent or domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("gdb") {
				if len(args) > 1 || mem.read != "" || mem.write != "" {
					return usage(cmd, "--gdb, --read, --write and views exclude each other")
				}
				g.agent = args[0]
				return a.gdb(cmd, g)
			}
			for _, only := range []string{"once", "allow-remote"} {
				if cmd.Flags().Changed(only) {
					return usage(cmd, "--"+only+" is about --gdb, which is missing")
				}
			}
			if mem.read != "" || mem.write != "" {
				if len(args) > 1 || mem.read != "" && mem.write != "" || output != "" {
					return usage(cmd, "--gdb, --read, --write and views exclude each other")
				}
				mem.agent, mem.pid = args[0], g.pid
				return a.memory(cmd, mem)
			}
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			views, err := checkViews(args[1:])
			if err != nil {
				return err
			}
			return a.look(cmd, args[0], g.pid, views, asJSON)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return slices.DeleteFunc(append(control.Views(), "all"), func(v string) bool { return !strings.HasPrefix(v, prefix) }), cobra.ShellCompDirectiveNoFileComp
			}
			return a.complete(a.agentsAndDomains)(cmd, args, prefix)
		},
	}
	f := cmd.Flags()
	f.StringVar(&g.address, "gdb", "", "serve gdb at `ADDRESS`: [HOST]:PORT, unix:PATH, or - for standard input and output")
	f.StringVar(&mem.read, "read", "", "show the memory at `ADDRESS[,LENGTH]`")
	f.StringVar(&mem.write, "write", "", "write memory, `ADDRESS=BYTES`, in hexadecimal")
	f.Int32Var(&g.pid, "pid", 0, "only process `PID`, as the agent numbers it")
	f.BoolVar(&g.remote, "allow-remote", false, "let --gdb name a HOST that others can reach: whoever can gets the agent, nothing is encrypted")
	f.BoolVar(&g.once, "once", false, "serve one gdb, and end when it leaves")
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) agentsAndDomains(ctx context.Context, c *client.Client) ([]string, error) {
	agents, err := a.runningAgents(ctx, c)
	domains, _ := a.domainNames(ctx, c) // Who may not see them still has agents.
	return append(agents, domains...), err
}
