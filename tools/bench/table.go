package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Names of contenders, which are the columns of the table.
const (
	aios  = "aios"
	runsc = "runsc"
	runc  = "runc"
	crun  = "crun"
	bwrap = "bwrap"
)

var columns = []string{aios, runsc, runc, crun, bwrap}

// table is the outcome of a run.
type table struct {
	Host  string   `json:"host"`
	Rows  []row    `json:"rows"`
	Notes []string `json:"notes,omitempty"`
}

// row is one figure.
type row struct {
	Figure string             `json:"figure"`
	Unit   string             `json:"unit"`
	Values map[string]float64 `json:"values"` // by contender
	P99    map[string]float64 `json:"p99,omitempty"`
	Runs   int                `json:"runs,omitempty"`
	Goal   *goal              `json:"goal,omitempty"`
	// More is set where a higher value is better.
	More bool `json:"more_is_better,omitempty"`
}

// goal is what the figure of AIOS is held against.
type goal struct {
	// Limit is a bound on the value of AIOS itself: a floor when more is
	// better, else a ceiling. It counts when Than is empty.
	Limit float64 `json:"limit,omitempty"`
	// Than names contenders, and how many times better than each AIOS wants
	// to be.
	Than map[string]float64 `json:"than,omitempty"`
}

func (t *table) add(r row) { t.Rows = append(t.Rows, r) }

func (t *table) note(format string, args ...any) {
	t.Notes = append(t.Notes, fmt.Sprintf(format, args...))
}

// ratio returns how many times better AIOS is than the contender: above 1 it
// wins. It is 0 when either value is missing or nil.
func (r row) ratio(name string) float64 {
	a, b := r.Values[aios], r.Values[name]
	if a <= 0 || b <= 0 {
		return 0
	}
	if r.More {
		return a / b
	}
	return b / a
}

// verdict returns "met", "missed", or "" when there is no goal or not enough
// to judge it by.
func (r row) verdict() string {
	own, ok := r.Values[aios]
	if r.Goal == nil || !ok {
		return ""
	}
	if len(r.Goal.Than) == 0 {
		if r.More && own >= r.Goal.Limit || !r.More && own <= r.Goal.Limit {
			return "met"
		}
		return "missed"
	}
	judged := false
	for name, factor := range r.Goal.Than {
		if _, ok := r.Values[name]; !ok {
			continue
		}
		judged = true
		if r.ratio(name) < factor {
			return "missed"
		}
	}
	if !judged {
		return ""
	}
	return "met"
}

func (r row) goalText() string {
	if r.Goal == nil {
		return ""
	}
	if len(r.Goal.Than) == 0 {
		sign := "≤"
		if r.More {
			sign = "≥"
		}
		return sign + " " + number(r.Goal.Limit, r.Unit)
	}
	var parts []string
	for _, name := range columns {
		if factor, ok := r.Goal.Than[name]; ok {
			parts = append(parts, fmt.Sprintf("≥ %.4g× %s", factor, name))
		}
	}
	return strings.Join(parts, ", ")
}

// number prints a value with three significant digits, and its unit.
func number(v float64, unit string) string {
	var s string
	switch {
	case v != 0 && v < 10 && v > -10:
		s = fmt.Sprintf("%.2f", v)
	case v < 100 && v > -100:
		s = fmt.Sprintf("%.1f", v)
	default:
		s = fmt.Sprintf("%.0f", v)
	}
	if v == float64(int64(v)) {
		s = fmt.Sprintf("%d", int64(v))
	}
	if unit == "" {
		return s
	}
	return s + " " + unit
}

// print writes the table for people. A peer's cell holds its value and, in
// brackets, how many times better AIOS is.
func (t *table) print(w io.Writer) error {
	used := map[string]bool{}
	for _, r := range t.Rows {
		for name := range r.Values {
			used[name] = true
		}
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := []string{"figure (median)"}
	for _, c := range columns {
		if used[c] {
			head = append(head, c)
		}
	}
	fmt.Fprintln(tw, strings.Join(append(head, "goal", ""), "\t"))
	for _, r := range t.Rows {
		cells := []string{r.Figure}
		for _, c := range columns {
			if !used[c] {
				continue
			}
			v, ok := r.Values[c]
			switch ratio := r.ratio(c); {
			case !ok:
				cells = append(cells, "–")
			case c == aios || ratio == 0:
				cells = append(cells, number(v, r.Unit))
			default:
				cells = append(cells, fmt.Sprintf("%s (%s×)", number(v, r.Unit), number(ratio, "")))
			}
		}
		fmt.Fprintln(tw, strings.Join(append(cells, r.goalText(), r.verdict()), "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n(n×): how many times better AIOS is. %s.\n", t.Host)
	for _, n := range t.Notes {
		fmt.Fprintln(w, "note:", n)
	}
	return nil
}
