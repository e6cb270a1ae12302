package filter

import (
	"math"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"aios.dev/aios/event"
)

// Value is a compiled expression that comes to a number.
type Value struct{ f *Filter }

// CompileValue compiles an expression that comes to a number.
func CompileValue(text string) (*Value, error) {
	f, err := compile(text, "a number", "name a field, as in data.used", cel.IntType, cel.UintType, cel.DoubleType)
	if err != nil {
		return nil, err
	}
	return &Value{f}, nil
}

// String returns the expression.
func (v *Value) String() string { return v.f.text }

// Of returns what the expression comes to for an event of an agent of that name.
// ok is false when that is no number.
func (v *Value) Of(e *event.Event, agentName string) (n float64, ok bool) {
	out, err := v.f.eval(e, agentName)
	if err != nil {
		return 0, false
	}
	switch out := out.(type) {
	case types.Int:
		return float64(out), true
	case types.Uint:
		return float64(out), true
	case types.Double:
		n = float64(out)
		return n, !math.IsNaN(n) && !math.IsInf(n, 0)
	}
	return 0, false
}
