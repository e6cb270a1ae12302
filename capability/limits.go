package capability

import (
	"math"
	"time"

	"aios.dev/aios/abi"
)

// Limits bound how much of its object a capability gives. Zero is no limit of
// its own.
type Limits struct {
	Bytes       uint64 // fs: quota; mem: memory; semantic: of what is written
	Count       uint64 // fs: inodes; mem: mappings; proc: tasks; semantic: items
	MilliCPU    uint64 // cpu: thousandths of a processor
	Weight      uint64 // cpu: share when processors are short, 1 to 10000
	BytesPerSec uint64 // io
	OpsPerSec   uint64 // io
	Period      uint64 // cpu: nanoseconds for which MilliCPU is
	Burst       uint64 // cpu: nanoseconds that may be saved up of it
	Reserve     uint64 // cpu: millionths of a processor that are promised
	Every       uint64 // cpu: nanoseconds in which they are
	Priority    uint64 // cpu: 20 less the least niceness
	Idle        uint64 // cpu: 1: only when nobody else wants them
	Swap        uint64 // mem: of swap files
}

// Promise has the limits reserve runtime in every period, rounded up; nothing if
// the runtime is 0.
func (l *Limits) Promise(runtime, period time.Duration) {
	l.Reserve, l.Every = 0, 0
	if runtime > 0 {
		l.Reserve, l.Every = uint64(math.Ceil(float64(runtime)*1e6/float64(period))), uint64(period)
	}
}

// Kind is one of the Limits.
type Kind uint8

// The kinds of limit, in the order of the fields of Limits.
const (
	KindBytes Kind = iota
	KindCount
	KindMilliCPU
	KindWeight
	KindBytesPerSec
	KindOpsPerSec
	KindPeriod
	KindBurst
	KindReserve
	KindEvery
	KindPriority
	KindIdle
	KindSwap

	kinds = int(KindLast) + 1
	// KindLast is the last of them.
	KindLast = KindSwap
)

// MaxLimit is the highest value of a limit.
const MaxLimit = 1 << 62

// Get returns one of the limits.
func (l Limits) Get(k Kind) uint64 { return *l.at(k) }

// Set sets one of the limits.
func (l *Limits) Set(k Kind, v uint64) { *l.at(k) = v }

func (l *Limits) at(k Kind) *uint64 {
	switch k {
	case KindBytes:
		return &l.Bytes
	case KindCount:
		return &l.Count
	case KindMilliCPU:
		return &l.MilliCPU
	case KindWeight:
		return &l.Weight
	case KindBytesPerSec:
		return &l.BytesPerSec
	case KindOpsPerSec:
		return &l.OpsPerSec
	case KindPeriod:
		return &l.Period
	case KindBurst:
		return &l.Burst
	case KindReserve:
		return &l.Reserve
	case KindEvery:
		return &l.Every
	case KindPriority:
		return &l.Priority
	case KindSwap:
		return &l.Swap
	default:
		return &l.Idle
	}
}

// Divisible reports whether what a child has of k is taken from its parent: a
// weight, a time and a rank are not, since they are no amounts.
func (k Kind) Divisible() bool {
	switch k {
	case KindWeight, KindPeriod, KindBurst, KindEvery, KindPriority, KindIdle:
		return false
	}
	return true
}

// unsaid is what a limit comes to where it is not said, if that is not that there
// is no bound: nobody has a rank, a weight or a promise by saying nothing about it.
func (k Kind) unsaid() (v uint64, bounded bool) {
	switch k {
	case KindWeight:
		return 100, true
	case KindPriority:
		return 20, true
	case KindReserve, KindBurst, KindSwap:
		return 0, true
	}
	return 0, false
}

// optional reports whether one who can spend may have nothing of k: what is not said
// of a derived capability is none, and need not be divided.
func (k Kind) optional() bool { return k == KindSwap }

// Beyond reports whether v of k is more than own, as it was said or not.
func (k Kind) Beyond(own, v uint64) bool {
	if own == 0 {
		least, bounded := k.unsaid()
		return bounded && v > least
	}
	return v > own
}

// limitKey is how the text of a grant calls a limit of a class.
type limitKey struct {
	name   string
	kind   Kind
	max    uint64
	parse  func(string) (uint64, error)
	format func(uint64) string
}

func sizeKey(name string, k Kind) limitKey { return limitKey{name, k, MaxLimit, parseSize, formatSize} }
func countKey(name string, k Kind, top uint64) limitKey {
	return limitKey{name, k, top, parseCount, formatCount}
}
func timeKey(name string, k Kind, top time.Duration) limitKey {
	return limitKey{name, k, uint64(top), parseTime, formatTime}
}

// limitKeys are the limits that a class has. A class that is not here has none.
var limitKeys = [...][]limitKey{
	abi.ClassFS:  {sizeKey("quota", KindBytes), countKey("inodes", KindCount, MaxLimit)},
	abi.ClassMem: {sizeKey("bytes", KindBytes), countKey("count", KindCount, MaxLimit), sizeKey("swap", KindSwap)},
	abi.ClassCPU: {
		{"cpu", KindMilliCPU, 1 << 30, parseMilli, formatMilli}, countKey("weight", KindWeight, 10000),
		timeKey("period", KindPeriod, time.Second), timeKey("burst", KindBurst, time.Minute),
		{"reserve", KindReserve, 1 << 40, parseMicro, formatMicro}, timeKey("every", KindEvery, 10*time.Second),
		countKey("priority", KindPriority, 40), countKey("idle", KindIdle, 1),
	},
	abi.ClassIO:       {sizeKey("bps", KindBytesPerSec), countKey("ops", KindOpsPerSec, MaxLimit)},
	abi.ClassProc:     {countKey("count", KindCount, MaxLimit)},
	abi.ClassSemantic: {sizeKey("bytes", KindBytes), countKey("count", KindCount, MaxLimit)},
}

// spenders are the rights without which nothing of the limits of a class is
// used. A capability that has none of them needs no limits, and adds none.
var spenders = [len(limitKeys)]abi.Rights{
	abi.ClassFS:       abi.FSWrite | abi.FSCreate,
	abi.ClassMem:      abi.MemMap,
	abi.ClassCPU:      abi.CPURun,
	abi.ClassIO:       abi.IORead | abi.IOWrite,
	abi.ClassProc:     abi.ProcSpawn,
	abi.ClassSemantic: abi.SemanticWrite,
}

// keysOf returns the limits of a class.
func keysOf(c abi.Class) []limitKey {
	if int(c) >= len(limitKeys) {
		return nil
	}
	return limitKeys[c]
}

// spends reports whether s can use up what its limits bound.
func (s *Spec) spends() bool {
	c := int(s.Object.Class)
	return c < len(spenders) && s.Rights&spenders[c] != 0
}
