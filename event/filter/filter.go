// Package filter decides which events a subscriber gets: a CEL expression over
// the fields of an event, one event of many, and so many a second.
//
// Key types:
//
//   - Filter is a compiled expression. Compile refuses what cannot be, with the
//     column; Match never fails: what has no answer is no match, and counted by
//     the caller.
//   - Value is a compiled expression that comes to a number.
//   - Sampler and Limiter let through a share of the events, or so many in a
//     second.
//   - Gate is all of these together with a severity floor, in that order.
//
// An expression sees the variables topic, severity, agent, agent_name, domain,
// source, correlation, time, and data with the fields of the payload. Severities
// are compared with their names: severity >= "warning". A field that the payload
// of an event does not have makes what is said of it false.
//
// Untrusted clients write expressions: their length, the depth they nest to, and
// what one evaluation may cost are bounded. A Filter may be used by many
// goroutines; a Sampler, a Limiter and a Gate have one user each. The package
// takes no locks and imports no gVisor.
package filter

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
)

// Bounds of an expression.
const (
	MaxExpression = 4096 // bytes
	maxNesting    = 64
	// maxCost is what one evaluation may cost, in CEL's units: roughly one for
	// each operation, and one for ten bytes of text that are compared.
	maxCost = 20_000
)

// Filter is a compiled expression.
type Filter struct {
	text    string
	program cel.Program
	agent   string
	topic   string
}

// variables are what an expression sees, with one line on each.
var variables = []struct {
	name string
	typ  *cel.Type
	doc  string
}{
	{"topic", cel.StringType, "what happened, for example \"agent.exit\""},
	{"severity", cel.IntType, "compared with a name: severity >= \"warning\""},
	{"agent", cel.StringType, "the ID of the agent, \"\" for none"},
	{"agent_name", cel.StringType, "the name of the agent, \"\" for none"},
	{"domain", cel.StringType, "the domain, \"\" for none"},
	{"source", cel.StringType, "the boot of the process that made the event"},
	{"correlation", cel.StringType, "the request that caused it"},
	{"time", cel.TimestampType, "when it happened"},
	{"data", cel.DynType, "the fields of its payload, as in data.errno"},
}

// Variables returns the names of the variables, each with a line on it.
func Variables() [][2]string {
	var out [][2]string
	for _, v := range variables {
		out = append(out, [2]string{v.name, v.doc})
	}
	return out
}

// environment is what expressions are compiled in.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	opts := []cel.EnvOption{
		cel.ParserExpressionSizeLimit(MaxExpression),
		cel.ParserRecursionLimit(maxNesting),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
	}
	for _, v := range variables {
		opts = append(opts, cel.Variable(v.name, v.typ))
	}
	return cel.NewEnv(opts...)
})

// Compile compiles an expression.
func Compile(text string) (*Filter, error) {
	return compile(text, "true or false", "compare it with something, as in topic == \"agent.exit\"", cel.BoolType)
}

// compile compiles an expression that comes to one of some types.
func compile(text, wanted, fix string, kinds ...*cel.Type) (*Filter, error) {
	if len(text) > MaxExpression {
		return nil, invalid(fmt.Sprintf("the expression is longer than %d bytes", MaxExpression), "filter by topic, and keep the expression short")
	}
	env, err := environment()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "compile filter")
	}
	ast, issues := env.Parse(text)
	if err := firstIssue(text, issues); err != nil {
		return nil, err
	}
	f := &Filter{text: text}
	if err := f.examine(text, ast.NativeRep()); err != nil {
		return nil, err
	}
	ast, issues = env.Check(ast)
	if err := firstIssue(text, issues); err != nil {
		return nil, err
	}
	out := ast.OutputType()
	if !out.IsEquivalentType(cel.DynType) && !slices.ContainsFunc(kinds, out.IsEquivalentType) {
		return nil, invalid(fmt.Sprintf("the expression is of type %s, and has to be %s", out, wanted), fix)
	}
	f.program, err = env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return nil, invalid(err.Error(), "see `aiosctl events --help`")
	}
	return f, nil
}

// firstIssue is the first thing that is wrong with an expression, nil for none.
func firstIssue(text string, issues *cel.Issues) error {
	if issues.Err() == nil {
		return nil
	}
	all := issues.Errors()
	if len(all) == 0 {
		return invalid(issues.Err().Error(), "see `aiosctl events --help`")
	}
	first := slices.MinFunc(all, func(a, b *cel.Error) int {
		return cmp.Or(cmp.Compare(a.Location.Line(), b.Location.Line()), cmp.Compare(a.Location.Column(), b.Location.Column()))
	})
	message := strings.TrimSuffix(first.Message, " (in container '')")
	fix := "see `aiosctl events --help` for what a filter is made of"
	if strings.Contains(message, "undeclared reference") {
		var names []string
		for _, v := range variables {
			names = append(names, v.name)
		}
		fix = "variables are " + strings.Join(names, ", ") + "; text is in quotes"
	}
	return at(text, first.Location.Line(), first.Location.Column(), message, fix)
}

// at is the error of a place in an expression.
func at(text string, line, column int, message, fix string) error {
	where := fmt.Sprintf("column %d", column+1)
	if strings.Contains(text, "\n") {
		where = fmt.Sprintf("line %d, column %d", line, column+1)
	}
	return invalid(where+": "+message, fix)
}

func invalid(detail, fix string) error {
	return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("compile filter"), errdefs.Fix("%s", fix))
}

// String returns the expression.
func (f *Filter) String() string { return f.text }

// Agent returns the agent that an event must have for the filter to match, by
// ID, and "" when it may have any.
func (f *Filter) Agent() string { return f.agent }

// Topic returns the topic that an event must have for the filter to match, and
// "" when it may have any.
func (f *Filter) Topic() string { return f.topic }

// Match reports whether the filter lets an event through, of an agent of that
// name. err is set when there is no answer, which is no match.
func (f *Filter) Match(e *event.Event, agentName string) (matched bool, err error) {
	out, err := f.eval(e, agentName)
	return err == nil && out == types.True, err
}

func (f *Filter) eval(e *event.Event, agentName string) (ref.Val, error) {
	a := activations.Get().(*activation)
	a.e, a.agentName = e, agentName
	out, _, err := f.program.Eval(a)
	a.e = nil
	activations.Put(a)
	return out, err
}

var activations = sync.Pool{New: func() any { return new(activation) }}

// activation gives an event's fields to an evaluation.
type activation struct {
	e         *event.Event
	agentName string
}

// ResolveName implements cel.Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	switch e := a.e; name {
	case "topic":
		return types.String(e.Topic()), true
	case "severity":
		return types.Int(e.Severity), true
	case "agent":
		return types.String(e.Agent), true
	case "agent_name":
		return types.String(a.agentName), true
	case "domain":
		return types.String(e.Domain), true
	case "source":
		return types.String(e.Source), true
	case "correlation":
		return types.String(e.Correlation), true
	case "time":
		return types.Timestamp{Time: time.Unix(0, e.Wall).UTC()}, true
	case "data":
		return payloadOf(e.Payload), true
	}
	return nil, false
}

// Parent implements cel.Activation.
func (a *activation) Parent() cel.Activation { return nil }
