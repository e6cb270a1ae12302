package main

import (
	"math"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/sentry/smp"
)

// cpuKeys is what --cpu takes.
const cpuKeys = "weight=200, quota=0.5, period=100ms, burst=20ms, cpus=0-1+3, deadline=20ms/100ms, priority=25, class=idle"

// cpuGrant makes one grant of CPU time of KEY=VALUE pairs.
func cpuGrant(flag string, pairs []string) (string, error) {
	s := capability.Spec{Object: capability.Object{Class: abi.ClassCPU, Name: "self"}, Rights: abi.CPURun}
	l := &s.Limits
	seen := make(map[string]bool)
	for _, pair := range pairs {
		key, value, _ := strings.Cut(pair, "=")
		if seen[key] {
			return "", invalid(flag, pair, "said twice", "say it once")
		}
		seen[key] = true
		var err error
		switch key {
		case "weight":
			l.Weight, err = numberUpTo(flag, pair, value, 1, 10000)
		case "priority":
			l.Priority, err = numberUpTo(flag, pair, value, 1, 40)
		case "quota":
			n, bad := strconv.ParseFloat(value, 64)
			if bad != nil || !(n >= 0.001 && n <= math.MaxUint16) {
				return "", invalid(flag, pair, "not a number of CPUs from 0.001 up", "write quota=0.5 for half of one")
			}
			l.MilliCPU = uint64(math.Round(n * 1000))
		case "period":
			l.Period, err = timeUpTo(flag, pair, value, time.Millisecond, time.Second)
		case "burst":
			l.Burst, err = timeUpTo(flag, pair, value, time.Microsecond, time.Minute)
		case "cpus":
			set, bad := smp.Parse(strings.ReplaceAll(value, "+", ","))
			if bad != nil || set.Empty() {
				return "", invalid(flag, pair, "not CPUs", "write numbers and ranges with '+' between them, such as cpus=0-1+3")
			}
			s.Object.Name = set.String()
		case "deadline":
			err = parseDeadline(flag, pair, value, l)
		case "class":
			switch value {
			case "fair":
			case "idle":
				l.Idle = 1
			default:
				return "", invalid(flag, pair, "not a class", "write class=fair or class=idle; a deadline is a class of its own")
			}
		default:
			return "", invalid(flag, pair, "no such key", "use some of "+cpuKeys)
		}
		if err != nil {
			return "", err
		}
	}
	return s.String(), nil
}

func numberUpTo(flag, pair, value string, least, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n < least || n > most {
		return 0, invalid(flag, pair, "not a number from "+strconv.FormatUint(least, 10)+" to "+strconv.FormatUint(most, 10), "")
	}
	return n, nil
}

func timeUpTo(flag, pair, value string, least, most time.Duration) (uint64, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < least || d > most {
		return 0, invalid(flag, pair, "not a time from "+least.String()+" to "+most.String(), "write a number with a unit, such as 20ms")
	}
	return uint64(d), nil
}

// parseDeadline reads RUNTIME/PERIOD.
func parseDeadline(flag, pair, value string, l *capability.Limits) error {
	a, b, _ := strings.Cut(value, "/")
	runtime, err1 := time.ParseDuration(a)
	period, err2 := time.ParseDuration(b)
	if err1 != nil || err2 != nil || runtime < 100*time.Microsecond || period < runtime || period > 10*time.Second {
		return invalid(flag, pair, "not a runtime and a period", "write deadline=20ms/100ms for 20 ms in each 100 ms; the runtime is 100µs or more, the period 10s or less")
	}
	l.Every = uint64(period)
	l.Reserve = uint64(math.Ceil(float64(runtime) * 1e6 / float64(period)))
	return nil
}
