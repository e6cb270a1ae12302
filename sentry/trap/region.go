package trap

import "sync/atomic"

// Region is where the address of an exception lies, coarsely: enough to see
// what a program that faults is doing.
type Region uint8

// The regions. An exception that is no page fault is one of code.
const (
	RegionData  Region = iota // anywhere else: heap, files, holes between them
	RegionNull                // near zero: a pointer to nothing
	RegionStack               // near the stack pointer
	RegionCode                // the instruction itself
	RegionHigh                // above what any program has
	RegionCount
)

var regionNames = [RegionCount]string{"data", "null", "stack", "code", "high"}

// String is the region's name.
func (r Region) String() string {
	if r >= RegionCount {
		return "?"
	}
	return regionNames[r]
}

// Bounds of regions, in bytes.
const (
	nullSize   = 64 << 10 // Linux maps nothing below it by default
	stackBelow = 1 << 20  // a frame reaches that far below the stack pointer
	stackAbove = 64 << 10
	highStart  = 1 << 47 // of the upper half, and of addresses that there are not
)

func regionOf(e *Exception) Region {
	switch {
	case e.Vector != PageFault, e.Access&Execute != 0 && e.Addr == e.IP && e.Addr >= nullSize && e.Addr < highStart:
		return RegionCode
	case e.Addr < nullSize:
		return RegionNull
	case e.Addr >= highStart:
		return RegionHigh
	case e.Addr+stackBelow >= e.SP && e.Addr < e.SP+stackAbove:
		return RegionStack
	}
	return RegionData
}

// Counts counts exceptions by vector and region. Its zero value is ready.
type Counts struct {
	n     [VectorCount][RegionCount]atomic.Uint64
	total atomic.Uint64
}

// Add counts one, and returns how many there are now of all kinds.
func (c *Counts) Add(v Vector, r Region) uint64 {
	if v < VectorCount && r < RegionCount {
		c.n[v][r].Add(1)
	}
	return c.total.Add(1)
}

// Total is how many were counted.
func (c *Counts) Total() uint64 { return c.total.Load() }

// Count is how often one kind of exception happened in one region.
type Count struct {
	Vector Vector
	Region Region
	Count  uint64
}

// List returns what was counted, in order of vector and region.
func (c *Counts) List() []Count {
	var out []Count
	for v := range c.n {
		for r := range c.n[v] {
			if n := c.n[v][r].Load(); n > 0 {
				out = append(out, Count{Vector(v), Region(r), n})
			}
		}
	}
	return out
}
