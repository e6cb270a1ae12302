package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) schedCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "sched [flags] AGENT",
		Short: "Show how an agent gets its CPU time, and change it",
		Long: `Sched shows all that the scheduler of an agent's domain knows of it: what it may use, what it got,
how long its tasks waited, and where each of them is now. Counts and sums are since the agent began.
An agent that is called as one of the commands below is shown by its ID.`,
		Example: "  aiosctl sched web\n  aiosctl sched web -o json | jq .waits\n  aiosctl sched set web weight=300,quota=0.5",
		Args:    exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Sched(ctx, &apiv1.SchedRequest{Agent: args[0]})
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				for _, d := range resp.GetDomains() {
					if len(d.GetAgents()) == 0 {
						continue
					}
					g := d.GetAgents()[0] // There is one.
					if asJSON {
						return a.printJSON(viewSchedAgent(d.GetDomain(), g))
					}
					return a.printSched(d.GetDomain(), g)
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	outputFlag(cmd, &output, "json")
	cmd.AddCommand(a.schedSetCmd(), a.schedTraceCmd())
	return cmd
}

// schedAgentView is what -o json shows of an agent's scheduling. Times are
// nanoseconds.
type schedAgentView struct {
	Agent       string            `json:"agent"`
	Name        string            `json:"name,omitempty"`
	Domain      string            `json:"domain"`
	Class       string            `json:"class"`
	Weight      uint64            `json:"weight"`
	QuotaMilli  *uint64           `json:"quota_millicpu,omitempty"`
	Period      int64             `json:"period"`
	Burst       int64             `json:"burst"`
	CPUs        string            `json:"cpus"`
	Reservation *reservationView  `json:"reservation,omitempty"`
	Taken       float64           `json:"reserved_by_tasks"`
	Missed      uint64            `json:"missed"`
	Overruns    uint64            `json:"overruns"`
	Priority    uint64            `json:"priority"`
	Hint        string            `json:"hint"`
	Tasks       uint32            `json:"tasks"`
	Running     uint32            `json:"running"`
	Waiting     uint32            `json:"waiting"`
	Service     int64             `json:"service"`
	User        int64             `json:"user"`
	System      int64             `json:"system"`
	Lag         int64             `json:"lag"`
	Request     int64             `json:"request"`
	Throttled   bool              `json:"throttled"`
	Left        int64             `json:"quota_left"`
	Periods     uint64            `json:"periods"`
	Stops       uint64            `json:"throttled_periods"`
	Stopped     int64             `json:"throttled_time"`
	Corrected   int64             `json:"quota_corrected"`
	Switches    uint64            `json:"switches"`
	Preempted   uint64            `json:"preempted"`
	Migrated    uint64            `json:"migrated"`
	Waits       schedLatencyView  `json:"waits"`
	Threads     []schedThreadView `json:"threads,omitempty"`
}

type reservationView struct {
	Runtime  int64 `json:"runtime"`
	Deadline int64 `json:"deadline"`
	Period   int64 `json:"period"`
}

type schedLatencyView struct {
	Count uint64 `json:"count"`
	P50   int64  `json:"p50"`
	P99   int64  `json:"p99"`
	Max   int64  `json:"max"`
}

type schedThreadView struct {
	PID         int32            `json:"pid"`
	TID         int32            `json:"tid"`
	Name        string           `json:"name"`
	State       string           `json:"state"`
	For         int64            `json:"for"`
	CPU         *int32           `json:"cpu,omitempty"`
	Policy      string           `json:"policy"`
	Nice        int32            `json:"nice"`
	CPUs        string           `json:"cpus"`
	Reservation *reservationView `json:"reservation,omitempty"`
	Missed      uint64           `json:"missed"`
	Overruns    uint64           `json:"overruns"`
	Lent        bool             `json:"lent_rank"`
	Service     int64            `json:"service"`
	User        int64            `json:"user"`
	System      int64            `json:"system"`
}

func viewReservation(r *apiv1.SchedReservation) *reservationView {
	if r == nil {
		return nil
	}
	return &reservationView{r.GetRuntimeNano(), r.GetDeadlineNano(), r.GetPeriodNano()}
}

func viewLatency(l *apiv1.SchedLatency) schedLatencyView {
	return schedLatencyView{l.GetCount(), l.GetP50Nano(), l.GetP99Nano(), l.GetMaxNano()}
}

func viewSchedAgent(domain string, g *apiv1.SchedAgent) schedAgentView {
	v := schedAgentView{
		Agent: g.GetAgent(), Name: g.GetName(), Domain: domain, Class: g.GetClass(), Weight: g.GetWeight(), QuotaMilli: g.QuotaMilli,
		Period: g.GetPeriodNano(), Burst: g.GetBurstNano(), CPUs: orElse(g.GetCpus(), "all"), Reservation: viewReservation(g.GetReserved()),
		Taken: g.GetTaken(), Missed: g.GetMissed(), Overruns: g.GetOverruns(), Hint: g.GetHint(), Priority: g.GetPriority(),
		Tasks: g.GetTasks(), Running: g.GetRunning(), Waiting: g.GetWaiting(), Service: g.GetServiceNano(), User: g.GetUserNano(), System: g.GetSystemNano(),
		Lag: g.GetLagNano(), Request: g.GetRequestNano(), Throttled: g.GetThrottled(), Left: g.GetLeftNano(), Periods: g.GetPeriods(),
		Stops: g.GetStops(), Stopped: g.GetStoppedNano(), Corrected: g.GetCorrectedNano(), Switches: g.GetSwitches(), Preempted: g.GetPreempted(), Migrated: g.GetMigrated(),
		Waits: viewLatency(g.GetWaits()),
	}
	for _, t := range g.GetThreads() {
		one := schedThreadView{
			PID: t.GetPid(), TID: t.GetTid(), Name: t.GetName(), State: t.GetState(), For: t.GetForNano(), Policy: t.GetPolicy(), Nice: t.GetNice(),
			CPUs: t.GetCpus(), Reservation: viewReservation(t.GetReserved()), Missed: t.GetMissed(), Overruns: t.GetOverruns(), Lent: t.GetLent(),
			Service: t.GetServiceNano(), User: t.GetUserNano(), System: t.GetSystemNano(),
		}
		if t.GetCpu() >= 0 {
			one.CPU = &t.Cpu
		}
		v.Threads = append(v.Threads, one)
	}
	return v
}

// reservationText is a promise for people; "-" if there is none.
func reservationText(r *apiv1.SchedReservation) string {
	switch {
	case r == nil:
		return "-"
	case r.GetDeadlineNano() == r.GetPeriodNano():
		return fmt.Sprintf("%s every %s", roundedTime(r.GetRuntimeNano()), roundedTime(r.GetPeriodNano()))
	}
	return fmt.Sprintf("%s within %s, every %s", roundedTime(r.GetRuntimeNano()), roundedTime(r.GetDeadlineNano()), roundedTime(r.GetPeriodNano()))
}

// cpuText is thousandths of a CPU for people.
func cpuText(milli uint64) string {
	return strconv.FormatFloat(float64(milli)/1000, 'g', -1, 64) + " CPU"
}

// quotaText is what of its quota an agent has for people; "-" if there is none.
func quotaText(g *apiv1.SchedAgent) string {
	quota := "-"
	if g.QuotaMilli != nil {
		quota = fmt.Sprintf("%s, every %s", cpuText(g.GetQuotaMilli()), roundedTime(g.GetPeriodNano()))
		if g.GetBurstNano() > 0 {
			quota += ", saved up to " + roundedTime(g.GetBurstNano())
		}
		if g.GetThrottled() {
			quota += "; used up"
		} else {
			quota += "; " + roundedTime(g.GetLeftNano()) + " left"
		}
	}
	return quota
}

// hadText is for how long an agent had a CPU, and how the host sees that.
func hadText(g *apiv1.SchedAgent) string {
	had, by := roundedTime(g.GetServiceNano()), g.GetCorrectedNano()
	switch {
	case by > 0:
		had += "; the host counts " + roundedTime(by) + " more"
	case by < 0:
		had += "; the host counts " + roundedTime(-by) + " less"
	}
	return had
}

// promiseText is what an agent is promised, and how that fared.
func promiseText(g *apiv1.SchedAgent) string {
	reserved := reservationText(g.GetReserved())
	if g.GetReserved() != nil {
		reserved += fmt.Sprintf("; %d missed, %d overrun; tasks have %.3g CPU of it", g.GetMissed(), g.GetOverruns(), g.GetTaken())
	}
	return reserved
}

func (a *app) printSched(domain string, g *apiv1.SchedAgent) error {
	throttled := "-"
	if g.QuotaMilli != nil || g.GetStops() > 0 {
		throttled = fmt.Sprintf("%d of %d periods, %s", g.GetStops(), g.GetPeriods(), roundedTime(g.GetStoppedNano()))
	}
	waits := "-"
	if w := g.GetWaits(); w.GetCount() > 0 {
		waits = fmt.Sprintf("%d times, p50 %s, p99 %s, max %s", w.GetCount(), roundedTime(w.GetP50Nano()), roundedTime(w.GetP99Nano()), roundedTime(w.GetMaxNano()))
	}
	rows := [][]string{
		{"agent", orElse(g.GetName(), g.GetAgent())}, {"domain", domain}, {"class", g.GetClass()}, {"weight", strconv.FormatUint(g.GetWeight(), 10)},
		{"quota", quotaText(g)}, {"throttled", throttled}, {"reserved", promiseText(g)}, {"cpus", orElse(g.GetCpus(), "all")},
		{"priority", strconv.FormatUint(g.GetPriority(), 10)}, {"hint", g.GetHint()},
		{"tasks", fmt.Sprintf("%d, %d running, %d waiting", g.GetTasks(), g.GetRunning(), g.GetWaiting())},
		{"had a cpu", hadText(g)},
		{"used", fmt.Sprintf("%s user, %s system", roundedTime(g.GetUserNano()), roundedTime(g.GetSystemNano()))},
		{"lag", signedTime(g.GetLagNano())}, {"asks for", roundedTime(g.GetRequestNano())}, {"waits", waits},
		{"switches", fmt.Sprintf("%d, %d preempted, %d migrated", g.GetSwitches(), g.GetPreempted(), g.GetMigrated())},
	}
	if err := a.table([]string{"WHAT", "VALUE"}, rows); err != nil || len(g.GetThreads()) == 0 {
		return err
	}
	fmt.Fprintln(a.stdout)
	rows = nil
	for _, t := range g.GetThreads() {
		cpu, since, policy := "-", "-", t.GetPolicy()
		if t.GetCpu() >= 0 {
			cpu = number(t.GetCpu())
		}
		if t.GetState() != "sleeps" {
			since = roundedTime(t.GetForNano())
		}
		if t.GetReserved() != nil {
			policy = reservationText(t.GetReserved()) + fmt.Sprintf("; %d missed, %d overrun", t.GetMissed(), t.GetOverruns())
		}
		if t.GetLent() {
			policy += ", with lent rank"
		}
		rows = append(rows, []string{
			number(t.GetPid()), number(t.GetTid()), t.GetName(), t.GetState(), since, cpu, t.GetCpus(), policy, number(t.GetNice()),
			roundedTime(t.GetUserNano()), roundedTime(t.GetSystemNano()),
		})
	}
	if err := a.table([]string{"PID", "TID", "NAME", "STATE", "FOR", "CPU", "CPUS", "POLICY", "NICE", "USER", "SYSTEM"}, rows); err != nil {
		return err
	}
	if n := g.GetThreadsLeftOut(); n > 0 {
		fmt.Fprintf(a.stderr, "aiosctl: %d tasks found no room\n", n)
	}
	return nil
}

// signedTime is roundedTime of what may be less than nothing.
func signedTime(n int64) string {
	if n < 0 {
		return "-" + roundedTime(-n)
	}
	return roundedTime(n)
}

// briefTime writes a duration in at most five characters, seven from 100 hours on.
func briefTime(d time.Duration) string {
	switch {
	case d < 0:
		return "-"
	case d >= 10*time.Hour:
		return fmt.Sprintf("%dh", int64(d/time.Hour))
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02d", int64(d/time.Hour), int64(d%time.Hour/time.Minute))
	case d >= 100*time.Second:
		return fmt.Sprintf("%dm%02d", int64(d/time.Minute), int64(d%time.Minute/time.Second))
	}
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "µs"}} {
		// What rounds up to ten has no decimal, to a thousand is of the next unit.
		if n := float64(d) / float64(u.unit); n >= 9.95 {
			return fmt.Sprintf("%.0f%s", n, u.name)
		} else if n >= 0.9995 {
			return fmt.Sprintf("%.1f%s", n, u.name)
		}
	}
	return fmt.Sprintf("%dns", int64(d))
}
