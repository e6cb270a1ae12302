package trap

import (
	"strconv"

	"aios.dev/aios/errdefs"
)

// Vector is the number of an exception of x86-64.
type Vector uint8

// The exceptions that application code can raise, or that happen to it, and the
// interrupt that no mask keeps away.
const (
	DivideError       Vector = 0
	Debug             Vector = 1
	NMI               Vector = 2 // the watchdog's, over calls that keep the kernel busy
	Breakpoint        Vector = 3
	Overflow          Vector = 4
	InvalidOpcode     Vector = 6
	DoubleFault       Vector = 8 // an exception that could not be delivered
	SegmentNotPresent Vector = 11
	StackFault        Vector = 12
	GeneralProtection Vector = 13
	PageFault         Vector = 14
	FloatingPoint     Vector = 16
	AlignmentCheck    Vector = 17
	MachineCheck      Vector = 18
	SIMD              Vector = 19
	ControlProtection Vector = 21

	// VectorCount bounds the numbers.
	VectorCount = 32
)

// VectorInfo is what is known of an exception.
type VectorInfo struct {
	Vector Vector
	// Name is what policies and people call it, Mnemonic what manuals do.
	Name, Mnemonic string
	// Meaning is a phrase for people.
	Meaning string
}

var vectors = []VectorInfo{
	{DivideError, "divide-error", "#DE", "a division by zero, or a quotient that does not fit"},
	{Debug, "debug", "#DB", "a single step, or a breakpoint of the debug registers"},
	{NMI, "lockup", "#NMI", "a call that kept the kernel busy for longer than its watchdog allows"},
	{Breakpoint, "breakpoint", "#BP", "the instruction INT3"},
	{Overflow, "overflow", "#OF", "the instruction INT 4"},
	{InvalidOpcode, "invalid-opcode", "#UD", "an instruction that there is not"},
	{DoubleFault, "double-fault", "#DF", "an exception whose signal could not be delivered: no usable stack"},
	{SegmentNotPresent, "segment-not-present", "#NP", "a segment that is not there"},
	{StackFault, "stack-fault", "#SS", "a stack address that no address space has"},
	{GeneralProtection, "general-protection", "#GP", "a privileged instruction, or an address that no address space has"},
	{PageFault, "page-fault", "#PF", "memory that is not mapped, or not for that"},
	{FloatingPoint, "floating-point", "#MF", "an unmasked exception of the x87 unit"},
	{AlignmentCheck, "alignment-check", "#AC", "a misaligned access by a program that asked to hear of them"},
	{MachineCheck, "machine-check", "#MC", "memory of the host that has failed"},
	{SIMD, "simd", "#XM", "an unmasked exception of SSE or AVX"},
	{ControlProtection, "control-protection", "#CP", "a return to where no call came from"},
}

// byVector is vectors by number.
var byVector = func() (t [VectorCount]VectorInfo) {
	for _, i := range vectors {
		t[i.Vector] = i
	}
	return t
}()

// Vectors returns every exception in order of number. The caller must not
// change it.
func Vectors() []VectorInfo { return vectors }

// Info returns what is known of v; ok is false if nothing is.
func (v Vector) Info() (info VectorInfo, ok bool) {
	if v >= VectorCount || byVector[v].Name == "" {
		return VectorInfo{}, false
	}
	return byVector[v], true
}

// String is the name of the exception, or its number.
func (v Vector) String() string {
	if i, ok := v.Info(); ok {
		return i.Name
	}
	return strconv.Itoa(int(v))
}

// ParseVector reads the name of an exception, or its mnemonic with or without
// the number sign.
func ParseVector(text string) (Vector, error) {
	for _, i := range vectors {
		if text == i.Name || text == i.Mnemonic || text == i.Mnemonic[1:] {
			return i.Vector, nil
		}
	}
	return 0, errdefs.New(errdefs.InvalidArgument, "no exception has that name", errdefs.Resource("%q", text),
		errdefs.Fix("the exceptions are: %s", vectorNames()))
}

func vectorNames() string {
	var text string
	for n, i := range vectors {
		if n > 0 {
			text += ", "
		}
		text += i.Name
	}
	return text
}
