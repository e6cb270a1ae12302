package main

import (
	"fmt"
	"os"
)

// semanticItems is how many items semantic memory is measured with.
const semanticItems = "100000"

// semanticTimes is how many questions of each kind are asked.
const semanticTimes = "500x"

// semantic measures semantic memory: questions by words and a vector of 384
// dimensions, and how many of the ten that are nearest they find; beside it every
// vector compared, and SQLite's full-text index asked for the words alone. The store
// is filled anew, which takes minutes; AIOS_SEMANTIC_STORE names a directory to keep
// it in.
func (h *harness) semantic() error {
	if err := os.Setenv("AIOS_SEMANTIC_ITEMS", semanticItems); err != nil {
		return err
	}
	m, err := goBenchmarks(h.ctx, "aios.dev/aios/fabric/semantic/store", "^BenchmarkHybrid$", semanticTimes, 1)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name, unit, label, shown string
		scale                    float64
		goal                     *goal
		more                     bool
	}{
		{"Hybrid/hybrid", "p50-µs", "semantic memory, 100,000 items: a hybrid question, p50", "ms", 1e-3, nil, false},
		{"Hybrid/hybrid", "p99-µs", "semantic memory, 100,000 items: a hybrid question, p99", "ms", 1e-3, &goal{Limit: 20}, false},
		{"Hybrid/hybrid", "recall@10", "semantic memory: recall@10 of it", "", 1, &goal{Limit: 0.95}, true},
		{"Hybrid/vector", "vector-recall@10", "semantic memory: recall@10 of vectors alone", "", 1, &goal{Limit: 0.95}, true},
		{"Hybrid/vector", "p99-µs", "semantic memory: a question by vector, p99", "ms", 1e-3, nil, false},
		{"Hybrid/text", "p99-µs", "semantic memory: a question by words, p99", "ms", 1e-3, nil, false},
		{"Hybrid/exact", "p50-µs", "semantic memory, beside it: every vector compared, p50", "ms", 1e-3, nil, false},
		{"Hybrid/exact", "p99-µs", "semantic memory, beside it: every vector compared, p99", "ms", 1e-3, nil, false},
		{"Hybrid/fts5", "p50-µs", "semantic memory, beside it: FTS5 of SQLite, words alone, p50", "ms", 1e-3, nil, false},
		{"Hybrid/fts5", "p99-µs", "semantic memory, beside it: FTS5 of SQLite, words alone, p99", "ms", 1e-3, nil, false},
		{"Hybrid/hybrid", "open-s", "semantic memory: to open the store, with its graphs", "s", 1, nil, false},
	} {
		v, ok := m.median(c.name, c.unit)
		if !ok {
			return fmt.Errorf("the benchmark of semantic memory does not say %s of %s", c.unit, c.name)
		}
		h.table.add(row{Figure: c.label, Unit: c.shown, Values: ours(v * c.scale), Goal: c.goal, More: c.more, Runs: 500})
	}
	return nil
}
