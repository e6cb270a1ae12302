package lifecycle

import (
	"bytes"
	"encoding/json"

	"aios.dev/aios/errdefs"
)

// message is what a program is given on its standard input.
type message struct {
	Hook  string `json:"hook"`
	Phase Phase  `json:"phase"`
	*Operation
	Outcome *outcome `json:"outcome,omitempty"`
}

type outcome struct {
	Done  bool         `json:"done"`
	Code  errdefs.Code `json:"code,omitempty"`
	Error string       `json:"error,omitempty"`
}

// Message is one line of JSON that tells a program of an operation. The error is
// why it failed, or is not done; it says nothing before.
func (o *Operation) Message(hook string, phase Phase, err error) []byte {
	m := message{Hook: hook, Phase: phase, Operation: o}
	if phase != Before {
		m.Outcome = &outcome{Done: err == nil && phase == After}
		if err != nil {
			m.Outcome.Code, m.Outcome.Error = errdefs.CodeOf(err), err.Error()
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(m) // Of strings and numbers it does not fail.
	return b.Bytes()
}
