package sentry

import (
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// warm makes a template of a program, and fails unless it becomes one.
func warm(t *testing.T, argv []string, opts ...func(*control.SpawnRequest)) *spawned {
	t.Helper()
	s, err := tryWarm(t, argv, opts...)
	if err != nil {
		t.Fatalf("%q: %v", argv, err)
	}
	if st := inspect(t, s.id); st.State != string(abi.StateTemplate) {
		t.Fatalf("it is %s", st.State)
	}
	s.awaitAhead(1) // So that the first copy is of memory that was made ahead, and others are not.
	return s
}

func tryWarm(t *testing.T, argv []string, opts ...func(*control.SpawnRequest)) (*spawned, error) {
	t.Helper()
	s := spawn(t, argv, append([]func(*control.SpawnRequest){func(r *control.SpawnRequest) {
		r.Attach, r.Process.Stdin, r.Template = false, true, &control.WarmUp{Timeout: 30 * time.Second, Ahead: 1}
	}}, opts...)...)
	_, err := theKernel.Warm(control.AgentRequest{ID: s.id})
	return s, err
}

// from has a spawn begin from a template.
func from(s *spawned, env ...string) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) {
		r.From, r.Root, r.Process.Env, r.Process.Stdin = s.id, control.Root{}, env, true
	}
}

func (s *spawned) closeInput() {
	s.t.Helper()
	if err := s.stream.Write(control.FrameStdinClose, nil); err != nil {
		s.t.Fatal(err)
	}
}

// What waits for its input is warm, and each copy has an input, an output, files and
// a job of its own.
func TestTemplateThatReadsItsInput(t *testing.T) {
	tpl := warm(t, sh(`echo warming; echo one > /tmp/f; n=0; while read line; do n=$((n+1)); echo "$line $n $(cat /tmp/f) $(hostname)"; echo "$line" > /tmp/f; done; cat /aios/self/job /aios/self/template; echo over; exit 5`))
	for _, word := range []string{"alpha", "beta"} {
		s := spawn(t, []string{word, "and more"}, from(tpl, "A=1", "B=x=y"), func(r *control.SpawnRequest) { r.Hostname = word })
		s.send(word + "\nagain\n")
		s.closeInput()
		want := word + " 1 one " + word + "\nagain 2 " + word + " " + word + "\n" +
			`{"args":["` + word + `","and more"],"env":{"A":"1","B":"x=y"}}` + "\nfrom " + tpl.id + "\nover\n"
		if out, stderr, e := s.output(); out != want || stderr != "" || e.Code != 5 {
			t.Errorf("%q, %q, %+v, want %q", out, stderr, e, want)
		}
	}
	// One without input finds its end.
	s := spawn(t, nil, from(tpl), func(r *control.SpawnRequest) { r.Process.Stdin = false })
	if out, _, e := s.output(); !strings.HasSuffix(out, "over\n") || e.Code != 5 {
		t.Errorf("without input: %q, %+v", out, e)
	}
	if st := inspect(t, tpl.id); st.State != string(abi.StateTemplate) || st.Tasks != 1 {
		t.Errorf("the template is %s with %d tasks", st.State, st.Tasks)
	}
	if got := tpl.logged(); got != "warming\n" {
		t.Errorf("the template wrote %q", got)
	}
}

// The write that says that the program is warm returns in the copies only.
func TestTemplateThatSaysItIsWarm(t *testing.T) {
	script := `cat /aios/self/template; echo ready > /aios/self/template; cat /aios/self/template; head -n 1 /aios/self/clones; echo $$`
	tpl := warm(t, sh(script))
	for range 2 {
		s := spawn(t, nil, from(tpl))
		if out, _, e := s.output(); out != "from "+tpl.id+"\n1 "+tpl.id+"\n1\n" || e.Code != 0 {
			t.Errorf("%q, %+v", out, e)
		}
	}
	if got := tpl.logged(); got != "warming\n" {
		t.Errorf("the template wrote %q", got)
	}
	s := spawn(t, sh(script))
	if out, _, e := s.output(); out != "none\nnone\n0 -\n1\n" || e.Code != 0 {
		t.Errorf("without a template: %q, %+v", out, e)
	}
}

func TestTemplateByItsOutput(t *testing.T) {
	tpl := warm(t, sh(`printf 'list'; usleep 20000; printf 'ening\n'; while true; do usleep 1000; test -e /go && break; done; echo gone`), func(r *control.SpawnRequest) {
		r.Template.Output = "listening"
	})
	s := spawn(t, nil, from(tpl))
	s.execIn(sh("touch /go")).wait()
	if out, _, e := s.output(); out != "gone\n" || e.Code != 0 {
		t.Errorf("%q, %+v", out, e)
	}
}

func TestTemplatesThatDoNotBecomeWarm(t *testing.T) {
	for _, x := range []struct {
		name, script, want string
		opt                func(*control.SpawnRequest)
	}{
		{"ends", `echo no module >&2; exit 3`, "it ended with status 3 before it was warm; it wrote:\nno module", nil},
		{"dies", `kill -9 $$`, "by signal 9 before it was warm; it wrote nothing", nil},
		{"takes long", `echo slow; sleep 100`, "it was not warm after 1s; it wrote:\nslow", func(r *control.SpawnRequest) { r.Template.Timeout = time.Second }},
		{"reads when its output counts", `read x`, "it was not warm after 100ms", func(r *control.SpawnRequest) {
			r.Template.Timeout, r.Template.Output = 100*time.Millisecond, "warm"
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			opts := []func(*control.SpawnRequest){}
			if x.opt != nil {
				opts = append(opts, x.opt)
			}
			s, err := tryWarm(t, sh(x.script), opts...)
			if err == nil || errdefs.CodeOf(err) != errdefs.TemplateNotReady || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%v, want %q", err, x.want)
			}
			exits.wait(t, s.id, 0)
		})
	}
	if n := theKernel.warmers.Load(); n != 0 {
		t.Errorf("%d agents are still to become templates", n)
	}
}

// A template does nothing and nothing is done to it.
func TestTemplateIsNoAgent(t *testing.T) {
	tpl := warm(t, sh("read x"))
	id := control.AgentRequest{ID: tpl.id}
	refused := func(what string, err error) {
		t.Helper()
		if errdefs.CodeOf(err) != errdefs.WrongState {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := tpl.tryExec(sh("true"))
	refused("exec", err)
	_, err = tpl.attach(true)
	refused("attach", err)
	_, err = theKernel.Pause(id)
	refused("pause", err)
	_, err = theKernel.Resume(id)
	refused("resume", err)
	_, err = theKernel.Signal(control.SignalRequest{ID: tpl.id, Signal: 15})
	refused("signal", err)
	_, err = tpl.tryClone(1)
	refused("clone", err)
	plain := spawn(t, sh("read x"), func(r *control.SpawnRequest) { r.Process.Stdin = true })
	_, err = trySpawn(t, nil, from(plain))
	refused("begin from an agent", err)
	_, err = trySpawn(t, nil, func(r *control.SpawnRequest) { r.From = string(abi.NewAgentID()) })
	if errdefs.CodeOf(err) != errdefs.TemplateNotFound {
		t.Errorf("of none: %v", err)
	}
	a, err := theKernel.Accounts(struct{}{})
	if err != nil || a.Agents[tpl.id].Memory.Now == 0 {
		t.Errorf("its memory is not counted: %v", err)
	}
	s := spawn(t, nil, from(tpl))
	if _, err := theKernel.Signal(control.SignalRequest{ID: tpl.id, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if e := exits.wait(t, tpl.id, 0); e.Signal != 9 {
		t.Errorf("the template ended with %+v", e)
	}
	s.send("x\n")
	if _, _, e := s.output(); e.Code != 0 {
		t.Errorf("the copy did not outlive it: %+v", e)
	}
	_, err = trySpawn(t, nil, from(tpl))
	if c := errdefs.CodeOf(err); c != errdefs.AgentNotRunning && c != errdefs.TemplateNotFound {
		t.Errorf("of one that has ended: %v", err)
	}
}

// A copy has what it is granted, and no more: neither what the template had, nor a
// part of its budget.
func TestCopiesOfTemplatesHaveTheirOwnGrants(t *testing.T) {
	tpl := warm(t, sh(`read x; sh -c 'exit 0'; echo $?; cat /aios/self/caps`))
	s := spawn(t, nil, from(tpl), func(r *control.SpawnRequest) { r.Grants = grants("mem:self,bytes=64M", "cpu:self", "io:self") })
	s.send("x\n")
	out, stderr, _ := s.output()
	if strings.Contains(out, "proc:") || !strings.Contains(stderr+out, "can't fork") {
		t.Errorf("%q, %q", out, stderr)
	}
	s = spawn(t, nil, from(tpl))
	s.send("x\n")
	if out, _, e := s.output(); !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "proc:self") || e.Code != 0 {
		t.Errorf("%q, %+v", out, e)
	}
	_, err := trySpawn(t, nil, from(tpl), func(r *control.SpawnRequest) { r.DiskBytes = 4096 })
	if errdefs.CodeOf(err) != errdefs.BudgetExhausted {
		t.Errorf("with no disk: %v", err)
	}
}

// A copy of an agent that runs can be a template.
func TestTemplateOfAnAgent(t *testing.T) {
	s := spawn(t, sh(`n=0; while read line; do n=$((n+1)); echo $line $n; done`), func(r *control.SpawnRequest) { r.Process.Stdin = true })
	s.send("first\n")
	s.expect("first 1\n")
	tpl := s.clone(1, func(r *control.CloneRequest) { r.Template = true })[0]
	if st := inspect(t, tpl.id); st.State != string(abi.StateTemplate) {
		t.Fatalf("it is %s", st.State)
	}
	c := spawn(t, nil, from(tpl))
	c.send("second\n")
	c.closeInput()
	if out, _, e := c.output(); out != "second 2\n" || e.Code != 0 {
		t.Errorf("%q, %+v", out, e)
	}
	s.closeInput()
	if _, _, e := s.output(); e.Code != 0 {
		t.Errorf("the original ended with %+v", e)
	}
}

// SIGAIOSCLONE goes to those who have asked for it, in the copy, once.
func TestCopiesGetTheSignal(t *testing.T) {
	s := spawn(t, sh(`trap 'echo heard; read n rest < /aios/self/clones; echo $n' 44; echo signal > /proc/self/fd/9; echo on; i=0; while [ $i -lt 100 ]; do i=$((i+1)); usleep 2000; done`),
		func(r *control.SpawnRequest) {
			r.Process.Argv = sh(`exec 9<>/aios/self/clones; ` + r.Process.Argv[2])
		})
	s.expect("on\n")
	c := s.clone(1)[0]
	for deadline := time.Now().Add(10 * time.Second); !strings.HasSuffix(c.logged(), "1\n") && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	d := c.clone(1)[0]
	for who, want := range map[*spawned]string{c: "heard\n1\n", d: "heard\n2\n"} {
		if e := who.wait(); e.Code != 0 || who.logged() != want {
			t.Errorf("%q and %+v, want %q", who.logged(), e, want)
		}
	}
	if out, _, e := s.output(); out != "" || e.Code != 0 {
		t.Errorf("the original: %q, %+v", out, e)
	}
}

// A copy that is being made has no processes yet, and perhaps no memory that it may
// have: it is not looked at for what it has.
func TestCopiesInTheMakingAreNotWatched(t *testing.T) {
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		w := &theKernel.watch
		for {
			select {
			case <-over:
				return
			default:
			}
			w.mu.Lock()
			w.counted = time.Time{}
			w.mu.Unlock()
			w.look()
		}
	})
	needBlocked(t)
	for range 5 { // Each is copied once to see whether that is possible.
		warm(t, []string{"/bin/blocked", "template"}, inBlocked)
	}
	close(over)
	wg.Wait()
}
