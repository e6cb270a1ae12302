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
	"aios.dev/aios/config"
)

func (a *app) alertCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "alert COMMAND",
		RunE:  group,
		Short: "Show and silence alerts",
		Long: `An alert is a rule over events and counters, and what is done while it holds. The daemon's
configuration file says which there are; see docs/alerts.md.`,
		Example: "  aiosctl alert ls\n  aiosctl alert silence hog --agent web --for 1h",
	}
	cmd.AddCommand(a.alertListCmd(), a.alertShowCmd(), a.alertSilenceCmd(), a.alertUnsilenceCmd())
	return cmd
}

func (a *app) alertListCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List alerts: how they stand, and what is silenced",
		Long: `Ls lists the alerts in the order of the configuration file. STATE is that of the group that is worst
off: ok, pending while the rule has not held for long enough, or firing. FIRING are the agents or
domains for which it fires, FIRED counts how often it has since the daemon started.`,
		Example: "  aiosctl alert ls\n  aiosctl alert ls -o json | jq -r '.alerts[] | select(.state == \"firing\") | .name'",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.AlertList(ctx, &apiv1.AlertListRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(viewAlerts(resp))
				}
				return a.printAlerts(resp)
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) alertShowCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "show [flags] ALERT",
		Short:   "Show an alert and the agents or domains that it is about",
		Example: "  aiosctl alert show hog",
		Args:    exactly(1, "the alert"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.AlertList(ctx, &apiv1.AlertListRequest{Rule: args[0]})
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(viewAlert(resp.GetRules()[0]))
				}
				return a.printAlert(resp)
			})
		},
		ValidArgsFunction: a.completeFirst(alertNames),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) alertSilenceCmd() *cobra.Command {
	var agent, length, reason string
	cmd := &cobra.Command{
		Use:   "silence [flags] ALERT",
		Short: "Keep an alert from being told and acted on, for a while",
		Long: `Silence keeps an alert from being told and from being acted on until the time is over. It is looked
at and counted all the same; one that still fires then is told and acted on. What is in force is
lifted when the alert fires no longer, silenced or not. A silence outlives the daemon. Another one
for the same alert and agent takes its place.`,
		Example: "  aiosctl alert silence hog --for 1h\n  aiosctl alert silence hog --agent web --for 7d --reason 'known, see #12'",
		Args:    exactly(1, "the alert"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := config.ParseDuration(length)
			if err != nil || d == 0 {
				return invalid("--for", length, "it is not said for how long", "write a number with a unit, such as 30m, 2h or 7d")
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.AlertSilence(ctx, &apiv1.AlertSilenceRequest{Rule: args[0], Agent: agent, ForNano: int64(d), Reason: reason})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(a.stdout, "silenced until %s\n", time.Unix(0, resp.GetUntilUnixNano()).Format(time.DateTime))
				return err
			})
		},
		ValidArgsFunction: a.completeFirst(alertNames),
	}
	cmd.Flags().StringVar(&length, "for", "", "for this `TIME`, such as 30m, 2h or 7d")
	cmd.Flags().StringVar(&agent, "agent", "", "for the `AGENT` alone")
	cmd.Flags().StringVar(&reason, "reason", "", "`WHY`, for who looks later")
	a.completeFlag(cmd, "agent", a.allAgents)
	return cmd
}

func (a *app) alertUnsilenceCmd() *cobra.Command {
	var agent string
	cmd := &cobra.Command{
		Use:     "unsilence [flags] ALERT",
		Short:   "End a silence",
		Example: "  aiosctl alert unsilence hog --agent web",
		Args:    exactly(1, "the alert"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				_, err := c.AlertUnsilence(ctx, &apiv1.AlertUnsilenceRequest{Rule: args[0], Agent: agent})
				return err
			})
		},
		ValidArgsFunction: a.completeFirst(alertNames),
	}
	cmd.Flags().StringVar(&agent, "agent", "", "the silence for the `AGENT` alone")
	a.completeFlag(cmd, "agent", a.allAgents)
	return cmd
}

func alertNames(ctx context.Context, c *client.Client) (names []string, err error) {
	resp, err := c.AlertList(ctx, &apiv1.AlertListRequest{})
	for _, r := range resp.GetRules() {
		names = append(names, r.GetName())
	}
	return names, err
}

// alertsView is what -o json shows of all alerts.
type alertsView struct {
	Alerts   []alertView   `json:"alerts"`
	Silences []silenceView `json:"silences"`
	Missed   uint64        `json:"missed"`
}

type alertView struct {
	Name      string           `json:"name"`
	State     string           `json:"state"`
	Kind      string           `json:"kind"`
	By        string           `json:"by"`
	Severity  string           `json:"severity"`
	Condition string           `json:"condition"`
	Filter    string           `json:"filter,omitempty"`
	Actions   []string         `json:"actions"`
	Note      string           `json:"note,omitempty"`
	Hold      int64            `json:"hold_ns"`
	Groups    []alertGroupView `json:"groups"`
	Fired     uint64           `json:"fired"`
	Crowded   uint64           `json:"crowded"`
	Failed    uint64           `json:"failed"`
	Error     string           `json:"error,omitempty"`
	ErrorAt   *time.Time       `json:"error_at,omitempty"`
}

type alertGroupView struct {
	Agent    string     `json:"agent,omitempty"`
	Name     string     `json:"name,omitempty"`
	Domain   string     `json:"domain,omitempty"`
	State    string     `json:"state"`
	Since    *time.Time `json:"since,omitempty"`
	Value    float64    `json:"value"`
	Told     bool       `json:"told"`
	Silenced *time.Time `json:"silenced,omitempty"`
	Fired    uint64     `json:"fired"`
	InForce  []string   `json:"in_force"`
}

type silenceView struct {
	Alert  string     `json:"alert"`
	Agent  string     `json:"agent,omitempty"`
	Name   string     `json:"name,omitempty"`
	Until  *time.Time `json:"until,omitempty"`
	By     string     `json:"by"`
	Reason string     `json:"reason,omitempty"`
	Muted  uint64     `json:"muted"`
}

func viewAlerts(resp *apiv1.AlertListResponse) alertsView {
	return alertsView{views(resp.GetRules(), viewAlert), views(resp.GetSilences(), viewSilence), resp.GetMissed()}
}

func viewAlert(r *apiv1.AlertRule) alertView {
	state, _ := alertState(r)
	return alertView{
		r.GetName(), state, r.GetKind(), r.GetBy(), r.GetSeverity(), r.GetCondition(), r.GetFilter(), orEmpty(r.GetActions()), r.GetNote(),
		r.GetHoldNano(), views(r.GetGroups(), viewAlertGroup), r.GetFired(), r.GetCrowded(), r.GetFailed(), r.GetError(), viewTime(r.GetErrorUnixNano()),
	}
}

func viewAlertGroup(g *apiv1.AlertGroup) alertGroupView {
	return alertGroupView{
		g.GetAgent(), g.GetAgentName(), g.GetDomain(), g.GetState(), viewTime(g.GetSinceUnixNano()), g.GetValue(), g.GetTold(),
		viewTime(g.GetSilencedUnixNano()), g.GetFired(), orEmpty(g.GetInForce()),
	}
}

func viewSilence(s *apiv1.AlertSilenced) silenceView {
	return silenceView{s.GetRule(), s.GetAgent(), s.GetAgentName(), viewTime(s.GetUntilUnixNano()), s.GetBy(), s.GetReason(), s.GetMuted()}
}

// alertState is the state of the group that is worst off, and of whom it fires.
func alertState(r *apiv1.AlertRule) (state string, firing []string) {
	state = "ok"
	for _, g := range r.GetGroups() {
		switch g.GetState() {
		case "firing":
			state = "firing"
			firing = append(firing, alertGroupName(r, g))
		case "pending":
			if state == "ok" {
				state = "pending"
			}
		}
	}
	return state, firing
}

// alertGroupName is what a group stands for.
func alertGroupName(r *apiv1.AlertRule, g *apiv1.AlertGroup) string {
	switch r.GetBy() {
	case "agent":
		return orElse(g.GetAgentName(), g.GetAgent())
	case "domain":
		return g.GetDomain()
	}
	return "all"
}

// maxFiring is how many groups a line names.
const maxFiring = 3

func (a *app) printAlerts(resp *apiv1.AlertListResponse) error {
	count := func(n uint64) string { return strconv.FormatUint(n, 10) }
	var rows [][]string
	for _, r := range resp.GetRules() {
		state, firing := alertState(r)
		if n := len(firing); n > maxFiring {
			firing = append(firing[:maxFiring], fmt.Sprintf("%d more", n-maxFiring))
		}
		rows = append(rows, []string{
			r.GetName(), state, r.GetSeverity(), printable(r.GetCondition()), dash(strings.Join(r.GetActions(), ",")), dash(strings.Join(firing, ", ")),
			count(r.GetFired()),
		})
	}
	if err := a.table([]string{"NAME", "STATE", "SEVERITY", "WHEN", "ACTIONS", "FIRING", "FIRED"}, rows); err != nil {
		return err
	}
	if len(resp.GetSilences()) > 0 {
		fmt.Fprintln(a.stdout)
		if err := a.printSilences(resp.GetSilences()); err != nil {
			return err
		}
	}
	for _, r := range resp.GetRules() {
		a.printAlertTrouble(r)
	}
	if n := resp.GetMissed(); n > 0 {
		fmt.Fprintf(a.stdout, "\n%d events came faster than they could be looked at\n", n)
	}
	return nil
}

func (a *app) printSilences(all []*apiv1.AlertSilenced) error {
	var rows [][]string
	for _, s := range all {
		left := time.Unix(0, s.GetUntilUnixNano()).Sub(a.clock.Now())
		rows = append(rows, []string{
			s.GetRule(), dash(orElse(s.GetAgentName(), s.GetAgent())), shortDuration(left), strconv.FormatUint(s.GetMuted(), 10), dash(s.GetBy()),
			dash(printable(s.GetReason())),
		})
	}
	return a.table([]string{"SILENCED", "AGENT", "STILL", "MUTED", "BY", "WHY"}, rows)
}

// printAlertTrouble says what keeps an alert from doing what it is for.
func (a *app) printAlertTrouble(r *apiv1.AlertRule) {
	if r.GetError() != "" {
		fmt.Fprintf(a.stdout, "\n%s: %d actions failed, the latest %s ago: %s\n", r.GetName(), r.GetFailed(), a.age(r.GetErrorUnixNano()), printable(r.GetError()))
	}
	if r.GetCrowded() > 0 {
		fmt.Fprintf(a.stdout, "\n%s: it has as many groups as it may, and %d events or samples were for none\n", r.GetName(), r.GetCrowded())
	}
}

func (a *app) printAlert(resp *apiv1.AlertListResponse) error {
	r := resp.GetRules()[0]
	state, _ := alertState(r)
	for _, line := range [][2]string{
		{"name", r.GetName()}, {"state", state}, {"when", r.GetCondition()}, {"filter", r.GetFilter()}, {"by", r.GetBy()},
		{"severity", r.GetSeverity()}, {"actions", strings.Join(r.GetActions(), ", ")}, {"note", r.GetNote()},
		{"fired", strconv.FormatUint(r.GetFired(), 10)},
	} {
		if line[1] != "" {
			fmt.Fprintf(a.stdout, "%-10s%s\n", line[0], printable(line[1]))
		}
	}
	if len(r.GetGroups()) > 0 {
		var rows [][]string
		for _, g := range r.GetGroups() {
			silenced := "-"
			if at := g.GetSilencedUnixNano(); at != 0 {
				silenced = shortDuration(time.Unix(0, at).Sub(a.clock.Now()))
			}
			since := "-"
			if g.GetState() != "ok" || g.GetFired() > 0 {
				since = a.age(g.GetSinceUnixNano())
			}
			rows = append(rows, []string{
				alertGroupName(r, g), g.GetState(), since, dash(g.GetShown()), strconv.FormatUint(g.GetFired(), 10),
				dash(strings.Join(g.GetInForce(), ",")), silenced,
			})
		}
		fmt.Fprintln(a.stdout)
		if err := a.table([]string{strings.ToUpper(orElse(map[string]string{"none": "for"}[r.GetBy()], r.GetBy())), "STATE", "SINCE", "VALUE", "FIRED", "IN FORCE", "SILENCED"}, rows); err != nil {
			return err
		}
	}
	if len(resp.GetSilences()) > 0 {
		fmt.Fprintln(a.stdout)
		if err := a.printSilences(resp.GetSilences()); err != nil {
			return err
		}
	}
	a.printAlertTrouble(r)
	return nil
}
