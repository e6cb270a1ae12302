// Package python holds the Python module of programs inside agents, which the
// kernel shows them as /aios/lib/aios.py, and the one beside it for what agents
// keep in regions.
package python

import _ "embed"

// Module is the text of aios.py.
//
//go:embed aios.py
var Module []byte

// RegionModule is the text of aiosregion.py.
//
//go:embed aiosregion.py
var RegionModule []byte
