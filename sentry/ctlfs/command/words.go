package command

import (
	"strconv"
	"strings"

	"aios.dev/aios/errdefs"
)

// A word is VALUE, or KEY=VALUE.
type word struct{ key, value string }

// maxWords bounds the words of a command; no verb takes as many.
const maxWords = 32

// split reads words, which blanks separate.
func split(s string) ([]word, error) {
	fields := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(fields) > maxWords {
		return nil, bad("the command has more than %d words", maxWords)
	}
	out := make([]word, len(fields))
	for i, f := range fields {
		key, value, keyed := strings.Cut(f, "=")
		if !keyed {
			key, value = "", f
		} else if key == "" {
			return nil, bad("%q has no key", clip(f))
		}
		out[i] = word{key, value}
	}
	return out, nil
}

// signals are the names of Linux's signals, by number, as kill -l has them.
var signals = []string{1: "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
	"PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM",
	"PROF", "WINCH", "IO", "PWR", "SYS"}

// maxSignal is the last real-time signal.
const maxSignal = 64

// signalNumber reads TERM, SIGTERM or 15.
func signalNumber(s string) (int, error) {
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for n, known := range signals {
		if known != "" && known == name {
			return n, nil
		}
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 1 && n <= maxSignal {
		return n, nil
	}
	return 0, bad("%q is no signal", clip(s)).With(errdefs.Fix("write a name such as TERM, or a number from 1 to %d", maxSignal))
}
