package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

func (a *app) auditCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Read and verify the trail of grants, refusals and revocations",
		Long: `The daemon writes down every grant, delegation, refusal and revocation, each entry
chained to the one before by a hash.`,
		Example: "  aiosctl audit tail -f\n  aiosctl audit query --op denied\n  aiosctl audit verify",
		Args:    cobra.ArbitraryArgs,
		RunE:    group,
	}
	cmd.AddCommand(a.auditTailCmd(), a.auditQueryCmd(), a.auditVerifyCmd())
	return cmd
}

func (a *app) auditTailCmd() *cobra.Command {
	var (
		follow bool
		last   uint32
		output string
	)
	cmd := &cobra.Command{
		Use:     "tail [flags]",
		Short:   "Print the last entries",
		Example: "  aiosctl audit tail -f",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.audit(cmd, &apiv1.AuditQueryRequest{Last: last, Follow: follow}, output)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as entries are written")
	cmd.Flags().Uint32VarP(&last, "lines", "n", 20, "print the last `N` entries")
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) auditQueryCmd() *cobra.Command {
	var (
		req          apiv1.AuditQueryRequest
		since, until string
		output       string
	)
	cmd := &cobra.Command{
		Use:   "query [flags]",
		Short: "Print the entries that match",
		Example: `  aiosctl audit query --op denied --agent web --since 1h
  aiosctl audit query --capability c0123456789ab -o json`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if req.SinceUnixNano, err = a.moment("--since", since); err != nil {
				return err
			}
			if req.UntilUnixNano, err = a.moment("--until", until); err != nil {
				return err
			}
			return a.audit(cmd, &req, output)
		},
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "from `TIME` on: a duration ago such as 10m, or RFC 3339")
	f.StringVar(&until, "until", "", "up to `TIME`")
	f.StringVar(&req.Agent, "agent", "", "of `AGENT`, by ID or name")
	f.StringVar(&req.Domain, "domain", "", "of the domain `NAME`")
	f.StringSliceVar(&req.Ops, "op", nil, "`OPERATION`: mint, delegate, attenuate, seal, renew, revoke, expire, lost, denied …")
	f.StringVar(&req.Capability, "capability", "", "about the capability `ID`")
	f.StringVar(&req.Correlation, "correlation", "", "of the request `ID`")
	f.StringVar(&req.Text, "grep", "", "that hold `TEXT`")
	f.Uint32VarP(&req.Last, "lines", "n", 0, "only the last `N`")
	outputFlag(cmd, &output, "json")
	a.completeFlag(cmd, "agent", a.allAgents)
	return cmd
}

// moment reads a time, or a duration before now.
func (a *app) moment(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return a.clock.Now().Add(-d).UnixNano(), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return 0, invalid(flag, s, "neither a duration nor a time", "write 10m for ten minutes ago, or 2026-01-31T12:00:00Z")
	}
	return t.UnixNano(), nil
}

// audit prints entries as they come.
func (a *app) audit(cmd *cobra.Command, req *apiv1.AuditQueryRequest, output string) error {
	asJSON, err := a.wantsJSON(output)
	if err != nil {
		return err
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		stream, err := c.AuditQuery(ctx, req)
		if err != nil {
			return err
		}
		for {
			e, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			case asJSON:
				fmt.Fprintf(a.stdout, "%s\n", e.GetJson()) // One line each, as in the file.
			default:
				if err := a.printEntry(e); err != nil {
					return err
				}
			}
		}
	})
}

// auditEntry is what a person is shown of an entry.
type auditEntry struct {
	Domain      string `json:"domain"`
	Op          string `json:"op"`
	Actor       string `json:"actor"`
	Agent       string `json:"agent"`
	Target      string `json:"target"`
	Cap         string `json:"cap"`
	Parent      string `json:"parent"`
	Spec        string `json:"spec"`
	Errno       string `json:"errno"`
	Reason      string `json:"reason"`
	Count       uint64 `json:"count"`
	Correlation string `json:"correlation"`
}

func (a *app) printEntry(e *apiv1.AuditEntry) error {
	var v auditEntry
	if err := json.Unmarshal(e.GetJson(), &v); err != nil {
		return errdefs.Wrap(err, errdefs.Protocol, "read an audit entry")
	}
	var words []string
	add := func(format, value string) {
		if value != "" {
			words = append(words, fmt.Sprintf(format, value))
		}
	}
	add("%s", v.Agent)
	add("%s", v.Cap)
	add("from %s", v.Parent)
	if v.Op != "denied" { // Its reason says what was missing.
		add("%s", v.Spec)
	}
	switch v.Op {
	case "denied", "logged", "spawn", "exit":
		add("%s", v.Target)
	default:
		add("to %s", v.Target)
	}
	add("%s", v.Errno)
	add("(%s)", v.Reason)
	if v.Count > 1 {
		words = append(words, fmt.Sprintf("×%d", v.Count))
	}
	if v.Actor != v.Agent {
		add("by %s", v.Actor)
	}
	_, err := fmt.Fprintf(a.stdout, "%d %s %-9s %s\n", e.GetSeq(), time.Unix(0, e.GetTimeUnixNano()).In(a.zone).Format("2006-01-02 15:04:05.000"),
		printable(v.Op), printable(strings.Join(words, " ")))
	return err
}

func (a *app) auditVerifyCmd() *cobra.Command {
	var head, output string
	cmd := &cobra.Command{
		Use:   "verify [flags]",
		Short: "Check that nothing was edited, deleted or cut off",
		Long: `Verify follows the chain of hashes through the whole trail. It prints the head, the hash
that stands for all of it: kept elsewhere and given to --head later, it proves that what
was there then is there still. The exit status is 1 when the trail is broken.`,
		Example: "  aiosctl audit verify",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				r, err := c.AuditVerify(ctx, &apiv1.AuditVerifyRequest{Head: head})
				if err != nil {
					return err
				}
				if asJSON {
					err = a.printJSON(viewVerify(r))
				} else {
					a.printVerify(r)
				}
				if err == nil && !r.GetOk() {
					return status(1)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "`HASH` that an earlier verify printed")
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) printVerify(r *apiv1.AuditVerifyResponse) {
	if r.GetOk() {
		fmt.Fprintf(a.stdout, "ok: %d entries, %d to %d, in %d files\nhead: %s\n",
			r.GetEntries(), r.GetFirst(), r.GetLast(), r.GetSegments(), r.GetHead())
	} else {
		fmt.Fprintf(a.stdout, "broken: %s\n", printable(r.GetBroken()))
	}
	for _, n := range r.GetNotes() {
		fmt.Fprintf(a.stdout, "note: %s\n", printable(n))
	}
}
