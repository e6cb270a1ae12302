package errdefs

import (
	"cmp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Category is the part of the system that a Code speaks of.
type Category string

// The categories.
const (
	CategoryRequest    Category = "request"
	CategoryAgent      Category = "agent"
	CategoryDomain     Category = "domain"
	CategoryImage      Category = "image"
	CategoryCapability Category = "capability"
	CategorySecurity   Category = "security"
	CategoryMemory     Category = "memory"
	CategoryScheduler  Category = "scheduler"
	CategoryFilesystem Category = "filesystem"
	CategoryIO         Category = "io"
	CategoryNetwork    Category = "network"
	CategoryIPC        Category = "ipc"
	CategoryService    Category = "service"
	CategoryPlatform   Category = "platform"
	CategoryConfig     Category = "config"
	CategoryInternal   Category = "internal"
)

// categories in the order in which people read them.
var categories = []Category{
	CategoryRequest, CategoryAgent, CategoryDomain, CategoryImage, CategoryCapability, CategorySecurity,
	CategoryMemory, CategoryScheduler, CategoryFilesystem, CategoryIO, CategoryNetwork, CategoryIPC,
	CategoryService, CategoryPlatform, CategoryConfig, CategoryInternal,
}

// Categories returns every category, in the order in which people read them.
func Categories() []Category { return slices.Clone(categories) }

// Severity says how bad a failure is for the system as a whole.
type Severity uint8

// The severities, rising.
const (
	// Notice: part of normal work; a caller asked for what there is not.
	Notice Severity = iota
	// Warning: something was refused or ran short; everything else goes on.
	Warning
	// Failure: something that should have worked did not.
	Failure
	// Critical: agents were lost, or what AIOS promises no longer holds.
	Critical
)

// String names the severity.
func (s Severity) String() string {
	return [...]string{"notice", "warning", "failure", "critical"}[s]
}

// Blame says whose fault a failure is.
type Blame uint8

// The parties.
const (
	BlameAIOS   Blame = iota
	BlameCaller       // the operator, or the program that made the request
	BlameHost
	BlameAgent
)

// String names the party.
func (b Blame) String() string {
	return [...]string{"aios", "caller", "host", "agent"}[b]
}

// When says when the same request may succeed.
type When uint8

// The answers.
const (
	// Never: the same request fails again, always.
	Never When = iota
	// AtOnce: the same request may be repeated immediately.
	AtOnce
	// AfterDelay: the same request may succeed later.
	AfterDelay
	// AfterChange: somebody has to change something first.
	AfterChange
)

// String names the answer.
func (w When) String() string {
	return [...]string{"never", "at-once", "after-delay", "after-change"}[w]
}

// Retry says whether repeating a request helps, and how often it is sensible.
type Retry struct {
	When When
	// Delay is the least time to wait before the first repetition; later ones
	// wait longer. Only AfterDelay has one.
	Delay time.Duration
	// Limit is how often to repeat before giving up; 0 where repeating does
	// not help.
	Limit int
}

// Propagation says what a failure may tell a reader who has less authority
// than the layer that failed: an agent, or the bearer of a token. Inside one
// authority any layer may wrap any error with what it attempted; the code
// stays that of the innermost layer that knew the reason.
type Propagation uint8

// The rules.
const (
	// Expose: code and text pass every door.
	Expose Propagation = iota
	// Redact: the code passes; text stays on the operator's side, because it
	// names things of the host.
	Redact
	// Translate: the door shows another code, Info.ShownAs, because the true
	// one says what the reader must not learn.
	Translate
)

// String names the rule.
func (p Propagation) String() string {
	return [...]string{"expose", "redact", "translate"}[p]
}

// Escalation is the set of those who are told besides the caller, who always
// is. The same failure repeating is told once and then counted.
type Escalation uint8

// Who is told.
const (
	// TellLog: the log of the process where it happened.
	TellLog Escalation = 1 << iota
	// TellOperator: the daemon's list of recent errors.
	TellOperator
	// TellAudit: the audit trail, before the caller hears.
	TellAudit
)

// String names them, joined by '+'.
func (e Escalation) String() string {
	names := []string{"caller"}
	for i, n := range [...]string{"log", "operator", "audit"} {
		if e&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, "+")
}

// Exit statuses of a command that fails for a reason of AIOS's own, as shells
// and container runtimes use them.
const (
	ExitFailure       = 125
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// Info is what is known about a Code.
type Info struct {
	Category    Category
	Severity    Severity
	Blame       Blame
	Retry       Retry
	Propagation Propagation
	// ShownAs is the code that a door shows instead; set only for Translate.
	ShownAs    Code
	Escalation Escalation
	// Errno is what a program inside an agent gets.
	Errno syscall.Errno
	// GRPC is the status that a client of the API gets, by its number in
	// google.rpc.Code.
	GRPC uint32
	// Exit is the exit status of a command.
	Exit int
	// Meaning is one clause; Why explains it; Do says what helps.
	Meaning, Why, Do string
}

// InfoOf returns the row of a code; an unknown code counts as Internal.
func InfoOf(c Code) Info {
	if i, ok := table[c]; ok {
		return i
	}
	return table[Internal]
}

// Known reports whether the table has a row for c. A newer peer may send codes
// that it has not.
func Known(c Code) bool {
	_, ok := table[c]
	return ok
}

// Codes returns every code, by category and name.
func Codes() []Code {
	out := make([]Code, 0, len(table))
	for c := range table {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Code) int {
		return cmp.Or(
			slices.Index(categories, table[a].Category)-slices.Index(categories, table[b].Category),
			strings.Compare(string(a), string(b)))
	})
	return out
}

// ExitOf returns the exit status for err: 0 for nil.
func ExitOf(err error) int {
	if err == nil {
		return 0
	}
	return InfoOf(CodeOf(err)).Exit
}
