package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/observe"
)

// topView is what happened between two looks at the schedulers, also as -o json
// shows it. Times are nanoseconds, shares parts of one.
type topView struct {
	Interval int64           `json:"interval"`
	Domains  []topDomainView `json:"domains"`
	Agents   []topAgentView  `json:"agents"`
}

type topDomainView struct {
	Domain   string       `json:"domain"`
	Error    string       `json:"error,omitempty"`
	CPUs     []topCPUView `json:"cpus"`
	Busy     float64      `json:"busy"`     // of all CPUs
	Switches float64      `json:"switches"` // a second
	Waiting  uint32       `json:"waiting"`
	Slice    int64        `json:"slice"`
}

type topCPUView struct {
	CPU      uint32  `json:"cpu"`
	Online   bool    `json:"online"`
	Busy     float64 `json:"busy"`
	Switches float64 `json:"switches"` // a second
	Queued   uint32  `json:"queued"`
	Agent    string  `json:"agent,omitempty"` // who has it
	TID      int32   `json:"tid,omitempty"`
	Task     string  `json:"task,omitempty"`
}

type topAgentView struct {
	Agent     string  `json:"agent"`
	Name      string  `json:"name,omitempty"`
	Domain    string  `json:"domain"`
	Class     string  `json:"class"`
	Weight    uint64  `json:"weight"`
	Share     float64 `json:"share"` // of the CPUs of the domain
	CPUs      float64 `json:"cpus"`  // the same in CPUs
	Used      int64   `json:"used"`  // since it began
	Throttled float64 `json:"throttled"`
	Running   uint32  `json:"running"`
	Waiting   uint32  `json:"waiting"`
	Waits     uint64  `json:"waits"`
	P50       int64   `json:"wait_p50"`
	P99       int64   `json:"wait_p99"`
	Hint      string  `json:"hint"`
}

// part is what d is of the whole.
func part(d, whole int64) float64 {
	if d <= 0 || whole <= 0 {
		return 0
	}
	return float64(d) / float64(whole)
}

// perSecond is how often a second something happened.
func perSecond(now, before uint64, took int64) float64 {
	if now < before || took <= 0 {
		return 0
	}
	return float64(now-before) * float64(time.Second) / float64(took)
}

// compare says what happened between two looks. What was not there at the
// first is compared with its beginning.
func compare(before, now *apiv1.SchedResponse) topView {
	v := topView{Domains: []topDomainView{}, Agents: []topAgentView{}}
	for _, d := range now.GetDomains() {
		old := &apiv1.SchedDomain{}
		for _, o := range before.GetDomains() {
			// One that has begun anew since is another.
			if o.GetDomain() == d.GetDomain() && o.GetAtNano() <= d.GetAtNano() {
				old = o
			}
		}
		v.Domains = append(v.Domains, compareDomain(old, d))
		took := d.GetAtNano() - old.GetAtNano()
		v.Interval = max(v.Interval, took)
		online := int64(0)
		for _, c := range d.GetCpus() {
			if c.GetOnline() {
				online++
			}
		}
		agents := make(map[string]*apiv1.SchedAgent, len(old.GetAgents()))
		for _, g := range old.GetAgents() {
			agents[g.GetAgent()] = g
		}
		for _, g := range d.GetAgents() {
			was := agents[g.GetAgent()]
			took := took
			if was != nil {
				took = g.GetAtNano() - was.GetAtNano()
			}
			waits := observe.Counts(g.GetWaitCounts()).Since(was.GetWaitCounts())
			got := g.GetServiceNano() - was.GetServiceNano()
			v.Agents = append(v.Agents, topAgentView{
				Agent: g.GetAgent(), Name: g.GetName(), Domain: d.GetDomain(), Class: g.GetClass(), Weight: g.GetWeight(),
				Share: min(part(got, took*online), 1), CPUs: part(got, took), Used: g.GetUserNano() + g.GetSystemNano(),
				Throttled: min(part(g.GetStoppedNano()-was.GetStoppedNano(), took), 1), Running: g.GetRunning(), Waiting: g.GetWaiting(),
				Waits: waits.Count, P50: int64(waits.P50), P99: int64(waits.P99), Hint: g.GetHint(),
			})
		}
	}
	return v
}

func compareDomain(old, d *apiv1.SchedDomain) topDomainView {
	took := d.GetAtNano() - old.GetAtNano()
	v := topDomainView{
		Domain: d.GetDomain(), Error: d.GetError(), CPUs: []topCPUView{}, Waiting: d.GetWaiting(), Slice: d.GetSliceNano(),
		Switches: perSecond(d.GetSwitches(), old.GetSwitches(), took),
	}
	online := 0.0
	for i, c := range d.GetCpus() {
		was := &apiv1.SchedCpu{}
		if i < len(old.GetCpus()) {
			was = old.GetCpus()[i]
		}
		one := topCPUView{
			CPU: c.GetCpu(), Online: c.GetOnline(), Busy: min(part(c.GetBusyNano()-was.GetBusyNano(), took), 1),
			Switches: perSecond(c.GetSwitches(), was.GetSwitches(), took), Queued: c.GetQueued(),
			Agent: orElse(c.GetAgentName(), c.GetAgent()), TID: c.GetTid(), Task: c.GetTask(),
		}
		if one.Online {
			online++
			v.Busy += one.Busy
		}
		v.CPUs = append(v.CPUs, one)
	}
	v.Busy /= max(online, 1)
	return v
}

// topOrder is something that agents are sorted by, and its key.
type topOrder struct {
	name string
	key  byte
	less func(a, b *topAgentView) int
}

var topOrders = []topOrder{
	{"share", 'c', func(a, b *topAgentView) int { return cmp.Compare(b.CPUs, a.CPUs) }},
	{"used", 'u', func(a, b *topAgentView) int { return cmp.Compare(b.Used, a.Used) }},
	{"wait", 'w', func(a, b *topAgentView) int { return cmp.Compare(b.P99, a.P99) }},
	{"throttled", 't', func(a, b *topAgentView) int { return cmp.Compare(b.Throttled, a.Throttled) }},
	{"name", 'n', func(a, b *topAgentView) int { return cmp.Compare(a.called(), b.called()) }},
}

func (v *topAgentView) called() string { return orElse(v.Name, v.Agent) }

// sort orders agents; what is alike by CPU used, and by name.
func (v *topView) sort(o topOrder) {
	slices.SortFunc(v.Agents, func(a, b topAgentView) int {
		return cmp.Or(o.less(&a, &b), cmp.Compare(b.Used, a.Used), cmp.Compare(a.called(), b.called()))
	})
}

func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 1, 64) + "%" }

// rate is how often a second, in at most five characters.
func rate(n float64) string {
	switch {
	case n >= 99.95e3:
		return strconv.FormatFloat(n/1000, 'f', 0, 64) + "k"
	case n >= 9999.5:
		return strconv.FormatFloat(n/1000, 'f', 1, 64) + "k"
	}
	return strconv.FormatFloat(n, 'f', 0, 64)
}

// cell fits text into a column: what is longer ends in "…".
func cell(text string, width int, right bool) string {
	text = printable(text)
	if n := utf8.RuneCountInString(text); n > width {
		r := []rune(text)
		return string(r[:max(width-1, 0)]) + "…"
	} else if right {
		return strings.Repeat(" ", width-n) + text
	} else {
		return text + strings.Repeat(" ", width-n)
	}
}

// topColumn is a column of agents.
type topColumn struct {
	head  string
	width int
	right bool
	text  func(*topAgentView) string
}

func topColumns() []topColumn {
	count := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	latency := func(v *topAgentView, n int64) string {
		if v.Waits == 0 {
			return "-"
		}
		return briefTime(time.Duration(n))
	}
	return []topColumn{
		{"AGENT", 13, false, (*topAgentView).called},
		{"DOMAIN", 7, false, func(v *topAgentView) string { return v.Domain }},
		{"CLASS", 5, false, func(v *topAgentView) string {
			if v.Class == "deadline" {
				return "dl"
			}
			return v.Class
		}},
		{"WGT", 5, true, func(v *topAgentView) string { return strconv.FormatUint(v.Weight, 10) }},
		{"SHARE", 6, true, func(v *topAgentView) string { return percent(v.Share) }},
		{"CPU", 5, true, func(v *topAgentView) string { return briefTime(time.Duration(v.Used)) }},
		{"THR", 4, true, func(v *topAgentView) string {
			if v.Throttled == 0 {
				return "-"
			}
			return strconv.FormatFloat(100*v.Throttled, 'f', 0, 64) + "%"
		}},
		{"RUN", 3, true, func(v *topAgentView) string { return count(v.Running) }},
		{"WAIT", 4, true, func(v *topAgentView) string { return count(v.Waiting) }},
		{"P50", 5, true, func(v *topAgentView) string { return latency(v, v.P50) }},
		{"P99", 5, true, func(v *topAgentView) string { return latency(v, v.P99) }},
		{"HINT", 7, false, func(v *topAgentView) string {
			if v.Hint == "none" {
				return "-"
			}
			return v.Hint
		}},
	}
}

// topState is how a screen is to look.
type topState struct {
	at       time.Time
	interval time.Duration
	order    topOrder
	paused   bool
}

// topScreen draws a view into so many rows and columns. It has no more lines, and
// none that is wider.
func topScreen(v topView, st topState, rows, cols int) []string {
	var out []string
	line := func(format string, args ...any) {
		out = append(out, strings.TrimRight(cell(fmt.Sprintf(format, args...), cols, false), " "))
	}
	mode := "every " + st.interval.String()
	if st.paused {
		mode = "paused"
	}
	line("%s  %s, %d agents by %s", st.at.Format(time.TimeOnly), mode, len(v.Agents), st.order.name)
	// Two thirds of the screen are for agents.
	room := max(rows/3-1, 1)
	left := 0
	for _, d := range v.Domains {
		for _, text := range d.lines() {
			if room == 0 {
				left++
				continue
			}
			line("%s", text)
			room--
		}
	}
	if left > 0 {
		line("… %d more lines: name a domain with --domain, or see -o json", left)
	}
	columns := topColumns()
	wide := -1
	for _, c := range columns {
		wide += c.width + 1
	}
	// What is left over is for names.
	for _, i := range []int{len(columns) - 1, 0} {
		more := min(max(cols-wide, 0), 12)
		columns[i].width += more
		wide += more
	}
	row := func(text func(topColumn) string) {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = cell(text(c), c.width, c.right)
		}
		// What is too narrow for all loses those at the end.
		r := []rune(strings.Join(cells, " "))
		out = append(out, strings.TrimRight(string(r[:min(len(r), cols)]), " "))
	}
	row(func(c topColumn) string { return c.head })
	for i := range v.Agents {
		if len(out) >= rows-2 && i < len(v.Agents)-1 {
			line("… %d more agents", len(v.Agents)-i)
			break
		}
		row(func(c topColumn) string { return c.text(&v.Agents[i]) })
	}
	for len(out) < rows-1 {
		out = append(out, "")
	}
	line("q quit  p pause  +- interval  sort: %s", topKeys())
	return out[:min(len(out), max(rows, 0))]
}

// topKeys says what the keys sort by.
func topKeys() string {
	var keys []string
	for _, o := range topOrders {
		keys = append(keys, string(o.key)+" "+o.name)
	}
	return strings.Join(keys, ", ")
}

// lines are those of the domain and its CPUs.
func (d *topDomainView) lines() []string {
	if d.Error != "" {
		return []string{d.Domain + ": " + d.Error}
	}
	out := []string{fmt.Sprintf("%s: %s busy, %s switches/s, %d tasks wait, turns of %s",
		d.Domain, percent(d.Busy), rate(d.Switches), d.Waiting, briefTime(time.Duration(d.Slice)))}
	for _, c := range d.CPUs {
		if !c.Online {
			out = append(out, fmt.Sprintf("  CPU %-3d offline", c.CPU))
			continue
		}
		out = append(out, fmt.Sprintf("  CPU %-3d %s %6s %6s/s, queue %d   %s", c.CPU, bar(c.Busy, 20), percent(c.Busy), rate(c.Switches), c.Queued, c.who()))
	}
	return out
}

// who has the CPU.
func (c *topCPUView) who() string {
	if c.Agent == "" {
		return "-"
	}
	return fmt.Sprintf("%s: %s %d", c.Agent, c.Task, c.TID)
}

// bar is a part of one, drawn.
func bar(of float64, width int) string {
	n := min(max(int(of*float64(width)+0.5), 0), width)
	return strings.Repeat("█", n) + strings.Repeat("░", width-n)
}

// printTop prints a view as tables.
func (a *app) printTop(v topView) error {
	var rows [][]string
	for i := range v.Domains {
		d := &v.Domains[i]
		if d.Error != "" {
			fmt.Fprintf(a.stderr, "aiosctl: domain %s: %s\n", printable(d.Domain), printable(d.Error))
		}
		for _, c := range d.CPUs {
			state := percent(c.Busy)
			if !c.Online {
				state = "offline"
			}
			rows = append(rows, []string{d.Domain, strconv.Itoa(int(c.CPU)), state, rate(c.Switches), strconv.Itoa(int(c.Queued)), c.who()})
		}
	}
	if err := a.table([]string{"DOMAIN", "CPU", "BUSY", "SWITCHES/S", "QUEUE", "HAS IT"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	columns := topColumns()
	header := make([]string, len(columns))
	for i, c := range columns {
		header[i] = c.head
	}
	rows = nil
	for i := range v.Agents {
		row := make([]string, len(columns))
		for j, c := range columns {
			row[j] = c.text(&v.Agents[i])
		}
		rows = append(rows, row)
	}
	return a.table(header, rows)
}
