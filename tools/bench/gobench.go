package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// metrics are what Go benchmarks report: by benchmark, by unit, one value for
// each run.
type metrics map[string]map[string][]float64

// goBenchmarks runs benchmarks of a package of this module, for what cannot be
// seen from outside of a process. times is how long or how often, as -benchtime
// has it; each benchmark runs count times.
func goBenchmarks(ctx context.Context, pkg, pattern, times string, count int) (metrics, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench="+pattern, "-benchmem",
		"-benchtime="+times, "-count="+strconv.Itoa(count), "-timeout=30m", pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // Or systrap cannot run.
	text, err := output(ctx, cmd)
	if err != nil {
		return nil, err
	}
	m := parseBenchmarks(string(text))
	if len(m) == 0 {
		return nil, fmt.Errorf("go test -bench=%s %s measured nothing: %s", pattern, pkg, firstLine(string(text)))
	}
	return m, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// parseBenchmarks reads the output of go test -bench. Names are without
// "Benchmark" and without the number of CPUs.
func parseBenchmarks(text string) metrics {
	m := metrics{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 || len(fields)%2 != 0 {
			continue
		}
		name, ok := strings.CutPrefix(fields[0], "Benchmark")
		if _, err := strconv.Atoi(fields[1]); !ok || err != nil {
			continue
		}
		if i := strings.LastIndexByte(name, '-'); i >= 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		units := map[string]float64{}
		for i := 2; i < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				break
			}
			units[fields[i+1]] = v
		}
		if m[name] == nil {
			m[name] = map[string][]float64{}
		}
		for unit, v := range units {
			m[name][unit] = append(m[name][unit], v)
		}
	}
	return m
}

// median returns the median of a metric; ok is false if it was not measured.
func (m metrics) median(name, unit string) (v float64, ok bool) {
	values := m[name][unit]
	return median(values), len(values) > 0
}
