package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

// topOptions is what `top` was asked for.
type topOptions struct {
	domain, by string
	interval   time.Duration
	once       bool
	asJSON     bool
}

func (a *app) topCmd() *cobra.Command {
	var o topOptions
	var output string
	names := make([]string, len(topOrders))
	for i, order := range topOrders {
		names[i] = order.name
	}
	cmd := &cobra.Command{
		Use:   "top [flags]",
		Short: "Show who has the CPUs, live",
		Long: `Top shows the CPUs of every domain and the agents by how much they get of them: the weight that they
have and their share of the domain's CPUs, the CPU time they have used since they began, for how much
of the interval they were throttled by their quota, tasks that run and that wait for a CPU, and how
long they waited. Keys: q quits, p or the space bar pauses, + and - change the interval, ` + topKeys() + `
sort.

If the output is no terminal, and with --once or -o json, it shows one interval as tables and ends.`,
		Example: "  aiosctl top\n  aiosctl top -i 500ms --sort wait\n  aiosctl top -o json | jq '.agents[] | [.name, .share]'",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.asJSON, err = a.wantsJSON(output); err != nil {
				return err
			}
			if o.interval < topLeast || o.interval > time.Hour {
				return invalid("--interval", o.interval.String(), "out of range", "give a time from 100ms to 1h")
			}
			at := slices.Index(names, o.by)
			if at < 0 {
				return invalid("--sort", o.by, "nothing to sort by", "use one of "+strings.Join(names, ", "))
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				if o.once || o.asJSON || !isTerminal(a.stdout) {
					return a.topOnce(ctx, c, o, topOrders[at])
				}
				return a.topLive(ctx, c, o, topOrders[at])
			})
		},
	}
	cmd.Flags().StringVar(&o.domain, "domain", "", "only of the domain `NAME`")
	cmd.Flags().DurationVarP(&o.interval, "interval", "i", 2*time.Second, "look every `TIME`")
	cmd.Flags().StringVar(&o.by, "sort", names[0], "sort agents by `WHAT`: "+strings.Join(names, ", "))
	cmd.Flags().BoolVar(&o.once, "once", false, "show one interval and end")
	outputFlag(cmd, &output, "json")
	a.completeFlag(cmd, "domain", a.domainNames)
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// topLeast is the shortest interval: a look costs the domains something, too.
const topLeast = 100 * time.Millisecond

// passed tells when some time has passed.
func (a *app) passed(d time.Duration) <-chan struct{} {
	c := make(chan struct{})
	a.clock.AfterFunc(d, func() { close(c) })
	return c
}

func (a *app) topOnce(ctx context.Context, c *client.Client, o topOptions, by topOrder) error {
	before, err := c.Sched(ctx, &apiv1.SchedRequest{Domain: o.domain})
	if err != nil {
		return a.suggest(ctx, c, err, o.domain)
	}
	select {
	case <-a.passed(o.interval):
	case <-ctx.Done():
		return errdefs.Wrap(ctx.Err(), errdefs.Cancelled, "top")
	}
	now, err := c.Sched(ctx, &apiv1.SchedRequest{Domain: o.domain})
	if err != nil {
		return err
	}
	v := compare(before, now)
	v.sort(by)
	if o.asJSON {
		return a.printJSON(v)
	}
	return a.printTop(v)
}

// What a terminal is told: to another screen and back; to draw over the old one.
const (
	screenEnter = "\x1b[?1049h\x1b[?25l"
	screenLeave = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	lineEnd     = "\x1b[K\r\n"
	screenEnd   = "\x1b[J"
)

// topLive shows what goes on until q is pressed.
func (a *app) topLive(ctx context.Context, c *client.Client, o topOptions, by topOrder) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	before, err := c.Sched(ctx, &apiv1.SchedRequest{Domain: o.domain})
	if err != nil {
		return a.suggest(ctx, c, err, o.domain)
	}
	keys := make(chan byte)
	if fd := int(a.stdin.Fd()); term.IsTerminal(fd) {
		old, err := term.MakeRaw(fd)
		if err != nil {
			return errdefs.Wrap(err, errdefs.HostIO, "put the terminal into raw mode")
		}
		defer term.Restore(fd, old)
		go readKeys(ctx, a.stdin, keys)
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	if _, err := io.WriteString(a.stdout, screenEnter); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "draw")
	}
	defer io.WriteString(a.stdout, screenLeave)

	t := &topLoop{a: a, by: by, interval: o.interval}
	next := a.passed(min(o.interval, 300*time.Millisecond)) // The first picture comes soon.
	for {
		select {
		case <-next:
			if !t.paused {
				now, err := c.Sched(ctx, &apiv1.SchedRequest{Domain: o.domain})
				if err != nil && ctx.Err() == nil {
					return err
				}
				t.view, before, t.at = compare(before, now), now, a.clock.Now()
			}
			next = a.passed(t.interval)
		case <-resized:
		case k := <-keys:
			if t.key(k) {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
		if err := t.draw(); err != nil {
			return err
		}
	}
}

// readKeys passes on what is typed.
func readKeys(ctx context.Context, in io.Reader, keys chan<- byte) {
	buf := make([]byte, 64)
	for {
		n, err := in.Read(buf)
		for _, k := range buf[:n] {
			select {
			case keys <- k:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// topLoop is what is on the screen.
type topLoop struct {
	a        *app
	view     topView
	at       time.Time // of the view; zero: there is none yet
	by       topOrder
	interval time.Duration
	paused   bool
}

// key does what a key is for, and reports whether that is to end.
func (t *topLoop) key(k byte) (quit bool) {
	switch k {
	case 'q', 'Q', 'C' & 0x1f:
		return true
	case 'p', ' ':
		t.paused = !t.paused
	case '+':
		t.interval = min(2*t.interval, time.Hour)
	case '-':
		t.interval = max(t.interval/2, topLeast)
	}
	for _, o := range topOrders {
		if o.key == k {
			t.by = o
		}
	}
	return false
}

func (t *topLoop) draw() error {
	if t.at.IsZero() {
		return nil
	}
	rows, cols := 24, 80
	if f, ok := t.a.stdout.(*os.File); ok {
		if r, c, ok := client.TerminalSize(f); ok && r > 0 && c > 0 {
			rows, cols = int(r), int(c)
		}
	}
	t.view.sort(t.by)
	lines := topScreen(t.view, topState{at: t.at.In(t.a.zone), interval: t.interval, order: t.by, paused: t.paused}, rows, cols)
	_, err := io.WriteString(t.a.stdout, screenHome+strings.Join(lines, lineEnd)+"\x1b[K"+screenEnd)
	return errdefs.Wrap(err, errdefs.HostIO, "draw")
}
