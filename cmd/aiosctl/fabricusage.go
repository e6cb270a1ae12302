package main

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

// tagsOfRegions are what regions are accounted by: each says under which names a
// region counts.
var tagsOfRegions = map[string]func(r *apiv1.Region, all []*apiv1.Region) []string{
	"label": func(r *apiv1.Region, _ []*apiv1.Region) []string { return r.GetLabels() },
	"owner": func(r *apiv1.Region, _ []*apiv1.Region) []string {
		switch name := orElse(r.GetOwnerName(), r.GetOwner()); {
		case name != "":
			return []string{name}
		case r.GetDomain() != "":
			return []string{"domain " + r.GetDomain()}
		}
		return nil // On disk only.
	},
	"lineage": func(r *apiv1.Region, all []*apiv1.Region) []string { return []string{ancestor(r, all)} },
}

// ancestor is the region of which r is a fork, or a fork of a fork; itself if it is none.
func ancestor(r *apiv1.Region, all []*apiv1.Region) string {
	for range len(all) {
		from, _, forked := strings.Cut(r.GetLineage(), "@")
		if !forked {
			break
		}
		i := slices.IndexFunc(all, func(x *apiv1.Region) bool { return x.GetName() == from && x.GetDomain() == r.GetDomain() })
		if i < 0 || all[i] == r {
			return from // It has been removed.
		}
		r = all[i]
	}
	return r.GetName()
}

// usageView is what regions of one tag have together.
type usageView struct {
	Tag      string `json:"tag"` // "" for those that have none
	Regions  int    `json:"regions"`
	Size     uint64 `json:"size"`
	Charged  uint64 `json:"charged"`
	Resident uint64 `json:"resident"`
	Mapped   uint64 `json:"mapped"`
}

// regionUsage accounts for regions by a tag, the most charged first.
func regionUsage(regions []*apiv1.Region, by string) []usageView {
	sums := make(map[string]*usageView)
	for _, r := range regions {
		tags := tagsOfRegions[by](r, regions)
		if len(tags) == 0 {
			tags = []string{""}
		}
		for _, tag := range tags {
			u := sums[tag]
			if u == nil {
				u = &usageView{Tag: tag}
				sums[tag] = u
			}
			u.Regions++
			u.Size += r.GetSize()
			u.Charged += r.GetCharged()
			u.Resident += r.GetResident()
			u.Mapped += r.GetMapped()
		}
	}
	out := []usageView{}
	for _, u := range sums {
		out = append(out, *u)
	}
	slices.SortFunc(out, func(x, y usageView) int {
		return cmp.Or(cmp.Compare(y.Charged, x.Charged), cmp.Compare(x.Tag, y.Tag))
	})
	return out
}

func (a *app) fabricUsageCmd() *cobra.Command {
	var by, output string
	cmd := &cobra.Command{
		Use:   "usage [flags] [AGENT]",
		Short: "Say how much memory the regions of each label, owner or lineage have",
		Long: `Usage adds up regions, or those that an agent holds, by what they are tagged with: their labels, whose
they are, or what they were forked from. One with several labels counts for each of them.`,
		Example: "  aiosctl fabric usage\n  aiosctl fabric usage --by owner\n  aiosctl fabric usage --by lineage -o json",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if tagsOfRegions[by] == nil {
				return invalid("--by", by, "nothing that regions are tagged with", "write label, owner or lineage")
			}
			var req apiv1.RegionListRequest
			if len(args) > 0 {
				req.Agent = args[0]
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.RegionList(ctx, &req)
				if err != nil {
					return a.suggest(ctx, c, err, req.Agent)
				}
				all := regionUsage(resp.GetRegions(), by)
				if asJSON {
					return a.printJSON(all)
				}
				var rows [][]string
				for _, u := range all {
					rows = append(rows, []string{dash(u.Tag), strconv.Itoa(u.Regions), size(u.Size), size(u.Charged), size(u.Resident), size(u.Mapped)})
				}
				return a.table([]string{strings.ToUpper(by), "REGIONS", "SIZE", "CHARGED", "RESIDENT", "MAPPED"}, rows)
			})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	cmd.Flags().StringVar(&by, "by", "label", "add up those of one `TAG`: label, owner or lineage")
	outputFlag(cmd, &output, "json")
	return cmd
}
