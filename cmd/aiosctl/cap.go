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
	"aios.dev/aios/errdefs"
)

func (a *app) capCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cap",
		Short: "Grant, hand on, narrow and take back authority",
		Long: `Cap shows and changes what agents may do. A capability is named by its ID
(c0123456789ab) or by its agent and number there (web#4).`,
		Example: `  aiosctl cap grant web fs:/srv/data:ro
  aiosctl cap ls web
  aiosctl cap revoke web#6`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(a.capLsCmd(), a.capTreeCmd(), a.capGrantCmd(), a.capDelegateCmd(), a.capAttenuateCmd(),
		a.capSealCmd(), a.capRenewCmd(), a.capRevokeCmd(), a.capExplainCmd())
	return cmd
}

// capRef reads ID or AGENT#HANDLE.
func capRef(s string) (*apiv1.CapRef, error) {
	agent, number, numbered := strings.Cut(s, "#")
	if !numbered {
		return &apiv1.CapRef{Id: s}, nil
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || n == 0 || agent == "" {
		return nil, invalid("capability", s, "not a capability", "write its ID, or AGENT#NUMBER, as `aiosctl cap ls` shows them")
	}
	return &apiv1.CapRef{Agent: agent, Handle: n}, nil
}

// changeFlags narrow a capability.
type changeFlags struct {
	object, rights, at string
	limits             []string
	lease              time.Duration
	badge              uint64
	sealed             bool
}

func (f *changeFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.object, "object", "", "`OBJECT` within the present one, such as a directory below")
	fs.StringVar(&f.rights, "rights", "", "`RIGHTS` to keep, joined by '+', such as read+exec")
	fs.StringArrayVar(&f.limits, "limit", nil, "`KEY=VALUE` as in a grant, such as quota=100M")
	fs.DurationVar(&f.lease, "lease", 0, "`TIME` after which it ends, such as 30s")
	fs.Uint64Var(&f.badge, "badge", 0, "`NUMBER` by which whoever is asked can tell it")
	fs.BoolVar(&f.sealed, "sealed", false, "nothing further can be derived from it")
}

func (f *changeFlags) message(cmd *cobra.Command) *apiv1.CapChange {
	m := &apiv1.CapChange{Limits: f.limits, Sealed: f.sealed}
	for flag, set := range map[string]func(){
		"object": func() { m.Object = &f.object },
		"rights": func() { m.Rights = &f.rights },
		"at":     func() { m.At = &f.at },
		"lease":  func() { n := int64(f.lease); m.LeaseNano = &n },
		"badge":  func() { m.Badge = &f.badge },
	} {
		if cmd.Flags().Changed(flag) {
			set()
		}
	}
	return m
}

func (a *app) capLsCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls [flags] [AGENT]",
		Short:   "List the capabilities of an agent, or of all",
		Example: "  aiosctl cap ls web\n  aiosctl cap ls -o json | jq -r '.[].spec'",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.listCaps(cmd, args, output, a.capTable)
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// listCaps fetches and shows capabilities.
func (a *app) listCaps(cmd *cobra.Command, args []string, output string, show func([]*apiv1.Capability) error) error {
	json, err := a.wantsJSON(output)
	if err != nil {
		return err
	}
	agent := ""
	if len(args) > 0 {
		agent = args[0]
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		resp, err := c.CapList(ctx, &apiv1.CapListRequest{Agent: agent})
		switch {
		case err != nil:
			return a.suggest(ctx, c, err, agent)
		case json:
			return a.printJSON(views(resp.GetCapabilities(), viewCap))
		}
		return show(resp.GetCapabilities())
	})
}

func (a *app) capTable(caps []*apiv1.Capability) error {
	rows := make([][]string, 0, len(caps))
	for _, c := range caps {
		rows = append(rows, []string{capName(c), c.GetId(), c.GetSpec(), dash(c.GetRest()), a.lease(c), dash(capFrom(c))})
	}
	return a.table([]string{"CAPABILITY", "ID", "GRANT", "LEFT", "LEASE", "FROM"}, rows)
}

// capName is AGENT#HANDLE, or who has it now.
func capName(c *apiv1.Capability) string {
	holder := orElse(c.GetAgentName(), c.GetAgent())
	switch {
	case c.GetRemote() != "":
		return "in " + c.GetRemote()
	case c.GetHandle() == 0:
		return holder
	}
	return fmt.Sprintf("%s#%d", holder, c.GetHandle())
}

func capFrom(c *apiv1.Capability) string {
	return orElse(c.GetParent(), c.GetOrigin())
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

func (a *app) lease(c *apiv1.Capability) string {
	if c.GetLeaseNano() == 0 {
		return "-"
	}
	return shortDuration(time.Duration(c.GetLeaseNano()))
}

func (a *app) capTreeCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "tree [flags] [AGENT]",
		Short:   "Show who has what from whom",
		Example: "  aiosctl cap tree\n  aiosctl cap tree web",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.listCaps(cmd, args, output, a.capTree)
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// capTree draws the derivation tree. A capability whose parent is not shown,
// being of another agent, is a root.
func (a *app) capTree(caps []*apiv1.Capability) error {
	known := make(map[string]bool, len(caps))
	for _, c := range caps {
		known[c.GetId()] = true
	}
	below := make(map[string][]*apiv1.Capability)
	for _, c := range caps {
		parent := capFrom(c)
		if !known[parent] {
			parent = ""
		}
		below[parent] = append(below[parent], c)
	}
	var draw func(parent, indent string)
	draw = func(parent, indent string) {
		children := below[parent]
		for i, c := range children {
			branch, next := "├─ ", "│  "
			if i == len(children)-1 {
				branch, next = "└─ ", "   "
			}
			if parent == "" {
				branch, next = "", ""
			}
			fmt.Fprintf(a.stdout, "%s%s%s  %s  %s\n", indent, branch, printable(capName(c)), c.GetId(), printable(c.GetSpec()))
			draw(c.GetId(), indent+next)
		}
	}
	draw("", "")
	return nil
}

func (a *app) capGrantCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "grant [flags] AGENT GRANT…",
		Short: "Give a running agent more: all of it or none",
		Long: `Grant gives a running agent capabilities, each as CLASS:OBJECT[:RIGHTS][,KEY=VALUE]…
Files appear inside at once, at the same path unless at=PATH says another.`,
		Example: `  aiosctl cap grant web fs:/srv/data:ro
  aiosctl cap grant web fs:.:rw,at=/work,quota=1G,lease=10m net:loopback`,
		Args: atLeast(2, "the agent or the grant"),
		RunE: func(cmd *cobra.Command, args []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			grants, err := parseGrants(args[1:])
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.CapGrant(ctx, &apiv1.CapGrantRequest{Agent: args[0], Grants: grants})
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if json {
					return a.printJSON(views(resp.GetCapabilities(), viewCap))
				}
				return a.capTable(resp.GetCapabilities())
			})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) capDelegateCmd() *cobra.Command {
	var (
		f    changeFlags
		move bool
	)
	cmd := &cobra.Command{
		Use:   "delegate [flags] CAPABILITY AGENT",
		Short: "Hand a capability, or part of it, to another agent",
		Long: `Delegate derives a capability for another agent, in any domain. It never holds more
than the one it comes from, and dies with it. Limits that can be divided are taken from
the giver.`,
		Example: `  aiosctl cap delegate web#6 worker --rights read --lease 10m
  aiosctl cap delegate web#6 worker --object /srv/data/in --at /in --limit quota=100M`,
		Args: exactly(2, "the capability or the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := capRef(args[0])
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.CapDelegate(ctx, &apiv1.CapDelegateRequest{Capability: ref, To: args[1], Change: f.message(cmd), Move: move})
				if err != nil {
					return a.suggest(ctx, c, err, args[1])
				}
				return a.capTable([]*apiv1.Capability{resp.GetCapability()})
			})
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&f.at, "at", "", "`PATH` where files appear inside (default: the same path)")
	cmd.Flags().BoolVar(&move, "move", false, "the giver keeps nothing")
	return cmd
}

func (a *app) capAttenuateCmd() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{
		Use:   "attenuate [flags] CAPABILITY",
		Short: "Narrow a capability in place, at once",
		Long: `Attenuate takes away from a capability while it is in use: what it no longer allows
fails from now on, on files that are open too.`,
		Example: "  aiosctl cap attenuate web#6 --rights read\n  aiosctl cap attenuate web#1 --limit bytes=128M",
		Args:    exactly(1, "the capability"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := capRef(args[0])
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.CapAttenuate(ctx, &apiv1.CapAttenuateRequest{Capability: ref, Change: f.message(cmd)})
				if err != nil {
					return a.suggest(ctx, c, err, ref.GetAgent())
				}
				return a.capTable([]*apiv1.Capability{resp.GetCapability()})
			})
		},
	}
	f.register(cmd)
	return cmd
}

func (a *app) capSealCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "seal CAPABILITY",
		Short:   "Forbid to hand a capability on",
		Example: "  aiosctl cap seal web#6",
		Args:    exactly(1, "the capability"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := capRef(args[0])
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				_, err := c.CapSeal(ctx, &apiv1.CapSealRequest{Capability: ref})
				return a.suggest(ctx, c, err, ref.GetAgent())
			})
		},
	}
}

func (a *app) capRenewCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "renew CAPABILITY TIME",
		Short:   "Let a lease end that much from now",
		Example: "  aiosctl cap renew web#6 10m",
		Args:    exactly(2, "the capability or the time"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := capRef(args[0])
			if err != nil {
				return err
			}
			d, err := time.ParseDuration(args[1])
			if err != nil || d <= 0 {
				return invalid("time", args[1], "not a time", "write a number with a unit, such as 30s or 10m")
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.CapRenew(ctx, &apiv1.CapRenewRequest{Capability: ref, LeaseNano: int64(d)})
				if err != nil {
					return a.suggest(ctx, c, err, ref.GetAgent())
				}
				return a.capTable([]*apiv1.Capability{resp.GetCapability()})
			})
		},
	}
}

func (a *app) capRevokeCmd() *cobra.Command {
	var (
		keep          bool
		allOf, reason string
	)
	cmd := &cobra.Command{
		Use:   "revoke [flags] {CAPABILITY… | --all-of AGENT}",
		Short: "Take authority back, at once and with all that came of it",
		Long: `Revoke ends capabilities and everything that was derived from them, in every domain.
When it returns, open files under them fail, mappings are gone, blocked calls have
returned.`,
		Example: `  aiosctl cap revoke web#6
  aiosctl cap revoke --keep-self c0123456789ab   # only what others got through it
  aiosctl cap revoke --all-of web --reason "leaked data"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (allOf == "") {
				return usage(cmd, "name capabilities, or an agent with --all-of")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			reqs := []*apiv1.CapRevokeRequest{{AllOf: allOf, Reason: reason}}
			if allOf == "" {
				reqs = nil
				for _, s := range args {
					ref, err := capRef(s)
					if err != nil {
						return err
					}
					reqs = append(reqs, &apiv1.CapRevokeRequest{Capability: ref, KeepSelf: keep, Reason: reason})
				}
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				for _, r := range reqs {
					resp, err := c.CapRevoke(ctx, r)
					if err != nil {
						return a.suggest(ctx, c, err, orElse(allOf, r.GetCapability().GetAgent()))
					}
					fmt.Fprintf(a.stdout, "revoked %s\n", revoked(resp))
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&keep, "keep-self", false, "only what was derived from it, not the capability itself")
	f.StringVar(&allOf, "all-of", "", "everything that `AGENT` holds")
	f.StringVar(&reason, "reason", "", "`WHY`, for the audit trail")
	a.completeFlag(cmd, "all-of", a.runningAgents)
	return cmd
}

func revoked(r *apiv1.CapRevokeResponse) string {
	s := fmt.Sprintf("%d capabilities", r.GetCount())
	if r.GetCount() == 1 {
		s = "1 capability"
	}
	if len(r.GetAgents()) > 0 {
		s += " of " + strings.Join(r.GetAgents(), ", ")
	}
	return s
}

func (a *app) capExplainCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "explain [flags] AGENT OPERATION…",
		Short: "Say what would happen if an agent did something, and why",
		Long: `Explain answers without doing anything. The exit status is 0 if the operation would be
allowed and 1 if it would be refused.`,
		Example: `  aiosctl cap explain web open /etc/shadow
  aiosctl cap explain web connect 127.0.0.1:80
  aiosctl cap explain web syscall mount`,
		Args: atLeast(2, "the agent or the operation"),
		RunE: func(cmd *cobra.Command, args []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.CapExplain(ctx, &apiv1.CapExplainRequest{Agent: args[0], Operation: strings.Join(args[1:], " ")})
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if json {
					err = a.printJSON(viewExplain(resp))
				} else {
					a.printExplain(resp)
				}
				if err == nil && !resp.GetAllowed() {
					return status(1)
				}
				return err
			})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	cmd.Flags().SetInterspersed(false)
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) printExplain(r *apiv1.CapExplainResponse) {
	verdict := "allowed"
	if !r.GetAllowed() {
		verdict = "refused"
		if e := r.GetErrno(); e != "" {
			verdict += " with " + e
		}
	}
	fmt.Fprintf(a.stdout, "%s: %s\n", verdict, printable(r.GetWhy()))
	if c := r.GetCapability(); c != "" {
		fmt.Fprintf(a.stdout, "through: %s\n", printable(c))
	}
	if m := r.GetMissing(); m != "" {
		fmt.Fprintf(a.stdout, "missing: %s\n", printable(m))
	}
}

// atMost allows up to n arguments.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usage(cmd, fmt.Sprintf("unexpected argument %q", args[n]))
		}
		return nil
	}
}

// parseGrants makes relative directories absolute, since the daemon's own
// directory means nothing to whoever types.
func parseGrants(texts []string) ([]string, error) {
	out := make([]string, len(texts))
	for i, t := range texts {
		g, err := absoluteGrant(t)
		if err != nil {
			return nil, errdefs.Wrap(err, errdefs.CapabilityInvalid, "--grant", errdefs.Resource("%q", t))
		}
		out[i] = g
	}
	return out, nil
}
