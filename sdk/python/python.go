// Package python holds the Python module of programs inside agents, which the
// kernel shows them as /aios/lib/aios.py.
package python

import _ "embed"

// Module is the text of aios.py.
//
//go:embed aios.py
var Module []byte
