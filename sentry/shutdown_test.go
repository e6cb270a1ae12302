package sentry

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// TestShutdown shuts a kernel down that runs agents of every kind. There is
// one kernel per process, so it happens in another.
func TestShutdown(t *testing.T) {
	const env = "AIOS_TEST_SHUTDOWN"
	if os.Getenv(env) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestShutdown$", "-test.v", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), env+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "shut down well") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	running := spawn(t, sh("trap '' TERM; while :; do (true) & wait; done"))
	paused := spawn(t, []string{"sleep", "1000"})
	x := paused.execIn([]string{"sleep", "1000"})
	paused.pause()
	deaf := spawn(t, []string{"yes"}) // Its client does not read.
	ended := spawn(t, []string{"true"})
	ended.wait()

	// Spawns that overlap either fail with the reason, or end.
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				if _, err := trySpawn(t, []string{"sleep", "1000"}, detached); err != nil {
					wantCode(t, err, errdefs.DomainDied)
					return
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	start := time.Now()
	called := make(chan struct{})
	handlers := theKernel.Handlers(func() { close(called) })
	if _, err := handlers[control.MethodShutdown]([]byte("{}"), nil); err != nil {
		t.Fatal(err)
	}
	<-called
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	wg.Wait()
	for _, s := range []*spawned{running, paused, deaf} {
		if exit := s.wait(); exit.Signal != 9 || !strings.Contains(exit.Reason, "stopped") {
			t.Errorf("an agent ended with %+v", exit)
		}
	}
	if exit := x.wait(); exit.Signal != 9 {
		t.Errorf("a further process ended with %+v", exit)
	}
	if exit := ended.wait(); exit != (control.Exit{}) {
		t.Errorf("an agent that had ended has now ended with %+v", exit)
	}
	l, err := theKernel.List(struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range l.Agents {
		eventually(t, func() bool { return inspect(t, a.ID).State == string(abi.StateExited) })
	}
	if st, err := theKernel.Stats(struct{}{}); err != nil || st.Tasks != 1 { // The pause process.
		t.Errorf("%d tasks are left, %v", st.Tasks, err)
	}
	if !t.Failed() {
		fmt.Println("shut down well")
	}
}
