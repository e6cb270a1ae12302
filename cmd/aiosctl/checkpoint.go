package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

func (a *app) domainCheckpointCmd() *cobra.Command {
	var to, output string
	var stop bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "checkpoint [flags] DOMAIN",
		Short: "Save a domain, with all its agents, to a directory",
		Long: `Checkpoint saves a domain: processes and threads, memory, files of the agents,
pipes and sockets between them, timers, authority and accounts. The domain stands
still meanwhile, and goes on, unless --stop is given. The directory has the whole
of it, or the checkpoint that was there before.

What reaches out of the domain cannot be saved; the command says what it is. With
--every the domain is saved from time to time, and when its kernel process dies it
goes on from the last checkpoint.`,
		Example: "  aiosctl domain checkpoint default\n  aiosctl domain checkpoint team --to /var/backups/team --stop\n  aiosctl domain checkpoint team --every 30s",
		Args:    exactly(1, "the domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &apiv1.DomainCheckpointRequest{Name: args[0], Dir: to, Stop: stop}
			if cmd.Flags().Changed("every") {
				n := int64(every)
				req.EveryNanos = &n
			}
			return a.saveDomain(cmd, req, output)
		},
		ValidArgsFunction: a.complete(a.domainNames),
	}
	cmd.Flags().StringVar(&to, "to", "", "save it to `DIR`, instead of a directory of the daemon's own")
	cmd.Flags().BoolVar(&stop, "stop", false, "end the domain when it is saved")
	cmd.Flags().DurationVar(&every, "every", 0, "save it from now on every `TIME`, and have it go on from there when its kernel\nprocess dies; 0: no longer")
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) domainHibernateCmd() *cobra.Command {
	var to, output string
	cmd := &cobra.Command{
		Use:   "hibernate [flags] DOMAIN",
		Short: "Save a domain and end it, until it is restored",
		Long: `Hibernate is checkpoint with --stop: the domain uses neither memory nor processors
until ` + "`aiosctl domain restore DOMAIN`" + ` has it go on where it was.`,
		Example: "  aiosctl domain hibernate team\n  aiosctl domain restore team",
		Args:    exactly(1, "the domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.saveDomain(cmd, &apiv1.DomainCheckpointRequest{Name: args[0], Dir: to, Stop: true}, output)
		},
		ValidArgsFunction: a.complete(a.domainNames),
	}
	cmd.Flags().StringVar(&to, "to", "", "save it to `DIR`, instead of a directory of the daemon's own")
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) saveDomain(cmd *cobra.Command, req *apiv1.DomainCheckpointRequest, output string) error {
	json, err := a.wantsJSON(output)
	if err != nil {
		return err
	}
	if req.Dir, err = absolute(req.GetDir()); err != nil {
		return err
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		resp, err := c.DomainCheckpoint(ctx, req)
		if err != nil {
			return err
		}
		cp := resp.GetCheckpoint()
		if json {
			return a.printJSON(viewCheckpoint(cp))
		}
		var bytes, raw int64
		for _, p := range cp.GetParts() {
			bytes, raw = bytes+p.GetBytes(), raw+p.GetRawBytes()
		}
		fmt.Fprintf(a.stdout, "%s\n", cp.GetDir())
		fmt.Fprintf(a.stderr, "saved %s in %s, of %s; all stood still for %v\n",
			counted(uint32(len(cp.GetAgents())), "agent"), size(uint64(bytes)), size(uint64(raw)), time.Duration(cp.GetPauseNanos()).Round(time.Millisecond/10))
		return nil
	})
}

// absolute makes a path that somebody gave absolute; "" stays.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	abs, err := filepath.Abs(path)
	return abs, errdefs.Wrap(err, errdefs.InvalidArgument, "name a directory")
}

func (a *app) domainRestoreCmd() *cobra.Command {
	var name, output string
	var forceFiles bool
	cmd := &cobra.Command{
		Use:   "restore [flags] DIR|DOMAIN",
		Short: "Have a domain go on where it was saved",
		Long: `Restore starts a kernel process that goes on where a checkpoint was made, with all
agents of it or, when it cannot, with none. What has a slash in it is a directory;
else it is a domain whose checkpoint the daemon keeps. Agents keep their IDs and
names, so none of them may run at the same time.`,
		Example: "  aiosctl domain restore team\n  aiosctl domain restore /var/backups/team --name team-b",
		Args:    exactly(1, "the directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			req := &apiv1.DomainRestoreRequest{Name: name, ForceFiles: forceFiles}
			if strings.Contains(args[0], "/") {
				req.Dir, err = absolute(args[0])
			} else if req.Name = args[0]; name != "" {
				return errdefs.New(errdefs.InvalidArgument, "a domain that the daemon keeps is restored by its own name", errdefs.Op("restore"),
					errdefs.Resource("%q", args[0]), errdefs.Fix("leave --name out, or name the directory"))
			}
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.DomainRestore(ctx, req)
				if err != nil {
					return err
				}
				if json {
					return a.printJSON(viewRestored(resp))
				}
				for _, w := range resp.GetWarnings() {
					fmt.Fprintln(a.stderr, "warning: "+w)
				}
				for _, g := range resp.GetCheckpoint().GetAgents() {
					fmt.Fprintln(a.stdout, orID(g))
				}
				fmt.Fprintf(a.stderr, "domain %s goes on where it was at %s, after %v\n", resp.GetName(),
					time.Unix(0, resp.GetCheckpoint().GetMadeUnixNano()).Format(time.RFC3339), time.Duration(resp.GetTookNanos()).Round(time.Millisecond/10))
				return nil
			})
		},
		ValidArgsFunction: a.complete(a.domainNames),
	}
	cmd.Flags().StringVar(&name, "name", "", "call the domain `NAME` from now on")
	cmd.Flags().BoolVar(&forceFiles, "force-files", false, "take files of the host that agents have open as they are, though they have changed since")
	outputFlag(cmd, &output, "json")
	return cmd
}

// orID is how an agent is named in a list.
func orID(g *apiv1.Agent) string {
	if n := g.GetName(); n != "" {
		return n
	}
	return g.GetId()
}

type checkpointView struct {
	Dir      string               `json:"dir"`
	Domain   string               `json:"domain"`
	Made     string               `json:"made"`
	Version  string               `json:"version"`
	Platform string               `json:"platform"`
	Parts    []checkpointPartView `json:"parts"`
	Agents   []string             `json:"agents"`
	PauseMS  float64              `json:"pause_ms"`
}

type checkpointPartView struct {
	Name     string `json:"name"`
	Bytes    int64  `json:"bytes"`
	RawBytes int64  `json:"raw_bytes"`
	Sum      string `json:"blake3"`
}

func viewCheckpoint(c *apiv1.Checkpoint) checkpointView {
	v := checkpointView{
		Dir: c.GetDir(), Domain: c.GetDomain(), Made: time.Unix(0, c.GetMadeUnixNano()).UTC().Format(time.RFC3339Nano), Version: c.GetVersion(),
		Platform: c.GetPlatform(), PauseMS: milliseconds(c.GetPauseNanos()),
	}
	for _, p := range c.GetParts() {
		v.Parts = append(v.Parts, checkpointPartView{p.GetName(), p.GetBytes(), p.GetRawBytes(), p.GetSum()})
	}
	for _, g := range c.GetAgents() {
		v.Agents = append(v.Agents, g.GetId())
	}
	return v
}

type restoredView struct {
	Name       string         `json:"name"`
	TookMS     float64        `json:"took_ms"`
	Warnings   []string       `json:"warnings,omitempty"`
	Checkpoint checkpointView `json:"checkpoint"`
}

func viewRestored(r *apiv1.DomainRestoreResponse) restoredView {
	return restoredView{r.GetName(), milliseconds(r.GetTookNanos()), r.GetWarnings(), viewCheckpoint(r.GetCheckpoint())}
}

func milliseconds(ns int64) float64 { return float64(ns) / float64(time.Millisecond) }
