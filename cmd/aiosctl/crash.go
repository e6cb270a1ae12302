package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

func (a *app) crashCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "crash COMMAND",
		RunE:  group,
		Short: "Dump agents and kernel processes, and read the dumps",
		Long: `A dump of an agent holds an ELF core of each of its processes, which gdb opens. One is
made when you ask for it, or by a policy: see --on-fault of aiosctl run. A dump of a
kernel process holds its goroutines, agents, log and recent events; one is made when
you ask for it, and whenever a kernel process dies. The newest dumps are kept in the
state directory.`,
		Example: "  aiosctl crash dump web\n  aiosctl crash ls\n  aiosctl crash get c1 core && gdb /usr/bin/python3 core",
	}
	cmd.AddCommand(a.crashListCmd(), a.crashShowCmd(), a.crashDumpCmd(), a.crashBundleCmd(), a.crashGetCmd(), a.crashRemoveCmd())
	return cmd
}

type memberView struct {
	Name  string `json:"name"`
	Bytes uint64 `json:"bytes"`
}

type crashView struct {
	ID       string          `json:"id"`
	Kind     string          `json:"kind"`
	Domain   string          `json:"domain"`
	Agent    string          `json:"agent,omitempty"`
	Name     string          `json:"name,omitempty"`
	Why      string          `json:"why"`
	Time     *time.Time      `json:"time,omitempty"`
	Bytes    uint64          `json:"bytes"`
	Members  []memberView    `json:"members"`
	Remarks  []string        `json:"remarks,omitempty"`
	Manifest json.RawMessage `json:"manifest,omitempty"`
}

func viewCrash(c *apiv1.Crash) crashView {
	return crashView{
		ID: c.GetId(), Kind: c.GetKind(), Domain: c.GetDomain(), Agent: c.GetAgent(), Name: c.GetAgentName(), Why: c.GetWhy(),
		Time: viewTime(c.GetTimeUnixNano()), Bytes: c.GetBytes(), Remarks: c.GetRemarks(),
		Members: views(c.GetMembers(), func(m *apiv1.CrashMember) memberView { return memberView{m.GetName(), m.GetBytes()} }),
	}
}

func (a *app) crashListCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List the dumps that are kept",
		Example: "  aiosctl crash ls\n  aiosctl crash ls -o json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.CrashList(ctx, &apiv1.CrashListRequest{})
				switch {
				case err != nil:
					return err
				case asJSON:
					return a.printJSON(views(resp.GetCrashes(), viewCrash))
				}
				if err := a.crashTable(resp.GetCrashes()); err != nil {
					return err
				}
				if n := resp.GetRemoved(); n > 0 {
					fmt.Fprintf(a.stderr, "aiosctl: %d older dumps made room: at most %d are kept, and %s\n", n, resp.GetLimitCrashes(), size(resp.GetLimitBytes()))
				}
				return nil
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) crashTable(crashes []*apiv1.Crash) error {
	rows := make([][]string, 0, len(crashes))
	for _, c := range crashes {
		of := c.GetDomain()
		if c.GetAgent() != "" {
			of = orName(c.GetAgentName(), c.GetAgent())
		}
		rows = append(rows, []string{
			c.GetId(), c.GetKind(), of, a.age(c.GetTimeUnixNano()), size(c.GetBytes()), strconv.Itoa(len(c.GetMembers())), c.GetWhy(),
		})
	}
	return a.table([]string{"ID", "KIND", "OF", "AGE", "SIZE", "FILES", "WHY"}, rows)
}

func orName(name, id string) string {
	if name != "" {
		return name
	}
	return id
}

func (a *app) crashShowCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "show [flags] ID",
		Short:   "Describe a dump: what is in it, and what is not",
		Example: "  aiosctl crash show c1\n  aiosctl crash show c1 -o json",
		Args:    exactly(1, "the dump"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.CrashInspect(ctx, &apiv1.CrashInspectRequest{Id: args[0]})
				if err != nil {
					return err
				}
				v := viewCrash(resp.GetCrash())
				v.Manifest = json.RawMessage(resp.GetManifest())
				if asJSON {
					return a.printJSON(v)
				}
				return a.printCrash(v)
			})
		},
		ValidArgsFunction: a.completeFirst(a.crashIDs),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) crashIDs(ctx context.Context, c *client.Client) ([]string, error) {
	resp, err := c.CrashList(ctx, &apiv1.CrashListRequest{})
	var out []string
	for _, c := range resp.GetCrashes() {
		out = append(out, c.GetId())
	}
	return out, err
}

// printCrash describes a dump to people.
func (a *app) printCrash(v crashView) error {
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(a.stdout, "%-10s%s\n", name, printable(text))
		}
	}
	line("id", v.ID)
	line("kind", v.Kind)
	line("domain", v.Domain)
	if v.Agent != "" {
		line("agent", strings.TrimSpace(v.Agent+" "+v.Name))
	}
	line("why", v.Why)
	line("time", v.Time.In(a.zone).Format(time.RFC3339))
	line("size", size(v.Bytes))
	var m struct {
		Held  int64 `json:"held_nanoseconds"`
		Cores []struct {
			Member, Name, Program string
			PID                   int32
			Threads               int
			Bytes                 int64
			LeftOut               []string `json:"left_out"`
		}
		Remarks []string
	}
	if len(v.Manifest) == 0 || json.Unmarshal(v.Manifest, &m) != nil || len(m.Cores) == 0 {
		for _, f := range v.Members {
			line("file", fmt.Sprintf("%s (%s)", f.Name, size(f.Bytes)))
		}
	} else {
		line("held for", time.Duration(m.Held).Round(time.Microsecond).String())
		fmt.Fprintln(a.stdout)
		rows := make([][]string, 0, len(m.Cores))
		for _, c := range m.Cores {
			rows = append(rows, []string{c.Member, strconv.Itoa(int(c.PID)), c.Name, strconv.Itoa(c.Threads), size(uint64(c.Bytes)), dash(c.Program)})
		}
		if err := a.table([]string{"CORE", "PID", "NAME", "THREADS", "SIZE", "PROGRAM"}, rows); err != nil {
			return err
		}
		for _, c := range m.Cores {
			for _, l := range c.LeftOut {
				line("", c.Member+" is without "+l)
			}
		}
	}
	for _, r := range append(v.Remarks, m.Remarks...) {
		line("remark", r)
	}
	return nil
}

func (a *app) crashDumpCmd() *cobra.Command {
	var (
		limit string
		req   apiv1.CrashDumpRequest
	)
	cmd := &cobra.Command{
		Use:   "dump [flags] AGENT",
		Short: "Dump an agent that runs: an ELF core of each of its processes",
		Long: `Dump writes an ELF core of each process of an agent. The agent stands still for
milliseconds, however much memory it has, and goes on. As on Linux, what a program
maps of files and has not written to is left out unless --full is given; debuggers
read it from the files.`,
		Example: "  aiosctl crash dump web\n  aiosctl crash dump --pid 7 --limit 200MiB web",
		Args:    exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit != "" {
				n, err := units.RAMInBytes(limit)
				if err != nil || n <= 0 {
					return invalid("--limit", limit, "not a size", "give one like 200MiB")
				}
				req.LimitBytes = uint64(n)
			}
			req.Agent = args[0]
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.CrashDump(ctx, &req)
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				fmt.Fprintln(a.stdout, resp.GetCrash().GetId())
				return nil
			})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	cmd.Flags().Int32Var(&req.Pid, "pid", 0, "dump only process `PID`, as the agent numbers it")
	cmd.Flags().StringVar(&limit, "limit", "", "at most `SIZE` of memory in each core (1GiB)")
	cmd.Flags().BoolVar(&req.Full, "full", false, "include what is mapped of files: programs and libraries")
	return cmd
}

func (a *app) crashGetCmd() *cobra.Command {
	var member string
	var all, force bool
	cmd := &cobra.Command{
		Use:   "get [flags] ID FILE",
		Short: "Write a dump to a file: the first core of an agent, or everything",
		Long: `Get writes one file of a dump to FILE, or to standard output when FILE is -. Of an
agent's dump that is the core of its first process, or that of --member; of a kernel
process's, or with --all, it is the whole dump, a tar that zstd has compressed.`,
		Example: `  aiosctl crash get c1 core
  aiosctl crash get --member core.7 c1 core
  aiosctl crash get --member goroutines.txt c2 - | less
  aiosctl crash get --all c1 dump.tar.zst`,
		Args: exactly(2, "the dump or the file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all && member != "" {
				return usage(cmd, "--all and --member exclude each other")
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				want, err := memberOf(ctx, c, args[0], member, all)
				if err != nil {
					return err
				}
				return a.crashGet(ctx, c, &apiv1.CrashGetRequest{Id: args[0], Member: want}, args[1], force)
			})
		},
		ValidArgsFunction: a.completeFirst(a.crashIDs),
	}
	cmd.Flags().StringVarP(&member, "member", "m", "", "write the file `NAME` of the dump; `aiosctl crash show` lists them")
	cmd.Flags().BoolVar(&all, "all", false, "write everything, as a compressed tar")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "replace FILE")
	return cmd
}

// memberOf says which member of a dump is meant, "" for all of it.
func memberOf(ctx context.Context, c *client.Client, id, member string, all bool) (string, error) {
	if all || member != "" {
		return member, nil
	}
	resp, err := c.CrashInspect(ctx, &apiv1.CrashInspectRequest{Id: id})
	if err != nil {
		return "", err
	}
	for _, m := range resp.GetCrash().GetMembers() {
		if strings.HasPrefix(m.GetName(), "core.") {
			return m.GetName(), nil
		}
	}
	return "", nil
}

// crashGet writes what the daemon sends into a file, leaving holes for zeros.
func (a *app) crashGet(ctx context.Context, c *client.Client, req *apiv1.CrashGetRequest, path string, force bool) (err error) {
	stream, err := c.CrashGet(ctx, req)
	if err != nil {
		return err
	}
	first, err := stream.Recv() // Before the file is made, in case there is nothing to write.
	if err != nil {
		return err
	}
	var out io.Writer = a.stdout
	var sparse *sparseWriter
	if path != "-" {
		flags := os.O_CREATE | os.O_WRONLY | os.O_EXCL
		if force {
			flags = os.O_CREATE | os.O_WRONLY | os.O_TRUNC
		}
		f, err := os.OpenFile(path, flags, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return errdefs.New(errdefs.AlreadyExists, "the file exists", errdefs.Resource("%q", path), errdefs.Fix("name another, or replace it with -f"))
		}
		if err != nil {
			return errdefs.Wrap(err, errdefs.HostIO, "write dump")
		}
		defer func() {
			if cerr := f.Close(); err == nil {
				err = errdefs.Wrap(cerr, errdefs.HostIO, "write dump")
			}
		}()
		sparse = &sparseWriter{f: f}
		out = sparse
	}
	for m := first; ; {
		if _, err := out.Write(m.GetData()); err != nil {
			return errdefs.Wrap(err, errdefs.HostIO, "write dump", errdefs.Resource("%q", path))
		}
		if m, err = stream.Recv(); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	if sparse != nil {
		return errdefs.Wrap(sparse.end(), errdefs.HostIO, "write dump")
	}
	return nil
}

// sparseWriter writes a file from its start, and skips whole pages of zeros.
type sparseWriter struct {
	f  *os.File
	at int64
}

const sparsePage = 4096

// Write implements io.Writer.
func (s *sparseWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(sparsePage-int(s.at%sparsePage), len(p)-done)
		piece := p[done : done+n]
		if !zeros(piece) {
			if _, err := s.f.WriteAt(piece, s.at); err != nil {
				return done, err
			}
		}
		s.at += int64(n)
		done += n
	}
	return len(p), nil
}

// end gives the file its size.
func (s *sparseWriter) end() error { return s.f.Truncate(s.at) }

func zeros(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

func (a *app) crashRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "rm ID…",
		Short:   "Remove dumps",
		Example: "  aiosctl crash rm c1 c2",
		Args:    atLeast(1, "the dump"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd, args, func(ctx context.Context, c *client.Client, id string) error {
				_, err := c.CrashRemove(ctx, &apiv1.CrashRemoveRequest{Id: id})
				return err
			})
		},
		ValidArgsFunction: a.complete(a.crashIDs),
	}
}
