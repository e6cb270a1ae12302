package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a command may take, generously: a host may be busy with
// other things.
const patience = 60 * time.Second

// result is what a command came to.
type result struct {
	stdout, stderr []byte
	status         int
}

func (r result) String() string {
	return fmt.Sprintf("status %d\nstdout: %s\nstderr: %s", r.status, short(r.stdout), short(r.stderr))
}

func short(b []byte) []byte {
	if len(b) > 2000 {
		return append(b[:2000:2000], "…"...)
	}
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok, which also says what it saw, and fails the test
// when that takes longer than limit, and no less than patience.
func eventually(t testing.TB, what string, limit time.Duration, ok func() (bool, string)) {
	t.Helper()
	limit = max(limit, patience)
	end := time.Now().Add(limit)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		done, saw := ok()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v; last: %s", what, limit, saw)
		}
		time.Sleep(pause)
	}
}

// run runs aiosctl to its end, with no input.
func (in *install) run(t testing.TB, args ...string) result {
	t.Helper()
	return in.runWith(t, nil, args...)
}

// runWith runs aiosctl to its end.
func (in *install) runWith(t testing.TB, stdin io.Reader, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := in.command(ctx, args...)
	cmd.Stdin = stdin
	return finish(t, ctx, cmd)
}

// finish runs cmd to its end and fails the test when it was not in time.
func finish(t testing.TB, ctx context.Context, cmd *exec.Cmd) result {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	r := result{out.Bytes(), errOut.Bytes(), statusOf(cmd.ProcessState)}
	if ctx.Err() != nil {
		t.Fatalf("%s did not end within %v\n%s", strings.Join(cmd.Args, " "), patience, r)
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return r
}

// statusOf is the status as a shell sees it.
func statusOf(s *os.ProcessState) int {
	if s == nil {
		return -1
	}
	if ws := s.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}

// ok runs aiosctl, fails the test unless it succeeds, and returns its output.
func (in *install) ok(t testing.TB, args ...string) []byte {
	t.Helper()
	r := in.run(t, args...)
	if r.status != 0 {
		t.Fatalf("aiosctl %s: %s", strings.Join(args, " "), r)
	}
	return r.stdout
}

// agent runs a program as an agent, with flags before "--", to its end.
func (in *install) agent(t testing.TB, args ...string) result {
	t.Helper()
	return in.run(t, in.runArgs(args...)...)
}

// runArgs is the command line of "run" on the installation's platform.
func (in *install) runArgs(args ...string) []string {
	return append([]string{"run", "--platform", in.platform}, args...)
}

// sh runs a shell script as an agent, fails the test unless it succeeds, and
// returns what it printed.
func (in *install) sh(t testing.TB, script string, flags ...string) string {
	t.Helper()
	r := in.agent(t, append(flags, "--", "sh", "-c", script)...)
	if r.status != 0 {
		t.Fatalf("%s: %s", script, r)
	}
	return string(r.stdout)
}

// spawn starts an agent and returns its ID.
func (in *install) spawn(t testing.TB, args ...string) string {
	t.Helper()
	return strings.TrimSpace(string(in.ok(t, append([]string{"spawn", "--platform", in.platform}, args...)...)))
}

// hostSh runs a bash script on the host, in which $ctl is aiosctl and $run is
// "aiosctl run" on the installation's platform.
func (in *install) hostSh(t testing.TB, script string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Env = append(in.env, "ctl="+in.ctl, "run="+in.ctl+" run --platform "+in.platform)
	cmd.Dir = in.dir
	cmd.WaitDelay = 5 * time.Second
	return finish(t, ctx, cmd)
}

// command is an aiosctl at work.
type command struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *transcript
	stderr *transcript
	ended  chan struct{}
	status int // after ended is closed
}

// start starts aiosctl with pipes; the test's end kills it.
func (in *install) start(t *testing.T, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	c := &command{t: t, cmd: in.command(ctx, args...), stdout: newTranscript(), stderr: newTranscript(), ended: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = c.stdout, c.stderr
	c.stdout.ended, c.stdout.errors, c.stderr.ended = c.ended, c.stderr, c.ended
	var err error
	c.stdin, err = c.cmd.StdinPipe()
	must(t, err)
	must(t, c.cmd.Start())
	go func() {
		c.cmd.Wait()
		c.status = statusOf(c.cmd.ProcessState)
		close(c.ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-c.ended
	})
	return c
}

// startAgent is start of a program as an agent.
func (in *install) startAgent(t *testing.T, args ...string) *command {
	t.Helper()
	return in.start(t, in.runArgs(args...)...)
}

// signal sends a signal to aiosctl.
func (c *command) signal(sig syscall.Signal) {
	c.t.Helper()
	must(c.t, c.cmd.Process.Signal(sig))
}

// write sends text to standard input.
func (c *command) write(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.stdin, text)
	must(c.t, err)
}

// wait returns how the command ended.
func (c *command) wait() result {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.t.Fatalf("%s did not end within %v\nstdout: %s\nstderr: %s", strings.Join(c.cmd.Args, " "), patience, c.stdout, c.stderr)
	}
	return result{[]byte(c.stdout.String()), []byte(c.stderr.String()), c.status}
}

// transcript collects output and lets tests wait for it.
type transcript struct {
	mu   sync.Mutex
	text []byte        // guarded by mu
	at   int           // guarded by mu; how far expect has matched
	more chan struct{} // guarded by mu; closed when text grows

	// Of a command: closed when nothing more comes, and what it says of
	// that. Both may be nil.
	ended  <-chan struct{}
	errors *transcript
}

func newTranscript() *transcript { return &transcript{more: make(chan struct{})} }

// Write implements io.Writer.
func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, p...)
	close(s.more)
	s.more = make(chan struct{})
	return len(p), nil
}

// String returns everything so far.
func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.text)
}

// expect waits for text after what the last expect matched, and returns what
// stood between.
func (s *transcript) expect(t testing.TB, text string) string {
	t.Helper()
	before, ok := s.within(patience, text)
	if !ok {
		errors := ""
		if s.errors != nil {
			errors = s.errors.String()
		}
		t.Fatalf("%q did not come within %v, or before the end; what came: %q %s", text, patience, before, errors)
	}
	return before
}

// within is expect with a limit; without the text it returns all that came.
func (s *transcript) within(limit time.Duration, text string) (string, bool) {
	deadline := time.After(limit)
	ended, last := s.ended, false
	for {
		s.mu.Lock()
		rest, more := string(s.text[s.at:]), s.more
		if before, _, found := strings.Cut(rest, text); found {
			s.at += len(before) + len(text)
			s.mu.Unlock()
			return before, true
		}
		s.mu.Unlock()
		if last {
			return rest, false
		}
		select {
		case <-more:
		case <-ended:
			ended, last = nil, true // All of it has come by now.
		case <-deadline:
			return rest, false
		}
	}
}

// try runs a program as an agent; unlike agent it may be called from any
// goroutine.
func (in *install) try(argv ...string) (result, error) {
	return in.tryCommand(in.runArgs(append([]string{"--"}, argv...)...)...)
}

// tryCommand runs aiosctl; it may be called from any goroutine.
func (in *install) tryCommand(args ...string) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := in.command(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if ctx.Err() != nil {
		return result{out.Bytes(), errOut.Bytes(), -1}, fmt.Errorf("%s did not end within %v", strings.Join(args, " "), patience)
	}
	if cmd.ProcessState != nil {
		err = nil
	}
	return result{out.Bytes(), errOut.Bytes(), statusOf(cmd.ProcessState)}, err
}
