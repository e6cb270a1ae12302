package main

import (
	"math"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/sentry/smp"
)

// cpuKeys is what --cpu takes.
const cpuKeys = "weight=200, quota=0.5, period=100ms, burst=20ms, cpus=0-1+3, deadline=20ms/100ms, priority=25, class=idle"

// cpuGrant makes one grant of CPU time of KEY=VALUE pairs.
func cpuGrant(flag string, pairs []string) (string, error) {
	m, err := parseCPU(flag, pairs, false)
	if err != nil {
		return "", err
	}
	s := capability.Spec{Object: capability.Object{Class: abi.ClassCPU, Name: "self"}, Rights: abi.CPURun}
	s.Limits = capability.Limits{
		Weight: m.GetWeight(), MilliCPU: m.GetQuotaMilli(), Period: uint64(m.GetPeriodNano()), Burst: uint64(m.GetBurstNano()), Priority: m.GetPriority(),
	}
	if m.GetIdle() {
		s.Limits.Idle = 1
	}
	if m.GetCpus() != "" {
		s.Object.Name = m.GetCpus()
	}
	if r := m.GetReserved(); r != nil {
		s.Limits.Promise(time.Duration(r.GetRuntimeNano()), time.Duration(r.GetPeriodNano()))
	}
	return s.String(), nil
}

// parseCPU reads KEY=VALUE pairs. back says that "none" and "all" take back what
// was given before.
func parseCPU(flag string, pairs []string, back bool) (*apiv1.SchedSetRequest, error) {
	m := new(apiv1.SchedSetRequest)
	seen := make(map[string]bool)
	for _, pair := range pairs {
		key, value, _ := strings.Cut(pair, "=")
		if seen[key] {
			return nil, invalid(flag, pair, "said twice", "say it once")
		}
		seen[key] = true
		var n uint64
		var err error
		none := back && value == "none"
		switch key {
		case "weight":
			n, err = numberUpTo(flag, pair, value, 1, 10000)
			m.Weight = &n
		case "priority":
			n, err = numberUpTo(flag, pair, value, 1, 40)
			m.Priority = &n
		case "quota":
			if m.QuotaMilli = &n; none {
				break
			}
			cpus, bad := strconv.ParseFloat(value, 64)
			if bad != nil || !(cpus >= 0.001 && cpus <= math.MaxUint16) {
				return nil, invalid(flag, pair, "not a number of CPUs from 0.001 up", "write quota=0.5 for half of one"+orNone(back, "quota"))
			}
			n = uint64(math.Round(cpus * 1000))
		case "period":
			n, err = timeUpTo(flag, pair, value, time.Millisecond, time.Second)
			m.PeriodNano = new(int64(n))
		case "burst":
			if !none {
				n, err = timeUpTo(flag, pair, value, time.Microsecond, time.Minute)
			}
			m.BurstNano = new(int64(n))
		case "cpus":
			if back && value == "all" {
				m.Cpus = new("")
				break
			}
			set, bad := smp.Parse(strings.ReplaceAll(value, "+", ","))
			if bad != nil || set.Empty() {
				return nil, invalid(flag, pair, "not CPUs", "write numbers and ranges with '+' between them, such as cpus=0-1+3")
			}
			m.Cpus = new(set.String())
		case "deadline":
			if m.Reserved = new(apiv1.SchedReservation); !none {
				err = parseDeadline(flag, pair, value, m.Reserved, orNone(back, "deadline"))
			}
		case "class":
			if m.Idle = new(value == "idle"); value != "fair" && value != "idle" {
				return nil, invalid(flag, pair, "not a class", "write class=fair or class=idle; a deadline is a class of its own")
			}
		default:
			return nil, invalid(flag, pair, "no such key", "use some of "+cpuKeys)
		}
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

// orNone is how something is taken back, for an error.
func orNone(back bool, key string) string {
	if !back {
		return ""
	}
	return ", " + key + "=none for none"
}

func numberUpTo(flag, pair, value string, least, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n < least || n > most {
		key, _, _ := strings.Cut(pair, "=")
		return 0, invalid(flag, pair, "not a number from "+strconv.FormatUint(least, 10)+" to "+strconv.FormatUint(most, 10), "write a whole number, such as "+key+"=25")
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
func parseDeadline(flag, pair, value string, r *apiv1.SchedReservation, orNone string) error {
	a, b, _ := strings.Cut(value, "/")
	runtime, err1 := time.ParseDuration(a)
	period, err2 := time.ParseDuration(b)
	if err1 != nil || err2 != nil || runtime < 100*time.Microsecond || period < runtime || period > 10*time.Second {
		return invalid(flag, pair, "not a runtime and a period",
			"write deadline=20ms/100ms for 20 ms in each 100 ms"+orNone+"; the runtime is 100µs or more, the period 10s or less")
	}
	r.RuntimeNano, r.PeriodNano = int64(runtime), int64(period)
	return nil
}
