package ctlfs

import (
	"fmt"
	"strings"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// Watchdog is an agent's watchdog as it stands.
type Watchdog struct {
	// Timeout is 0 while it is not armed; Left is until it expires.
	Timeout, Left time.Duration
	// ByOwner says that the agent cannot disarm it.
	ByOwner bool
	// OnExpiry is the rule of what happens then.
	OnExpiry string
	// Expired counts how often it has expired.
	Expired uint64
}

// String is the text of /aios/self/watchdog.
func (w Watchdog) String() string {
	if w.Timeout == 0 {
		return fmt.Sprintf("off on-expiry=%s expired=%d\n", w.OnExpiry, w.Expired)
	}
	by := "agent"
	if w.ByOwner {
		by = "owner"
	}
	return fmt.Sprintf("armed timeout=%v left=%v by=%s on-expiry=%s expired=%d\n", w.Timeout, w.Left, by, w.OnExpiry, w.Expired)
}

// WatchdogOrder is what an agent writes: Feed, or a timeout to arm it with, 0
// to disarm it.
type WatchdogOrder struct {
	Feed    bool
	Timeout time.Duration
}

// ParseWatchdog reads "feed" or nothing, "off", or a duration.
func ParseWatchdog(text string) (WatchdogOrder, error) {
	switch text = strings.TrimSuffix(text, "\n"); text {
	case "", "feed":
		return WatchdogOrder{Feed: true}, nil
	case "off":
		return WatchdogOrder{}, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < abi.MinWatchdog || d > abi.MaxWatchdog {
		return WatchdogOrder{}, errdefs.New(errdefs.InvalidArgument, "it is nothing to tell a watchdog", errdefs.Resource("%q", text),
			errdefs.Fix("write feed, off, or a time from %v to %v such as 30s", abi.MinWatchdog, abi.MaxWatchdog))
	}
	return WatchdogOrder{Timeout: d}, nil
}

func (s *session) watchdog() ([]byte, error) {
	w, err := s.auth.Watchdog(s.agent)
	return []byte(w.String()), err
}

// orderWatchdog carries out what was written to the file.
func (s *session) orderWatchdog(text string) error {
	o, err := ParseWatchdog(text)
	if err != nil {
		return err
	}
	return s.auth.SetWatchdog(s.agent, o)
}
