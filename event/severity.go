package event

import (
	"strings"

	"aios.dev/aios/errdefs"
)

// Severity says how much an event matters. The zero value stands for that of
// the event's type.
type Severity uint8

// Severities, the least first.
const (
	Debug    Severity = iota + 1 // detail that is only made on demand
	Info                         // the ordinary course of things
	Notice                       // ordinary, and worth knowing
	Warning                      // refused, limited or lost, and all goes on
	Error                        // something ended that should not have
	Critical                     // a domain, or AIOS itself, is in danger
)

// severities is one more than the number of the highest.
const severities = int(Critical) + 1

var severityNames = [severities]string{"", "debug", "info", "notice", "warning", "error", "critical"}

// String returns the name of the severity in lower case.
func (s Severity) String() string {
	if int(s) < severities {
		return severityNames[s]
	}
	return "unknown"
}

// ParseSeverity returns the severity of a name.
func ParseSeverity(name string) (Severity, error) {
	for s := Debug; s <= Critical; s++ {
		if strings.EqualFold(name, s.String()) {
			return s, nil
		}
	}
	return 0, errdefs.New(errdefs.InvalidArgument, "there is no severity of this name", errdefs.Op("read severity"),
		errdefs.Resource("%s", name), errdefs.Fix("write one of %s", strings.Join(severityNames[1:], ", ")))
}
