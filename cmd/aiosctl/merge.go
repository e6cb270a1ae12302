package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

type mergeView struct {
	Into          string              `json:"into"`
	Merged        bool                `json:"merged"`
	Changes       []mergeChangeView   `json:"changes"`
	Conflicts     []mergeConflictView `json:"conflicts"`
	ChangeCount   uint32              `json:"change_count"`
	ConflictCount uint32              `json:"conflict_count"`
	Pause         int64               `json:"pause_ns"`
}

type mergeChangeView struct {
	Path   string `json:"path"`
	Change string `json:"change"`
	Bytes  uint64 `json:"bytes"`
}

type mergeConflictView struct {
	Path string `json:"path"`
	Kind string `json:"kind"`
}

func viewMerge(resp *apiv1.MergeResponse) mergeView {
	v := mergeView{
		Into: resp.GetInto(), Merged: resp.GetMerged(), Changes: []mergeChangeView{}, Conflicts: []mergeConflictView{},
		ChangeCount: resp.GetChangeCount(), ConflictCount: resp.GetConflictCount(), Pause: resp.GetPauseNanos(),
	}
	for _, c := range resp.GetChanges() {
		v.Changes = append(v.Changes, mergeChangeView{c.GetPath(), c.GetChange(), c.GetBytes()})
	}
	for _, c := range resp.GetConflicts() {
		v.Conflicts = append(v.Conflicts, mergeConflictView{c.GetPath(), c.GetKind()})
	}
	return v
}

func (a *app) mergeCmd() *cobra.Command {
	var (
		req                 apiv1.MergeRequest
		ours, theirs, abort bool
		output              string
	)
	cmd := &cobra.Command{
		Use:   "merge [flags] COPY",
		Short: "Fold a copy back into the agent that it is a copy of",
		Long: `Merge does to the files of an agent what a copy of it has changed in its own since it
was made, gives back what the copy had of the agent's budget, and ends the copy. All of it
is done, or nothing; both stand still meanwhile. What both have changed, in different ways,
is a conflict: they are listed, and nothing is done unless --ours or --theirs decides.
A region that the copy has forked of one of the agent's is merged page by page, if
--region names it. docs/clone.md says what is merged, and what programs see of it.`,
		Example: `  aiosctl merge --dry-run trial
  aiosctl merge trial
  aiosctl merge --theirs trial`,
		Args: exactly(1, "the copy"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Agent = args[0]
			switch {
			case ours && theirs, abort && (ours || theirs):
				return usage(cmd, "--ours, --theirs and --abort exclude each other")
			case ours:
				req.Conflicts = "ours"
			case theirs:
				req.Conflicts = "theirs"
			}
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Merge(ctx, &req)
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if asJSON {
					err = a.printJSON(viewMerge(resp))
				} else {
					err = a.printMerge(resp, req.GetDryRun())
				}
				if err != nil || resp.GetMerged() || resp.GetConflictCount() == 0 || req.GetConflicts() != "" {
					return err
				}
				return errdefs.Newf(errdefs.MergeConflict, "%s; nothing was merged", counted(resp.GetConflictCount(), "conflict")).
					With(errdefs.Resource("%s", args[0]), errdefs.Fix("say whose side is taken of these: --ours, which is the agent's, or --theirs, the copy's"))
			})
		},
		ValidArgsFunction: a.complete(a.runningAgents),
	}
	f := cmd.Flags()
	f.StringVar(&req.Into, "into", "", "fail unless the copy is one of `AGENT`")
	f.BoolVar(&req.DryRun, "dry-run", false, "show what would change, and change nothing")
	f.StringArrayVar(&req.Regions, "region", nil, "also merge `REGION`, the copy's fork of one of the agent's; may be repeated")
	f.BoolVar(&ours, "ours", false, "in conflicts keep what the agent has")
	f.BoolVar(&theirs, "theirs", false, "in conflicts take what the copy has")
	f.BoolVar(&abort, "abort", false, "change nothing if there are conflicts; the default")
	outputFlag(cmd, &output, "json")
	return cmd
}

func counted(n uint32, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// printMerge lists changes and conflicts, and says what was done.
func (a *app) printMerge(resp *apiv1.MergeResponse, dry bool) error {
	var rows [][]string
	for _, c := range resp.GetConflicts() {
		rows = append(rows, []string{"conflict", c.GetPath(), c.GetKind()})
	}
	for _, c := range resp.GetChanges() {
		bytes := "-"
		if c.GetBytes() > 0 {
			bytes = size(c.GetBytes())
		}
		rows = append(rows, []string{c.GetChange(), c.GetPath(), bytes})
	}
	if len(rows) > 0 {
		if err := a.table([]string{"CHANGE", "PATH", "WHAT"}, rows); err != nil {
			return err
		}
	}
	if left := int(resp.GetChangeCount()+resp.GetConflictCount()) - len(rows); left > 0 {
		fmt.Fprintf(a.stdout, "and %d more\n", left)
	}
	var err error
	switch {
	case resp.GetMerged():
		_, err = fmt.Fprintf(a.stdout, "merged %s into %s; both stood still for %s\n", counted(resp.GetChangeCount(), "change"), resp.GetInto(),
			time.Duration(resp.GetPauseNanos()).Round(10*time.Microsecond))
	case dry:
		_, err = fmt.Fprintf(a.stdout, "%s would be merged into %s\n", counted(resp.GetChangeCount(), "change"), resp.GetInto())
	}
	return err
}
