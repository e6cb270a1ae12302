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

// What `aiosctl health` exits with.
const (
	healthDegraded = 1
	healthFailed   = 2
)

type healthView struct {
	Worst      string                `json:"worst"`
	Components []healthComponentView `json:"components"`
	Watchdogs  []watchdogView        `json:"watchdogs"`
	Breakers   []breakerView         `json:"breakers"`
	Restarts   []restartsView        `json:"restarts"`
}

type watchdogView struct {
	Of      string `json:"of"`
	Name    string `json:"name"`
	State   string `json:"state"`
	Timeout int64  `json:"timeout_nanos"`
	Unfed   int64  `json:"unfed_nanos"`
	Expired uint64 `json:"expired"`
}

type breakerView struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`
	Failures uint32    `json:"failures"`
	Opened   uint64    `json:"opened"`
	Refused  uint64    `json:"refused"`
	Since    time.Time `json:"since"`
	RetryIn  int64     `json:"retry_in_nanos,omitempty"`
	Error    string    `json:"error,omitempty"`
}

type restartsView struct {
	Of    string     `json:"of"`
	When  string     `json:"when"`
	Count uint64     `json:"count"`
	Left  uint32     `json:"left"`
	Next  *time.Time `json:"next,omitempty"`
	Ended string     `json:"ended,omitempty"`
}

type healthComponentView struct {
	Name   string    `json:"name"`
	Level  string    `json:"level"`
	Reason string    `json:"reason,omitempty"`
	Fix    string    `json:"fix,omitempty"`
	Since  time.Time `json:"since"`
}

func (a *app) healthCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "health [flags]",
		Short: "Show how the daemon, its domains and what they need are",
		Long: `Health asks every part, now: the daemon, its domains, and what they need. Below are the
watchdogs of agents and those that have ever expired, the circuit breakers, and the restart
budgets; -o wide shows every watchdog. The exit status is 0 when all are well, 1 when one works
less well than it should, 2 when one does not work, and 125 when there is no daemon to ask.`,
		Example: "  aiosctl health\n  aiosctl health -o json | jq -r .worst",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output, "wide")
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Health(ctx, &apiv1.HealthRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					err = a.printJSON(viewHealth(resp))
				} else {
					err = a.printHealth(resp, output == "wide")
				}
				switch {
				case err != nil:
					return err
				case resp.GetWorst() == "failed":
					return status(healthFailed)
				case resp.GetWorst() != "ok":
					return status(healthDegraded)
				}
				return nil
			})
		},
	}
	outputFlag(cmd, &output, "json", "wide")
	return cmd
}

func viewHealth(resp *apiv1.HealthResponse) healthView {
	return healthView{
		resp.GetWorst(),
		views(resp.GetComponents(), func(c *apiv1.HealthComponent) healthComponentView {
			return healthComponentView{c.GetName(), c.GetLevel(), c.GetReason(), c.GetFix(), time.Unix(0, c.GetSinceUnixNano()).UTC()}
		}),
		views(resp.GetWatchdogs(), func(w *apiv1.HealthWatchdog) watchdogView {
			return watchdogView{w.GetOf(), w.GetName(), watchdogState(w), w.GetTimeoutNanos(), w.GetUnfedNanos(), w.GetExpired()}
		}),
		views(resp.GetBreakers(), func(b *apiv1.HealthBreaker) breakerView {
			return breakerView{
				b.GetName(), b.GetState(), b.GetFailures(), b.GetOpened(), b.GetRefused(),
				time.Unix(0, b.GetSinceUnixNano()).UTC(), b.GetRetryInNanos(), b.GetError(),
			}
		}),
		views(resp.GetRestarts(), func(r *apiv1.HealthRestarts) restartsView {
			v := restartsView{Of: r.GetOf(), When: r.GetWhen(), Count: r.GetCount(), Left: r.GetLeft(), Ended: r.GetEnded()}
			if n := r.GetNextUnixNano(); n != 0 {
				next := time.Unix(0, n).UTC()
				v.Next = &next
			}
			return v
		}),
	}
}

// watchdogState is one word for how a watchdog stands.
func watchdogState(w *apiv1.HealthWatchdog) string {
	switch {
	case w.GetLate():
		return "expired"
	case w.GetWaits():
		return "waits"
	}
	return "fed"
}

func (a *app) printHealth(resp *apiv1.HealthResponse, wide bool) error {
	var rows [][]string
	for _, c := range resp.GetComponents() {
		rows = append(rows, []string{c.GetName(), c.GetLevel(), a.age(c.GetSinceUnixNano()), dash(c.GetReason())})
	}
	if err := a.table([]string{"COMPONENT", "STATE", "SINCE", "WHY"}, rows); err != nil {
		return err
	}
	for _, more := range []struct {
		header []string
		rows   [][]string
	}{
		{[]string{"WATCHDOG", "STATE", "TIMEOUT", "UNFED", "EXPIRED"}, watchdogRows(resp.GetWatchdogs(), wide)},
		{[]string{"BREAKER", "STATE", "FAILURES", "OPENED", "REFUSED", "RETRY"}, breakerRows(resp.GetBreakers())},
		{[]string{"RESTARTS OF", "WHEN", "COUNT", "LEFT", "NEXT"}, a.restartRows(resp.GetRestarts())},
	} {
		if len(more.rows) == 0 {
			continue
		}
		fmt.Fprintln(a.stdout)
		if err := a.table(more.header, more.rows); err != nil {
			return err
		}
	}
	for _, c := range resp.GetComponents() {
		if c.GetFix() != "" && c.GetLevel() != "ok" {
			fmt.Fprintf(a.stderr, "aiosctl: %s: fix: %s\n", printable(c.GetName()), printable(c.GetFix()))
		}
	}
	return nil
}

// watchdogRows leaves out, unless all are wanted, those over parts of the system
// that have never expired.
func watchdogRows(list []*apiv1.HealthWatchdog, all bool) (rows [][]string) {
	for _, w := range list {
		name, agent := w.GetName(), strings.HasPrefix(w.GetName(), "agent ")
		if !all && !agent && w.GetExpired() == 0 {
			continue
		}
		if !agent {
			name = w.GetOf() + ": " + name
		}
		unfed := "-"
		if !w.GetWaits() {
			unfed = shortDuration(time.Duration(w.GetUnfedNanos()))
		}
		rows = append(rows, []string{
			name, watchdogState(w), shortDuration(time.Duration(w.GetTimeoutNanos())), unfed, strconv.FormatUint(w.GetExpired(), 10),
		})
	}
	return rows
}

func breakerRows(list []*apiv1.HealthBreaker) (rows [][]string) {
	for _, b := range list {
		retry := "-"
		if b.GetState() == "open" {
			retry = "in " + shortDuration(time.Duration(b.GetRetryInNanos()))
		}
		rows = append(rows, []string{
			b.GetName(), b.GetState(), strconv.FormatUint(uint64(b.GetFailures()), 10), strconv.FormatUint(b.GetOpened(), 10),
			strconv.FormatUint(b.GetRefused(), 10), retry,
		})
	}
	return rows
}

func (a *app) restartRows(list []*apiv1.HealthRestarts) (rows [][]string) {
	for _, r := range list {
		next := dash(r.GetEnded())
		if n := r.GetNextUnixNano(); n != 0 {
			next = "in " + shortDuration(time.Unix(0, n).Sub(a.clock.Now()))
		}
		rows = append(rows, []string{
			r.GetOf(), r.GetWhen(), strconv.FormatUint(r.GetCount(), 10), strconv.FormatUint(uint64(r.GetLeft()), 10), next,
		})
	}
	return rows
}
