package client

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/ktime"
)

// forwarded are the signals that Streams.ForwardSignals speaks of.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGALRM, unix.SIGUSR1, unix.SIGUSR2,
}

const (
	// signalQueue bounds the signals that wait to be forwarded; more are
	// dropped, as the kernel merges pending signals too.
	signalQueue = 32
	// insist many SIGINT or SIGTERM, each within insistPause of the one
	// before, make this side leave a process that does not react.
	insist      = 3
	insistPause = 2 * time.Second
)

// watchSignals handles signals until the function it returns is called.
func (j *join) watchSignals(ctx context.Context) (stop func()) {
	got := make(chan os.Signal, signalQueue)
	if j.ForwardSignals {
		for _, s := range forwarded {
			if !signal.Ignored(s) { // For example under nohup.
				signal.Notify(got, s)
			}
		}
	}
	// Without a handler, writing to a broken standard output kills a Go
	// program before it can tell the process about it.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, unix.SIGPIPE)
	terminal := make(chan os.Signal, 1)
	if j.Terminal != nil {
		signal.Notify(terminal, unix.SIGWINCH, unix.SIGCONT)
		signal.Ignore(unix.SIGTTIN) // See foreground.
	}
	queue := make(chan syscall.Signal, signalQueue)
	done := make(chan struct{})
	go func() {
		defer j.rescue()
		j.onSignals(ctx, got, queue, done)
	}()
	go func() {
		defer j.rescue()
		j.whenStarted(ctx, terminal, queue, done)
	}()
	return func() {
		signal.Stop(got)
		signal.Stop(pipe)
		signal.Stop(terminal)
		if j.Terminal != nil {
			signal.Reset(unix.SIGTTIN)
		}
		close(done)
	}
}

// onSignals decides what each signal means: before the process started it
// ends the attempt; later it is passed on. This side leaves as well when the
// signal is the end of its terminal, or comes insistently.
func (j *join) onSignals(ctx context.Context, got <-chan os.Signal, queue chan<- syscall.Signal, done <-chan struct{}) {
	var (
		last  time.Time
		count int
	)
	for {
		var sig syscall.Signal
		select {
		case s := <-got:
			sig = s.(syscall.Signal)
		case <-done:
			return
		}
		select {
		case <-j.started:
		default:
			if ends(sig) {
				j.leave(leftBySignal{sig})
			}
			continue
		}
		if sig == unix.SIGINT || sig == unix.SIGTERM {
			now := ktime.Real.Now()
			if now.Sub(last) >= insistPause {
				count = 0
			}
			count, last = count+1, now
		}
		if j.info.GetTty() && j.Terminal != nil && ends(sig) {
			// Keys reach the process as input, so this one was sent to us.
			j.forward(ctx, sig)
			j.leave(leftBySignal{sig})
			continue
		}
		select {
		case queue <- sig:
		default:
		}
		if count >= insist {
			j.leave(leftBySignal{sig})
		}
	}
}

// ends reports whether a signal's default action is to end a program that
// waits.
func ends(s syscall.Signal) bool {
	return s == unix.SIGINT || s == unix.SIGTERM || s == unix.SIGHUP || s == unix.SIGQUIT
}

// whenStarted forwards queued signals and window changes, in order, once the
// process runs.
func (j *join) whenStarted(ctx context.Context, terminal <-chan os.Signal, queue <-chan syscall.Signal, done <-chan struct{}) {
	select {
	case <-j.started:
	case <-done:
		return
	}
	window := j.info.GetTty() && j.Terminal != nil
	if window {
		j.resize()
	}
	for {
		select {
		case sig := <-queue:
			j.forward(ctx, sig)
		case s := <-terminal:
			if window {
				if s == unix.SIGCONT {
					j.tty.again()
				}
				j.resize()
			}
		case <-done:
			return
		}
	}
}
