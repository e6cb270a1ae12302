package main

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"

	apiv1 "aios.dev/aios/api/v1"
)

// progress shows long work on standard error: a bar on a terminal, else one
// line for each phase.
type progress struct {
	w     io.Writer
	tty   bool
	phase string
	bar   *progressbar.ProgressBar
}

func (a *app) progress() *progress { return &progress{w: a.stderr, tty: isTerminal(a.stderr)} }

func (p *progress) update(m *apiv1.ImageProgress) {
	phase := printable(m.GetPhase())
	if phase != p.phase {
		p.finish()
		p.phase = phase
		if !p.tty {
			fmt.Fprintf(p.w, "%s…\n", phase)
			return
		}
		total := m.GetTotal()
		if total <= 0 {
			total = -1 // A spinner.
		}
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(p.w),
			progressbar.OptionSetDescription(phase),
			progressbar.OptionShowBytes(true),
			progressbar.OptionThrottle(65*time.Millisecond),
			progressbar.OptionClearOnFinish())
	}
	if p.bar != nil {
		if t := m.GetTotal(); t > 0 && t != p.bar.GetMax64() {
			p.bar.ChangeMax64(t)
		}
		_ = p.bar.Set64(m.GetDone()) // A bar that cannot be drawn stops nothing.
	}
}

// finish removes the bar.
func (p *progress) finish() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
		p.bar = nil
	}
}
