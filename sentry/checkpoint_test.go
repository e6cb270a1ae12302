package sentry

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/account"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/clocks"
)

// restoreEnv has the test binary be the kernel process that restores: it holds a
// restoreSpec.
const restoreEnv = "AIOS_TEST_RESTORE"

// theImages are the files of the images by key.
var theImages = map[string]string{}

// theImageDir is where they are, as long as tests run.
var theImageDir string

// restoreSpec says what to restore.
type restoreSpec struct {
	State   string
	Memory  string
	Packs   []string
	Mounts  []control.MountRequest
	Images  map[string]string
	Logs    map[string]string
	Revoked []capability.ID
	Ended   []string
}

// restoreMain restores, does what it is asked for line by line, and ends when there
// is nothing more to do.
func restoreMain(cfg Config, text string) int {
	fail := func(err error) int {
		fmt.Printf("failed %v\n", err)
		return 1
	}
	var spec restoreSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fail(err)
	}
	cfg.Exit = nil
	k, err := Prepare(cfg)
	if err != nil {
		return fail(err)
	}
	from := Restored{Logs: map[string]RestoredFile{}, Revoked: spec.Revoked, Ended: spec.Ended}
	if from.State, err = os.Open(spec.State); err != nil {
		return fail(err)
	}
	if from.Memory, err = os.Open(spec.Memory); err != nil {
		return fail(err)
	}
	for _, path := range spec.Packs {
		f, err := os.Open(path)
		if err != nil {
			return fail(err)
		}
		from.Packs = append(from.Packs, f)
	}
	for _, m := range spec.Mounts {
		f, err := os.Open(spec.Images[m.Key])
		if err != nil {
			return fail(err)
		}
		from.Mounts = append(from.Mounts, RestoredMount{m, f})
	}
	for id, path := range spec.Logs {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return fail(err)
		}
		st, _ := f.Stat()
		from.Logs[id] = RestoredFile{f, st.Size()}
	}
	if err := k.Restore(from); err != nil {
		return fail(err)
	}
	theKernel = k
	close(theKernelIsUp)
	fmt.Println("restored")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		verb, id, _ := strings.Cut(in.Text(), " ")
		switch verb {
		case "end":
			k.Shutdown()
			fmt.Println("ended")
			return 0
		case "kill":
			_, err := k.Signal(control.SignalRequest{ID: id, Signal: 9})
			fmt.Println("killed", err)
		case "resume":
			_, err := k.Resume(control.AgentRequest{ID: id})
			fmt.Println("resumed", err)
		case "spawn", "clone":
			fmt.Println(map[string]string{"spawn": "spawned", "clone": "cloned"}[verb], beginIn(k, verb, id))
		case "save":
			fmt.Println("saved", saveIn(k, id))
		case "state":
			st, err := k.Inspect(control.AgentRequest{ID: id})
			fmt.Println(st.State, err)
		case "ahead":
			fmt.Println(aheadIn(k, id))
		case "ended":
			e := endIn(id)
			fmt.Printf("signal %d, %s\n", e.Signal, e.Reason)
		case "clock", "set":
			id, offset, set := strings.Cut(id, " ")
			req := control.ClockRequest{ID: id}
			if d, err := time.ParseDuration(offset); set && err == nil {
				req.Offset = new(int64(d))
			}
			c, err := k.Clock(req)
			fmt.Println(c.Clock.Offset, c.Clock.Monotonic, err)
		case "rate", "turn":
			id, text, _ := strings.Cut(id, " ")
			rate, _ := clocks.ParseRate(text)
			c, err := k.Clock(control.ClockRequest{ID: id, Rate: int64(rate)})
			fmt.Println(clocks.Rate(c.Clock.Rate), time.Duration(c.Clock.Offset).Round(time.Hour), err)
		case "account":
			a, err := k.Account(control.AgentRequest{ID: id})
			raw, _ := json.Marshal(a)
			fmt.Println(string(raw), err)
		case "caps":
			var ids []string
			for _, c := range k.space.List(id) {
				spec := c.Spec()
				ids = append(ids, fmt.Sprintf("%d=%s=%s", c.Handle(), c.ID(), spec.String()))
			}
			fmt.Println(strings.Join(ids, " "))
		case "revoke":
			c, err := k.space.ByID(capability.ID(id))
			if err == nil {
				_, err = k.space.Revoke(c, true, capability.Actor{Name: "operator", Privileged: true}, "test")
			}
			fmt.Println("revoked", err)
		}
	}
	return 0
}

// checkpointed is a domain of the past.
type checkpointed struct {
	t     testing.TB
	spec  restoreSpec
	reply control.CheckpointReply
}

// takeCheckpoint saves the domain of the tests, in which the agents go on.
func takeCheckpoint(t testing.TB, agents ...*spawned) *checkpointed {
	t.Helper()
	c, err := tryCheckpoint(t, agents...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryCheckpoint(t testing.TB, agents ...*spawned) (*checkpointed, error) {
	return checkpointAfter(t, nil, agents...)
}

// checkpointAfter does not write what an earlier checkpoint has; nil: there is none.
func checkpointAfter(t testing.TB, before *checkpointed, agents ...*spawned) (*checkpointed, error) {
	dir := t.TempDir()
	var files []*os.File
	for _, name := range []string{"state", "memory", "pages"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if before != nil {
		f, err := os.Open(before.spec.Memory)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	reply, err := theKernel.Checkpoint(control.CheckpointRequest{}, files)
	if err != nil {
		return nil, err
	}
	for name, part := range map[string]control.CheckpointPart{"state": reply.State, "memory": reply.Memory, "pages": reply.Pages} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() != part.Bytes {
			t.Errorf("%s: it says %d bytes, and has %d", name, part.Bytes, st.Size())
		}
	}
	var packs []string
	for _, i := range reply.Kept {
		packs = append(packs, before.spec.Packs[i])
	}
	if reply.Pages.Bytes > 0 {
		packs = append(packs, filepath.Join(dir, "pages"))
	}
	c := &checkpointed{t: t, reply: reply, spec: restoreSpec{State: filepath.Join(dir, "state"), Memory: filepath.Join(dir, "memory"), Packs: packs, Mounts: reply.Mounts, Images: theImages, Logs: map[string]string{}}}
	for _, a := range agents {
		// The log goes on from where it was.
		raw, err := os.ReadFile(a.log)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(copied, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		c.spec.Logs[a.id] = copied
	}
	return c, nil
}

// resurrected is a domain that was restored, in a process of its own.
type resurrected struct {
	*checkpointed
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (c *checkpointed) restore() *resurrected {
	c.t.Helper()
	r, said := c.tryRestore()
	if said != "restored" {
		c.t.Fatalf("it says %q", said)
	}
	return r
}

func (c *checkpointed) tryRestore() (*resurrected, string) {
	t := c.t
	t.Helper()
	raw, err := json.Marshal(c.spec)
	if err != nil {
		t.Fatal(err)
	}
	r := &resurrected{checkpointed: c, cmd: exec.Command("/proc/self/exe")}
	r.cmd.Env = append(os.Environ(), restoreEnv+"="+string(raw))
	r.cmd.Stderr = os.Stderr
	r.in, _ = r.cmd.StdinPipe()
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.out = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(90*time.Second, func() { r.cmd.Process.Kill() })
	t.Cleanup(func() {
		r.in.Close()
		r.cmd.Wait()
		watchdog.Stop()
	})
	line, _ := r.out.ReadString('\n')
	return r, strings.TrimSpace(line)
}

// ask has it do something, and returns what it says.
func (r *resurrected) ask(what string) string {
	r.t.Helper()
	fmt.Fprintln(r.in, what)
	line, err := r.out.ReadString('\n')
	if err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
	return strings.TrimSpace(line)
}

// text is what the log of an agent says.
func (c *checkpointed) text(id string) string {
	f, err := os.Open(c.spec.Logs[id])
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	var out strings.Builder
	for r := bufio.NewReader(f); ; {
		rec, _, err := control.ReadLogRecord(r)
		if err != nil {
			return out.String()
		}
		out.Write(rec.Data)
	}
}

// expectText waits until the log of a says text.
func (r *resurrected) expectText(a *spawned, text string) string {
	r.t.Helper()
	for range 3000 {
		if got := r.text(a.id); strings.Contains(got, text) {
			return got
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("it never says %q, but %q", text, r.text(a.id))
	return ""
}

func TestCheckpointGoesOn(t *testing.T) {
	a := spawn(t, sh("x=$(dd if=/bin/busybox bs=1000 count=1000 2>/dev/null); i=0; while :; do echo n$i.; i=$((i+1)); usleep 20000; done"))
	a.expect("n5.")
	c := takeCheckpoint(t, a)
	t.Logf("%d bytes of %d in %v, %d mounts", c.reply.State.Bytes, c.reply.State.Raw, c.reply.Pause, len(c.reply.Mounts))
	a.expect("n20.") // It goes on here.
	next, err := checkpointAfter(t, c, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("then %d bytes of %d in %v", next.reply.Pages.Bytes, next.reply.Pages.Raw, next.reply.Pause)
	if next.reply.Pages.Raw > c.reply.Pages.Raw/4 || len(next.spec.Packs) != 2 {
		t.Errorf("%d bytes of %d were new the second time, in %v", next.reply.Pages.Raw, c.reply.Pages.Raw, next.spec.Packs)
	}
	r := next.restore()
	onceEach(t, r.expectText(a, "n60."), 60)
	r.ask("end")
}

// onceEach checks that what a restored agent said has every number up to n. What the
// original says between the checkpoint and the copying of its log is there twice.
func onceEach(t testing.TB, said string, n int) {
	t.Helper()
	var twice []int
	for i := range n {
		switch strings.Count(said, fmt.Sprintf("n%d.\n", i)) {
		case 0:
			t.Errorf("n%d is missing", i)
		case 1:
		case 2:
			twice = append(twice, i)
		default:
			t.Errorf("n%d is there more than twice", i)
		}
	}
	if k := len(twice); k > 0 && (twice[k-1]-twice[0] >= k || k > n/4) { // One stretch, and no long one.
		t.Errorf("%v are there twice", twice)
	}
}

// What an agent has besides its processes comes back: authority, what it has used, that
// it stands still. And what has ended since does not.
func TestCheckpointKeeps(t *testing.T) {
	count := "i=0; while :; do echo n$i.; i=$((i+1)); usleep 20000; done"
	a := spawn(t, sh("dd if=/dev/zero of=/x bs=1000 count=100 2>/dev/null; "+count))
	still, gone := spawn(t, sh(count)), spawn(t, sh(count))
	for _, x := range []*spawned{a, still, gone} {
		x.expect("n5.")
	}
	still.pause()
	before, err := theKernel.Account(control.AgentRequest{ID: a.id})
	if err != nil {
		t.Fatal(err)
	}
	caps := theKernel.space.List(a.id)
	c := takeCheckpoint(t, a, still, gone)
	still.resume()
	a.expect("n20.") // All goes on here.
	still.expect("n20.")
	c.spec.Revoked = []capability.ID{caps[len(caps)-1].ID()}
	c.spec.Ended = []string{gone.id}
	stood := strings.Count(c.text(still.id), "\n")
	goneAt := strings.Count(c.text(gone.id), "\n")

	r := c.restore()
	onceEach(t, r.expectText(a, "n40."), 40)
	// What was in its pipes when it was saved is read now.
	if n := strings.Count(r.text(still.id), "\n"); n > stood+2 {
		t.Errorf("it stood still at %d and is at %d", stood, n)
	}
	if n := strings.Count(r.text(gone.id), "\n"); n > goneAt+2 {
		t.Errorf("it had ended, and went on from %d to %d", goneAt, n)
	}
	if said := r.ask("resume " + still.id); said != "resumed <nil>" {
		t.Error(said)
	}
	r.expectText(still, "n40.")
	if said := r.ask("account " + gone.id); !strings.Contains(said, `"tasks":{"now":0`) {
		t.Errorf("it had ended: %s", said)
	}
	held := r.ask("caps " + a.id)
	for i, c := range caps {
		spec := c.Spec()
		line := fmt.Sprintf("%d=%s=%s", c.Handle(), c.ID(), spec.String())
		if last := i == len(caps)-1; strings.Contains(held, line) == last {
			t.Errorf("%s: %s", line, held)
		}
	}
	var after struct {
		IO struct {
			WriteOps uint64 `json:"write_ops"`
		} `json:"io"`
		CPU account.CPUUse `json:"cpu"`
	}
	said, _, _ := strings.Cut(r.ask("account "+a.id), " ")
	if err := json.Unmarshal([]byte(said), &after); err != nil || after.IO.WriteOps < before.IO.WriteOps {
		t.Errorf("it had written %d times, and has %d: %v", before.IO.WriteOps, after.IO.WriteOps, err)
	}
	if was, is := before.CPU, after.CPU; is.UserNS+is.SystemNS < was.UserNS+was.SystemNS {
		t.Errorf("it had used %v of the CPUs, and has %v", was, is)
	}
	for _, c := range caps {
		if spec := c.Spec(); spec.Object.String() == "proc:self" {
			if said := r.ask("revoke " + string(c.ID())); said != "revoked <nil>" {
				t.Error(said)
			}
		}
	}
	r.expectText(a, "fork") // The shell cannot start usleep any more.
	r.ask("end")
}

func TestCheckpointRefuses(t *testing.T) {
	a := spawn(t, sh("i=0; while :; do echo n$i.; i=$((i+1)); usleep 20000; done"))
	a.expect("n2.")
	full := spawn(t, sh("yes"))
	eventually(t, func() bool { // Nobody takes what it writes, and it has written all that it can.
		_, err := tryCheckpoint(t, full, a)
		if err != nil && strings.Contains(err.Error(), "does not take the output") {
			wantCode(t, err, errdefs.CheckpointRefused)
			return true
		}
		return false
	})
	full.signal(9)
	go full.output()
	full.wait()
	c := takeCheckpoint(t, a)
	a.expect("n30.")

	// Not everything that can be read makes sense.
	text, err := os.ReadFile(c.spec.State)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, []byte("no state"), text[:len(text)/2]} {
		if err := os.WriteFile(c.spec.State, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, said := c.tryRestore(); !strings.HasPrefix(said, "failed ") {
			t.Errorf("%d bytes: %s", len(bad), said)
		}
	}
}
