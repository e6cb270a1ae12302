package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestStorm has clients do everything to the same few agents at once. Any of
// it may be refused; none of it may hang, crash or leave something odd.
func TestStorm(t *testing.T) {
	steps := 25
	if soak() {
		steps = 1000
	}
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "witness", "--", "sh", "-c", counter)
		daemon, kernel := in.process(t, "serve"), in.process(t, "kernel", "default")
		// Whoever runs an agent waits while it is paused, and the one who paused
		// it may be through with its steps.
		over, resumed := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(resumed)
			for {
				select {
				case <-over:
					return
				case <-time.After(5 * time.Second):
				}
				for i := range 3 {
					in.tryCommand("resume", fmt.Sprintf("agent-%d", i))
				}
			}
		}()
		var wg sync.WaitGroup
		for worker := range 6 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				r := rand.New(rand.NewPCG(uint64(worker), 7))
				for range steps {
					name := fmt.Sprintf("agent-%d", r.IntN(3))
					args := [][]string{
						{"spawn", "--platform", in.platform, "--name", name, "--", "sleep", "1000"},
						{"spawn", "--platform", in.platform, "--name", name, "--", "sh", "-c", "sleep 0.02; exit 3"},
						{"spawn", "--platform", in.platform, "--rm", "--isolated", "--name", name, "--", "sleep", "0.05"},
						{"run", "--platform", in.platform, "--name", name, "--", "sh", "-c", "(sleep 1000 &); exit 4"},
						{"exec", name, "--", "sh", "-c", "exit 5"},
						{"exec", "-d", name, "--", "sleep", "1000"},
						{"kill", name}, {"kill", "-s", "USR1", "--all", name},
						{"pause", name}, {"resume", name},
						{"rm", name}, {"rm", "-f", name}, {"rm", "-f", name},
						{"logs", name}, {"inspect", name}, {"ps", "-a"}, {"domain", "ls"},
					}[r.IntN(17)]
					began := time.Now()
					res, err := in.tryCommand(args...)
					said := string(res.stderr)
					switch {
					case err != nil:
						t.Error(err)
						return
					case res.status == 125 && !knownRefusal(said):
						t.Errorf("aiosctl %s: %s", strings.Join(args, " "), res)
					case res.status == -1 || strings.Contains(said, "panic"):
						t.Errorf("aiosctl %s: %s", strings.Join(args, " "), res)
					}
					if took := time.Since(began); took > 30*time.Second {
						t.Errorf("aiosctl %s took %v", strings.Join(args, " "), took)
					}
				}
			}()
		}
		wg.Wait()
		close(over)
		<-resumed
		if d, k := in.process(t, "serve"), in.process(t, "kernel", "default"); d != daemon || k != kernel {
			t.Errorf("daemon %d, then %d; kernel %d, then %d", daemon, d, kernel, k)
		}
		in.countsOn(t, "witness")
		for _, a := range in.ps(t, "-a") {
			if a.State == "starting" || a.State == "lost" {
				t.Errorf("%+v", a)
			}
			in.ok(t, "rm", "-f", a.ID)
		}
		eventually(t, "nothing is left", 20*time.Second, func() (bool, string) {
			files, _ := filepath.Glob(filepath.Join(in.state, "agents", "*"))
			domains := in.domains(t)
			return len(files) == 0 && len(domains) == 1 && domains[0].Agents == 0, fmt.Sprint(files, domains)
		})
	})
}

// knownRefusal reports whether an error is one that a storm explains.
func knownRefusal(said string) bool {
	for _, text := range []string{
		"has that name", "no agent has the ID or name", "has ended", "has not ended", "is paused", "is not paused", "is starting",
		"was lost", "is being killed", "went away", "died", "shutting down", "no such agent", "no such process",
	} {
		if strings.Contains(said, text) {
			return true
		}
	}
	return false
}
