package smp

import (
	"sync/atomic"
	"time"
)

// LoadEvery is how often a Load wants to be told how many tasks want a CPU.
const LoadEvery = 5 * time.Second

// LoadShift is how many bits of an average are behind the point.
const LoadShift = 11

// Load is how many tasks want a CPU on average over the last minute, the last 5
// and the last 15, reckoned as Linux does: older numbers count less and less. The
// zero value has seen none. It may be read while it is told.
type Load [3]atomic.Uint64

// loadDecays is how much of an average is left after one interval: e to the power
// of minus 5 seconds through its time.
var loadDecays = [3]uint64{1884, 2014, 2037}

// Tick tells that active tasks want a CPU, as they did for the last n intervals.
func (l *Load) Tick(active, n int) {
	const one = 1 << LoadShift
	now := uint64(max(active, 0)) << LoadShift
	for i, decay := range loadDecays {
		avg := l[i].Load()
		for range n {
			next := avg*decay + now*(one-decay)
			if now >= avg {
				next += one - 1 // It gets there.
			}
			if next >>= LoadShift; next == avg {
				break // And so for ever.
			}
			avg = next
		}
		l[i].Store(avg)
	}
}

// Averages returns the three averages, in units of 1 >> LoadShift.
func (l *Load) Averages() (avg [3]uint64) {
	for i := range avg {
		avg[i] = l[i].Load()
	}
	return avg
}
