package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

// errorWidth is where explanations are wrapped.
const errorWidth = 80

func (a *app) errorsCmd() *cobra.Command {
	var (
		output string
		recent bool
	)
	cmd := &cobra.Command{
		Use:   "errors [flags] [CODE...]",
		Short: "Explain error codes",
		Long: `Errors explains the codes with which AIOS refuses: what one means, whose fault it
is, whether trying again helps and what to do. Without a code it lists them all.
It asks no daemon, unless for --recent: what the daemon has failed with of late.`,
		Example: "  aiosctl errors\n  aiosctl errors capability_denied\n  aiosctl errors --recent\n  aiosctl errors -o json | jq '.[] | select(.retry.when == \"after-delay\") | .code'",
		ValidArgsFunction: func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			var out []string
			for _, name := range codeNames() {
				if strings.HasPrefix(name, codeForm(prefix)) && !slices.Contains(args, name) {
					out = append(out, name)
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if recent {
				if len(args) > 0 {
					return usage(cmd, "--recent takes no codes")
				}
				return a.recentErrors(cmd, json)
			}
			list := errdefs.Codes()
			if len(args) > 0 {
				if list, err = findCodes(args); err != nil {
					return err
				}
			}
			switch {
			case json:
				return a.printJSON(views(list, viewCode))
			case len(args) == 0:
				return a.listCodes(list)
			}
			return a.explainCodes(list)
		},
	}
	cmd.Flags().BoolVar(&recent, "recent", false, "list the failures that the daemon has seen of late")
	outputFlag(cmd, &output, "json")
	return cmd
}

// recentView is a failure, as often as it happened.
type recentView struct {
	Code        string     `json:"code"`
	Message     string     `json:"message"`
	Fix         string     `json:"fix,omitempty"`
	Agent       string     `json:"agent,omitempty"`
	Domain      string     `json:"domain,omitempty"`
	Correlation string     `json:"correlation,omitempty"`
	Count       uint64     `json:"count"`
	First       *time.Time `json:"first,omitempty"`
	Last        *time.Time `json:"last,omitempty"`
}

// recentErrors lists what the daemon remembers.
func (a *app) recentErrors(cmd *cobra.Command, json bool) error {
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		resp, err := c.ErrorsRecent(ctx, &apiv1.ErrorsRecentRequest{})
		switch {
		case err != nil:
			return err
		case json:
			return a.printJSON(views(resp.GetErrors(), func(e *apiv1.ErrorRecord) recentView {
				return recentView{
					Code: e.GetCode(), Message: e.GetMessage(), Fix: e.GetFix(), Agent: e.GetAgent(), Domain: e.GetDomain(),
					Correlation: e.GetCorrelation(), Count: e.GetCount(), First: viewTime(e.GetFirstUnixNano()), Last: viewTime(e.GetLastUnixNano()),
				}
			}))
		}
		var rows [][]string
		for _, e := range resp.GetErrors() {
			rows = append(rows, []string{a.age(e.GetLastUnixNano()), strconv.FormatUint(e.GetCount(), 10), e.GetCode(), dash(e.GetCorrelation()), e.GetMessage()})
		}
		return a.table([]string{"AGE", "TIMES", "CODE", "REQUEST", "MESSAGE"}, rows)
	})
}

// codeForm is a code as people may type it in the form that codes have.
func codeForm(typed string) string {
	return strings.ToUpper(strings.ReplaceAll(typed, "-", "_"))
}

func codeNames() []string {
	var out []string
	for _, c := range errdefs.Codes() {
		out = append(out, string(c))
	}
	return out
}

// findCodes returns the codes that were typed.
func findCodes(typed []string) ([]errdefs.Code, error) {
	var out []errdefs.Code
	for _, word := range typed {
		name := codeForm(word)
		i := slices.Index(codeNames(), name)
		if i < 0 {
			fix := "`aiosctl errors` lists them all"
			if near := nearest(name, codeNames()); near != "" {
				fix = fmt.Sprintf("did you mean %s? %s", near, fix)
			}
			return nil, errdefs.New(errdefs.NotFound, "no error has this code", errdefs.Resource("%q", word), errdefs.Fix("%s", fix))
		}
		out = append(out, errdefs.Codes()[i])
	}
	return out, nil
}

// listCodes writes a line for each code, by category.
func (a *app) listCodes(list []errdefs.Code) error {
	width := 0
	for _, c := range list {
		width = max(width, len(c))
	}
	var b strings.Builder
	var last errdefs.Category
	for _, c := range list {
		i := errdefs.InfoOf(c)
		if i.Category != last {
			if last != "" {
				b.WriteByte('\n')
			}
			fmt.Fprintln(&b, a.color(string(i.Category), "1"))
			last = i.Category
		}
		fmt.Fprintf(&b, "  %-*s  %s\n", width, c, i.Meaning)
	}
	b.WriteString("\n`aiosctl errors CODE` explains one\n")
	_, err := fmt.Fprint(a.stdout, b.String())
	return err
}

// explainCodes writes all there is to know of each code.
func (a *app) explainCodes(list []errdefs.Code) error {
	var b strings.Builder
	for n, c := range list {
		if n > 0 {
			b.WriteByte('\n')
		}
		v := viewCode(c)
		fmt.Fprintf(&b, "%s: %s\n\n%s\n\n%s\n\n", a.color(v.Code, "1"), v.Meaning, wrap(v.Why, errorWidth), wrap("fix: "+v.Fix, errorWidth))
		shown := "the code and the text"
		switch i := errdefs.InfoOf(c); i.Propagation {
		case errdefs.Redact:
			shown = "the code only"
		case errdefs.Translate:
			shown = string(i.ShownAs) + " instead"
		}
		for _, row := range [][2]string{
			{"category", v.Category},
			{"severity", v.Severity},
			{"at fault", v.Fault},
			{"try again", tryAgain(errdefs.InfoOf(c).Retry)},
			{"told", strings.Join(v.Told, ", ")},
			{"agents see", shown},
			{"errno", v.Errno},
			{"gRPC status", v.GRPC},
			{"exit status", fmt.Sprint(v.Exit)},
		} {
			fmt.Fprintf(&b, "%-12s %s\n", row[0], row[1])
		}
	}
	_, err := fmt.Fprint(a.stdout, b.String())
	return err
}

// tryAgain says in words whether trying again helps.
func tryAgain(r errdefs.Retry) string {
	switch r.When {
	case errdefs.AtOnce:
		return fmt.Sprintf("at once, up to %d times", r.Limit)
	case errdefs.AfterDelay:
		return fmt.Sprintf("after %s or more, up to %d times", r.Delay, r.Limit)
	case errdefs.AfterChange:
		return "once something has changed"
	}
	return "never"
}

// wrap breaks text between words so that no line is longer than width, unless
// a word is.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case column == 0:
		case column+1+n > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}

type retryView struct {
	When         string  `json:"when"` // never, at-once, after-delay or after-change
	DelaySeconds float64 `json:"delay_seconds,omitempty"`
	Limit        int     `json:"limit,omitempty"`
}

type codeView struct {
	Code     string    `json:"code"`
	Category string    `json:"category"`
	Severity string    `json:"severity"`
	Fault    string    `json:"fault"`
	Retry    retryView `json:"retry"`
	Told     []string  `json:"told"`
	Shown    string    `json:"shown"` // expose, redact or translate
	ShownAs  string    `json:"shown_as,omitempty"`
	Errno    string    `json:"errno"`
	GRPC     string    `json:"grpc"`
	Exit     int       `json:"exit"`
	Meaning  string    `json:"meaning"`
	Why      string    `json:"why"`
	Fix      string    `json:"fix"`
}

func viewCode(c errdefs.Code) codeView {
	i := errdefs.InfoOf(c)
	return codeView{
		Code: string(c), Category: string(i.Category), Severity: i.Severity.String(), Fault: i.Blame.String(),
		Retry: retryView{When: i.Retry.When.String(), DelaySeconds: i.Retry.Delay.Seconds(), Limit: i.Retry.Limit},
		Told:  strings.Split(i.Escalation.String(), "+"), Shown: i.Propagation.String(), ShownAs: string(i.ShownAs),
		Errno: unix.ErrnoName(i.Errno), GRPC: codes.Code(i.GRPC).String(), Exit: i.Exit,
		Meaning: i.Meaning, Why: i.Why, Fix: i.Do,
	}
}
