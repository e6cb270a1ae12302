package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/alert"
	"aios.dev/aios/recovery"
)

const (
	// hooksAtOnce is how many programs are run at once, and hooksWaiting how many
	// wait for that; one more is not run.
	hooksAtOnce  = 4
	hooksWaiting = 64
	// hookOutput is how much of what a program writes goes to the log.
	hookOutput = 8 << 10
	// hookPath is where programs find others.
	hookPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// checkHook refuses a program that is not there, or that others than root and
// the daemon's user can change.
func checkHook(acts *alert.Actions) (key string, err error) {
	if acts == nil || acts.Hook == nil {
		return "", nil
	}
	const at = "actions.hook.command"
	path := acts.Hook.Command[0]
	bad := func(detail, fix string) (string, error) {
		return at, errdefs.New(errdefs.InvalidArgument, path+" "+detail, errdefs.Fix("%s", fix))
	}
	info, err := os.Stat(path)
	if err != nil {
		return at, errdefs.Wrap(err, errdefs.InvalidArgument, "", errdefs.Fix("make the program, or correct the path"))
	}
	st, known := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return bad("is no program", "name an executable file")
	case info.Mode().Perm()&0o022 != 0:
		return bad("can be changed by others than its owner", "chmod go-w "+path)
	case known && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return bad("belongs to another user", "chown it to root or to the user of the daemon")
	}
	return "", nil
}

// hookRuns runs the programs of alerts. mu is a leaf.
type hookRuns struct {
	a     *alerts
	slots chan struct{} // holds one for each that runs

	mu      sync.Mutex
	waiting int                          // +checklocks:mu
	rules   map[string]*recovery.Breaker // +checklocks:mu
}

func (h *hookRuns) init(a *alerts) {
	h.a, h.slots = a, make(chan struct{}, hooksAtOnce)
}

// apply makes a circuit breaker for each rule that runs a program.
func (h *hookRuns) apply(rules []*alert.Rule) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.rules
	h.rules = make(map[string]*recovery.Breaker)
	for _, r := range rules {
		if acts := r.Actions(); acts == nil || acts.Hook == nil {
			continue
		}
		b := old[r.Name()]
		if b == nil {
			b = recovery.NewBreaker(recovery.BreakerConfig{Name: "hook of alert " + r.Name(), Clock: h.a.d.clock, OnChange: h.a.d.breakerChanged})
		}
		h.rules[r.Name()] = b
	}
}

// breakers are how the circuit breakers of hooks are.
func (a *alerts) breakers() []recovery.BreakerStatus {
	if a == nil {
		return nil
	}
	a.hooks.mu.Lock()
	all := a.hooks.rules
	a.hooks.mu.Unlock()
	var out []recovery.BreakerStatus
	for _, b := range all {
		out = append(out, b.Status())
	}
	slices.SortFunc(out, func(a, b recovery.BreakerStatus) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return out
}

// run runs the program of an alert, in its turn, unless it fails all the time.
// It does not wait.
func (h *hookRuns) run(key alertKey, act *active, hook *alert.Hook, state string, said event.Event) {
	h.mu.Lock()
	b := h.rules[key.rule]
	full := h.waiting >= hooksWaiting
	if !full {
		h.waiting++
	}
	h.mu.Unlock()
	if full {
		h.a.noted(key, act, "hook", "", errdefs.Newf(errdefs.QuotaExceeded, "%d programs wait to be run, and it is not", hooksWaiting).
			With(errdefs.Fix("give rules hold, or the program less to do")))
		return
	}
	h.a.work.Go(func() {
		defer func() {
			h.mu.Lock()
			h.waiting--
			h.mu.Unlock()
		}()
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
		case <-h.a.ctx.Done():
			return
		}
		done := func(error) {}
		if b != nil {
			var err error
			if done, err = b.Allow(); err != nil {
				h.a.noted(key, act, "hook", "", err)
				return
			}
		}
		err := h.exec(key, act, hook, state, said)
		done(err)
		h.a.noted(key, act, "hook", hook.Command[0]+", since the alert is "+state, err)
	})
}

// exec runs a program to its end, or to that of its time.
func (h *hookRuns) exec(key alertKey, act *active, hook *alert.Hook, state string, said event.Event) error {
	ctx, cancel := context.WithTimeout(h.a.ctx, hook.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, hook.Command[0], hook.Command[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=" + hookPath, "AIOS_ALERT=" + key.rule, "AIOS_ALERT_STATE=" + state,
		"AIOS_AGENT=" + act.group.Agent, "AIOS_AGENT_NAME=" + act.group.Name, "AIOS_DOMAIN=" + act.group.Domain,
	}
	cmd.Stdin = bytes.NewReader(append(said.AppendJSON(nil), '\n'))
	out := &clipped{room: hookOutput}
	cmd.Stdout, cmd.Stderr = out, out
	// A process group of its own, which ends as a whole.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	began := h.a.d.clock.Now()
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // What it left behind; there may be nothing.
	}
	h.a.d.log.Info("hook of an alert", "alert", key.rule, "state", state, "agent", act.group.Agent, "command", hook.Command[0],
		"took", h.a.d.clock.Since(began).Round(time.Millisecond), "status", cmd.ProcessState.String(), "output", out.String())
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return errdefs.New(errdefs.Timeout, fmt.Sprintf("%s did not end within %v, and was killed", hook.Command[0], hook.Timeout),
			errdefs.Fix("give it more time with timeout, or less to do"))
	}
	return errdefs.New(errdefs.HostIO, hook.Command[0]+": "+err.Error(), errdefs.Fix("the daemon's log has what it wrote"))
}

// clipped keeps the beginning of what is written.
type clipped struct {
	mu   sync.Mutex
	text []byte // +checklocks:mu
	room int    // +checklocks:mu
	more int    // +checklocks:mu
}

// Write implements io.Writer.
func (c *clipped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(p), c.room)
	c.text = append(c.text, p[:n]...)
	c.room -= n
	c.more += len(p) - n
	return len(p), nil
}

// String returns what was kept.
func (c *clipped) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := string(bytes.TrimRight(bytes.ToValidUTF8(c.text, []byte("\uFFFD")), "\n"))
	if c.more > 0 {
		text += fmt.Sprintf("… and %d bytes more", c.more)
	}
	return text
}
