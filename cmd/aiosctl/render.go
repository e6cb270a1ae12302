package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	apiv1 "aios.dev/aios/api/v1"
)

// outputFlag registers -o with the forms that a command knows.
func outputFlag(cmd *cobra.Command, value *string, forms ...string) {
	cmd.Flags().StringVarP(value, "output", "o", "", "output `FORM`: "+strings.Join(forms, " or "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
}

// wantsJSON checks the value of -o.
func (a *app) wantsJSON(output string, others ...string) (bool, error) {
	if output == "" || output == "json" || slices.Contains(others, output) {
		return output == "json", nil
	}
	return false, invalid("--output", output, "no such form", "use "+strings.Join(append([]string{"json"}, others...), " or ")+", or leave it out")
}

// table prints rows in columns. Cells cannot break the layout: what agents
// and images name themselves is quoted where it holds control characters.
func (a *app) table(header []string, rows [][]string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, r := range rows {
		for i, c := range r {
			r[i] = printable(c)
		}
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// printable returns s with everything escaped that could move a cursor.
func printable(s string) string {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			q := strconv.Quote(s)
			return q[1 : len(q)-1]
		}
	}
	return s
}

// printableLines is printable, line by line.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return strings.Join(lines, "\n")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// color wraps s for a terminal, unless NO_COLOR is set.
func (a *app) color(s, sgr string) string {
	if v, _ := a.getenv("NO_COLOR"); v != "" || !isTerminal(a.stdout) {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

// age is how long ago a moment was, in words.
func (a *app) age(nano int64) string {
	if nano == 0 {
		return "-"
	}
	return shortDuration(a.clock.Since(time.Unix(0, nano)))
}

// shortDuration is d in its one or two largest units.
func shortDuration(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 10*time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 10*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

func size(n uint64) string {
	return units.CustomSize("%.4g %s", float64(n), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"})
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// stateOf is an agent's state and, after its end, how it ended.
func (a *app) stateOf(g *apiv1.Agent) string {
	e := g.GetExit()
	switch next := g.GetRestarts().GetNextUnixNano(); {
	case next != 0:
		return "restarts in " + shortDuration(time.Unix(0, next).Sub(a.clock.Now()))
	case g.GetState() != "exited" || e == nil:
		return g.GetState()
	case e.GetSignal() != 0:
		return "exited (" + signalName(e.GetSignal()) + ")"
	}
	return fmt.Sprintf("exited (%d)", e.GetCode())
}

// commandColumn is how much of a command line a table shows.
const commandColumn = 40

// commandLine joins argv so that a shell would split it the same way.
func commandLine(argv []string, truncate bool) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		words[i] = shellQuote(w)
	}
	s := printable(strings.Join(words, " "))
	if truncate && utf8.RuneCountInString(s) > commandColumn {
		s = string([]rune(s)[:commandColumn-1]) + "…"
	}
	return s
}

func shellQuote(w string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-"
	if w != "" && strings.Trim(w, plain) == "" {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// pairs renders labels as k=v,k=v in order.
func pairs(m map[string]string) string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}
