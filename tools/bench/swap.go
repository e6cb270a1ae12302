package main

import (
	"context"
	"fmt"
	"strconv"

	apiv1 "aios.dev/aios/api/v1"
)

// swapTouched is how much the program of the experiment touches, in MiB.
const swapTouched = 128

// swapProgram touches so many MiB, of which no page can be compressed, and then
// works on one half of it for so many rounds as it is told: it reads all and writes
// to every sixteenth page. It answers with how many milliseconds that took.
const swapProgram = `
import os, sys, time, zlib
n, step = int(sys.argv[1]) << 20, 1 << 16
for line in sys.stdin:
    began = time.perf_counter()
    if line.strip() == "fill":
        data = memoryview(bytearray(n))
        for at in range(0, n, step): data[at:at + step] = os.urandom(step // 4) * 4
    else:
        for _ in range(int(line)):
            for at in range(0, n // 2, step):
                zlib.crc32(data[at:at + step])
                data[at] = (data[at] + 1) & 255
    print((time.perf_counter() - began) * 1000, flush=True)
`

// swap measures how fast a program is whose working set is half of what it has
// touched, at a limit of 60 % of all that it has and with a swap file, beside the same without
// a limit in the same rounds.
func (h *harness) swap() error {
	if h.aios == nil {
		return nil
	}
	const limited, free = aios, "no limit"
	speakers := make(map[string]*agentSpeaker)
	var touched uint64
	for _, name := range []string{free, limited} {
		spec := h.aios.spec("", "python3", "-c", swapProgram, strconv.Itoa(swapTouched))
		if name == limited {
			spec.Limits = &apiv1.Limits{MemoryBytes: touched * 60 / 100, SwapBytes: swapTouched << 20}
		}
		s, err := h.aios.converse(h.ctx, spec)
		if err != nil {
			return err
		}
		defer s.close()
		for _, line := range []string{"fill", "50"} { // Until it is known what it needs.
			if _, err := ask(s, line); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		speakers[name] = s
		vm, err := h.aios.VMShow(h.ctx, &apiv1.VMShowRequest{Agent: s.id})
		if err != nil {
			return err
		}
		touched = vm.GetUsed() // The interpreter's memory, too.
	}
	work := func(s *agentSpeaker) func(context.Context) (map[string]float64, error) {
		return func(context.Context) (map[string]float64, error) {
			answer, err := ask(s, "5")
			if err != nil {
				return nil, err
			}
			took, err := strconv.ParseFloat(answer, 64)
			return map[string]float64{elapsed: took}, err
		}
	}
	got := h.compare(max(20, h.rounds), []contender{{limited, work(speakers[limited])}, {free, work(speakers[free])}})[elapsed]
	if len(got[limited]) == 0 || len(got[free]) == 0 {
		return fmt.Errorf("nothing was measured")
	}
	ratio := percentile(got[limited], 50) / percentile(got[free], 50)
	h.table.add(row{Figure: "swap: work on half of what was touched, at a limit of 60 % of it; beside no limit", Unit: "times as long", Runs: len(got[limited]),
		Values: ours(ratio), Goal: &goal{Limit: 1.15}})
	vm, err := h.aios.VMShow(h.ctx, &apiv1.VMShowRequest{Agent: speakers[limited].id})
	if err != nil {
		return err
	}
	w := vm.GetSwap()
	h.table.note("swap: it has %d MiB of %d; %d pages went out, %d came in", vm.GetUsed()>>20, vm.GetLimit()>>20, w.GetOuts(), w.GetIns())
	return nil
}
