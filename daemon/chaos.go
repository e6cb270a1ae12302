package daemon

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/ktime"
)

// chaosJump is by how much a signal sets the daemon's clock, in tests.
const chaosJump = time.Hour

// chaosClock is the daemon's clock: where failures are injected, SIGUSR1 sets it
// forward and SIGUSR2 back.
func chaosClock() ktime.Clock {
	if os.Getenv(abi.ChaosEnv) != "1" {
		return ktime.Real
	}
	clock := ktime.NewJumping(ktime.Real)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range signals {
			if s == syscall.SIGUSR1 {
				clock.Jump(chaosJump)
			} else {
				clock.Jump(-chaosJump)
			}
		}
	}()
	return clock
}
