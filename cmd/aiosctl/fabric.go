package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) fabricCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fabric",
		Short: "Memory that agents share: make, share, take back, versions",
		Long: `Fabric shows and changes regions: memory with a name, a size and an owner, which every agent that holds
a capability to it finds in /aios/fabric and maps: the same pages in all. A region is named by NAME, or
by DOMAIN/NAME where several domains have one of that name.`,
		Example: `  aiosctl fabric create --owner writer --size 64M table
  aiosctl fabric share table reader --rights read --lease 1h
  aiosctl fabric ls
  aiosctl fabric revoke table reader`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(a.fabricCreateCmd(), a.fabricLsCmd(), a.fabricUsageCmd(), a.fabricShowCmd(), a.fabricShareCmd(), a.fabricRevokeCmd(), a.fabricRmCmd(), a.fabricSealCmd(),
		a.fabricSnapshotCmd(), a.fabricRollbackCmd(), a.fabricForkCmd(), a.fabricDiffCmd(), a.fabricDropCmd(),
		a.fabricOpenCmd(), a.fabricCommitCmd())
	return cmd
}

// regionFlags say what a new region is.
type regionFlags struct {
	owner  string
	labels []string
	fixed  bool
	zeros  bool
	keep   uint32
}

func (f *regionFlags) register(a *app, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.owner, "owner", "", "charge it to `AGENT`, which gets every right and with whose end it ends; without, it is the domain's")
	fs.StringArrayVar(&f.labels, "label", nil, "`LABEL` that says what it holds, such as origin=crawler; secret keeps it from agents with network")
	fs.BoolVar(&f.fixed, "fixed", false, "have it mapped at the same address in every agent")
	fs.BoolVar(&f.zeros, "zeros", false, "have who loses the right to it read zeros where it was, instead of SIGBUS")
	fs.Uint32Var(&f.keep, "keep", 0, "keep `N` versions, and forget the oldest when there are more")
	a.completeFlag(cmd, "owner", a.runningAgents)
}

func (a *app) fabricCreateCmd() *cobra.Command {
	var f regionFlags
	var text, domain, output string
	var persistent bool
	cmd := &cobra.Command{
		Use:   "create [flags] --size SIZE NAME",
		Short: "Make a region",
		Long: `Create makes a region of zeros. Its owner is charged for all of it at once, so that nobody who writes to
it can have the owner's memory used up, and gets every right to it.`,
		Example: "  aiosctl fabric create --owner writer --size 64M table\n  aiosctl fabric create --size 1G --label secret --keep 8 keys",
		Args:    exactly(1, "the name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if text == "" {
				return usage(cmd, "--size is missing")
			}
			if err := checkName("region", args[0]); err != nil {
				return err
			}
			n, err := parseSize("--size", text)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.RegionCreate(ctx, &apiv1.RegionCreateRequest{
					Name: args[0], Owner: f.owner, Domain: domain, Size: n, Labels: f.labels, Fixed: f.fixed, Keep: f.keep,
					Persistent: persistent, Zeros: f.zeros,
				})
				if err != nil {
					return a.suggest(ctx, c, err, f.owner)
				}
				return a.showRegion(resp.GetRegion(), asJSON)
			})
		},
	}
	f.register(a, cmd)
	cmd.Flags().StringVar(&text, "size", "", "`SIZE` of it, such as 64M")
	cmd.Flags().BoolVar(&persistent, "persistent", false, "keep what is committed of it in a file of the daemon's")
	cmd.Flags().StringVar(&domain, "domain", "", "`DOMAIN` that it is in, if no agent owns it (default \"default\")")
	a.completeFlag(cmd, "domain", a.domainNames)
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) fabricLsCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls [flags] [AGENT]",
		Short:   "List the regions, or those that an agent holds",
		Example: "  aiosctl fabric ls\n  aiosctl fabric ls reader -o json",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			var req apiv1.RegionListRequest
			if len(args) > 0 {
				req.Agent = args[0]
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.RegionList(ctx, &req)
				switch {
				case err != nil:
					return a.suggest(ctx, c, err, req.Agent)
				case asJSON:
					return a.printJSON(views(resp.GetRegions(), viewRegion))
				}
				return a.regionTable(resp.GetRegions())
			})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) regionTable(regions []*apiv1.Region) error {
	var rows [][]string
	for _, r := range regions {
		state := strings.Join(r.GetLabels(), ",")
		if r.GetDigest() != "" {
			state = strings.TrimPrefix(state+",sealed", ",")
		}
		rows = append(rows, []string{
			r.GetName(), dash(r.GetDomain()), orElse(orElse(r.GetOwnerName(), r.GetOwner()), "-"), size(r.GetSize()), size(r.GetResident()), size(r.GetMapped()),
			strconv.Itoa(int(r.GetVersions())), shortDuration(time.Duration(r.GetAgeNano())), kept(r), dash(state), orElse(r.GetRights(), "-"),
		})
	}
	return a.table([]string{"REGION", "DOMAIN", "OWNER", "SIZE", "RESIDENT", "MAPPED", "VERSIONS", "AGE", "COMMITTED", "LABELS", "RIGHTS"}, rows)
}

// kept says what is on disk of a region: the last version, and how much may differ
// from it now.
func kept(r *apiv1.Region) string {
	switch {
	case !r.GetPersistent():
		return "-"
	case r.GetBroken() != "":
		return "broken"
	case r.GetDirty() > 0:
		return fmt.Sprintf("%d + %s", r.GetCommitted(), size(r.GetDirty()))
	}
	return strconv.FormatUint(r.GetCommitted(), 10)
}

func (a *app) showRegion(r *apiv1.Region, asJSON bool) error {
	if asJSON {
		return a.printJSON(viewRegion(r))
	}
	return a.table([]string{"WHAT", "VALUE"}, regionRows(r))
}

func regionRows(r *apiv1.Region) [][]string {
	address := "anywhere"
	if r.GetAddress() != 0 {
		address = fmt.Sprintf("%#x", r.GetAddress())
	}
	name := r.GetDomain() + "/" + r.GetName()
	if r.GetDomain() == "" {
		name = r.GetName() + " (no domain has it open)"
	}
	return [][]string{
		{"region", name}, {"owner", orElse(orElse(r.GetOwnerName(), r.GetOwner()), "the domain")},
		{"size", size(r.GetSize())}, {"resident", size(r.GetResident())}, {"charged", size(r.GetCharged())}, {"mapped", size(r.GetMapped())},
		{"address", address}, {"labels", dash(strings.Join(r.GetLabels(), ","))}, {"forked from", dash(r.GetLineage())},
		{"digest", dash(r.GetDigest())}, {"versions", strconv.Itoa(int(r.GetVersions()))}, {"age", shortDuration(time.Duration(r.GetAgeNano()))},
		{"committed", orElse(r.GetBroken(), kept(r))}, {"members", fmt.Sprintf("%d, of whom %d wait", r.GetMembers(), r.GetWaiters())},
	}
}

func (a *app) fabricShowCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "show [flags] REGION",
		Short:   "Show a region, its versions, and who holds what of it",
		Example: "  aiosctl fabric show table\n  aiosctl fabric show lab/table -o json",
		Args:    exactly(1, "the region"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.RegionShow(ctx, &apiv1.RegionShowRequest{Region: args[0]})
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(regionShowView{
						viewRegion(resp.GetRegion()), views(resp.GetVersions(), viewVersion), views(resp.GetStored(), viewStored), views(resp.GetCapabilities(), viewCap),
					})
				}
				return a.printRegion(resp)
			})
		},
		ValidArgsFunction: a.completeFirst(a.regionNames),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) printRegion(resp *apiv1.RegionShowResponse) error {
	if err := a.showRegion(resp.GetRegion(), false); err != nil {
		return err
	}
	if vs := resp.GetVersions(); len(vs) > 0 {
		fmt.Fprintln(a.stdout)
		var rows [][]string
		for _, v := range vs {
			rows = append(rows, []string{strconv.Itoa(int(v.GetNumber())), shortDuration(time.Duration(v.GetAgeNano())), size(v.GetCharged()), dash(v.GetComment())})
		}
		if err := a.table([]string{"VERSION", "AGE", "CHARGED", "COMMENT"}, rows); err != nil {
			return err
		}
	}
	if vs := resp.GetStored(); len(vs) > 0 {
		fmt.Fprintln(a.stdout)
		var rows [][]string
		for _, v := range vs {
			at := time.Unix(0, v.GetTimeUnixNano()).UTC().Format(time.DateTime)
			rows = append(rows, []string{strconv.FormatUint(v.GetNumber(), 10), at, size(v.GetBytes()), dash(v.GetComment())})
		}
		if err := a.table([]string{"COMMITTED", "AT (UTC)", "HOLDS", "COMMENT"}, rows); err != nil {
			return err
		}
	}
	if caps := resp.GetCapabilities(); len(caps) > 0 {
		fmt.Fprintln(a.stdout)
		return a.capTable(caps)
	}
	return nil
}

func (a *app) regionNames(ctx context.Context, c *client.Client) ([]string, error) {
	resp, err := c.RegionList(ctx, &apiv1.RegionListRequest{})
	var out []string
	for _, r := range resp.GetRegions() {
		out = append(out, r.GetName())
	}
	return out, err
}

// regionView is what -o json shows of a region.
type regionView struct {
	Name      string   `json:"name"`
	Domain    string   `json:"domain"`
	Owner     string   `json:"owner,omitempty"`
	OwnerName string   `json:"owner_name,omitempty"`
	Size      uint64   `json:"size"`
	Address   uint64   `json:"address,omitempty"`
	Labels    []string `json:"labels"`
	Keep      uint32   `json:"keep,omitempty"`
	Lineage   string   `json:"lineage,omitempty"`
	Digest    string   `json:"digest,omitempty"`
	AgeNano   int64    `json:"age_nano"`
	Resident  uint64   `json:"resident"`
	Charged   uint64   `json:"charged"`
	Mapped    uint64   `json:"mapped"`
	Versions  uint32   `json:"version_count"`
	Rights    string   `json:"rights,omitempty"`

	Members    uint32 `json:"members"`
	Waiters    uint32 `json:"waiters"`
	Persistent bool   `json:"persistent"`
	Committed  uint64 `json:"committed,omitempty"`
	Dirty      uint64 `json:"dirty,omitempty"`
	Zeros      bool   `json:"zeros,omitempty"`
	Broken     string `json:"broken,omitempty"`
}

// storedView is a version in the file of a region.
type storedView struct {
	Number       uint64 `json:"number"`
	Comment      string `json:"comment,omitempty"`
	TimeUnixNano int64  `json:"time_unix_nano"`
	Bytes        uint64 `json:"bytes"`
}

func viewStored(v *apiv1.RegionStored) storedView {
	return storedView{v.GetNumber(), v.GetComment(), v.GetTimeUnixNano(), v.GetBytes()}
}

type versionOfView struct {
	Number  uint32 `json:"number"`
	Comment string `json:"comment,omitempty"`
	AgeNano int64  `json:"age_nano"`
	Charged uint64 `json:"charged"`
}

type regionShowView struct {
	regionView
	Versions     []versionOfView `json:"versions"`
	Stored       []storedView    `json:"stored"`
	Capabilities []capView       `json:"capabilities"`
}

func viewRegion(r *apiv1.Region) regionView {
	return regionView{
		r.GetName(), r.GetDomain(), r.GetOwner(), r.GetOwnerName(), r.GetSize(), r.GetAddress(), orEmpty(r.GetLabels()), r.GetKeep(), r.GetLineage(),
		r.GetDigest(), r.GetAgeNano(), r.GetResident(), r.GetCharged(), r.GetMapped(), r.GetVersions(), r.GetRights(),
		r.GetMembers(), r.GetWaiters(), r.GetPersistent(), r.GetCommitted(), r.GetDirty(), r.GetZeros(), r.GetBroken(),
	}
}

func viewVersion(v *apiv1.RegionVersion) versionOfView {
	return versionOfView{v.GetNumber(), v.GetComment(), v.GetAgeNano(), v.GetCharged()}
}
