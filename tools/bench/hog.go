package main

import (
	"context"
	"fmt"
	"time"
)

// hogLimit is the memory that a hog may have, in MiB.
const hogLimit = 64

const (
	// hogWindow is for how long a neighbour is looked at, in milliseconds.
	hogWindow = 300
	// hogsPerWindow take memory one after the other meanwhile.
	hogsPerWindow = 4
)

// hog lets programs take more memory than they may have, and looks at how soon
// that ends, and at what it costs a neighbour.
func (h *harness) hog() error {
	r, err := h.toolsRoot()
	if err != nil {
		return err
	}
	type home struct {
		name  string
		start func(ctx context.Context, memory int64, argv ...string) (speaker, error)
	}
	var homes []home
	// A limit of a runsc box is one of its kernel, too, which takes more.
	if p := h.peer(runc); p != nil {
		homes = append(homes, home{runc, func(ctx context.Context, memory int64, argv ...string) (speaker, error) {
			return p.converse(ctx, box{root: r, argv: argv, memory: memory})
		}})
	}
	if h.aios != nil {
		homes = append(homes, home{aios, func(ctx context.Context, memory int64, argv ...string) (speaker, error) {
			spec := h.aios.spec(toolsImage, argv...)
			if memory > 0 {
				spec.Grants = []string{fmt.Sprintf("mem:self,bytes=%d", memory)}
			}
			return h.aios.converse(ctx, spec)
		}})
	}
	rounds := max(5, h.rounds/2)
	for _, way := range []struct{ name, label string }{
		{"heap", "takes ever more"}, {"stop", "takes a little too much and waits"}, {"files", "writes ever more to a file in memory"},
	} {
		var contenders []contender
		for _, home := range homes {
			contenders = append(contenders, contender{home.name, func(ctx context.Context) (map[string]float64, error) {
				s, err := home.start(ctx, hogLimit<<20, hogArgv(way.name)...)
				if err != nil {
					return nil, err
				}
				defer s.close()
				return hogged(s)
			}})
		}
		h.table.spread("a hog "+way.label+", from 4 MiB below its limit to its end", "ms",
			h.compare(rounds, contenders)[elapsed], nil, &goal{Limit: 100})
	}

	var contenders []contender
	for _, home := range homes {
		contenders = append(contenders, contender{home.name, func(ctx context.Context) (map[string]float64, error) {
			return besideHogs(func(memory int64, argv ...string) (speaker, error) { return home.start(ctx, memory, argv...) })
		}})
	}
	got := h.compare(rounds, contenders)
	h.table.add(medians("p99 of a neighbour's work, nobody beside it", "µs", got["quiet"]))
	h.table.add(medians("p99 of a neighbour's work, hogs beside it", "µs", got["beside"]))
	change := medians("p99 of a neighbour's work: more beside hogs", "%", got["change"])
	change.Goal = &goal{Limit: 10}
	h.table.add(change)
	return nil
}

func hogArgv(way string) []string { return []string{"/work/hog", way, fmt.Sprint(hogLimit)} }

// hogged lets a hog go, and measures from when it nears its limit until it is
// refused more or has ended.
func hogged(s speaker) (map[string]float64, error) {
	answer, err := ask(s, "")
	began := time.Now()
	if err != nil {
		return nil, err
	}
	if answer != "near" {
		return nil, fmt.Errorf("a hog says %q before it is near its limit", answer)
	}
	answer, ok, err := s.line()
	if err == nil && ok && answer != "refused" {
		err = fmt.Errorf("a hog near its limit says %q", answer)
	}
	if err != nil {
		return nil, err
	}
	return map[string]float64{elapsed: milliseconds(time.Since(began))}, nil
}

// besideHogs compares a neighbour's work while hogs take memory and die with
// that before and after.
func besideHogs(start func(memory int64, argv ...string) (speaker, error)) (map[string]float64, error) {
	neighbour, err := start(0, "/work/steady")
	if err != nil {
		return nil, err
	}
	defer neighbour.close()
	var hogs []speaker
	for range hogsPerWindow {
		s, err := start(hogLimit<<20, hogArgv("heap")...)
		if err != nil {
			return nil, err
		}
		defer s.close()
		hogs = append(hogs, s)
	}
	time.Sleep(calm)
	before, err := paceOf(neighbour, hogWindow)
	if err != nil {
		return nil, err
	}
	if err := neighbour.send(fmt.Sprint(hogWindow)); err != nil {
		return nil, err
	}
	end := time.Now().Add(hogWindow * time.Millisecond)
	for _, s := range hogs {
		if time.Now().After(end) {
			break
		}
		if _, err := hogged(s); err != nil {
			return nil, err
		}
	}
	line, _, err := neighbour.line()
	if err != nil {
		return nil, err
	}
	beside, err := parsePace(line)
	if err != nil {
		return nil, err
	}
	time.Sleep(calm)
	after, err := paceOf(neighbour, hogWindow)
	if err != nil {
		return nil, err
	}
	quiet := (before.p99 + after.p99) / 2
	return map[string]float64{"quiet": quiet / 1000, "beside": beside.p99 / 1000, "change": 100 * (beside.p99/quiet - 1)}, nil
}
