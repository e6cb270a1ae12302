package main

import (
	"fmt"
	"strings"

	"aios.dev/aios/lifecycle"
)

// hookOperations is the table of package lifecycle.
func hookOperations() string {
	var b strings.Builder
	b.WriteString("| operation | an agent: | hooks are |\n|---|---|---|\n")
	for _, o := range lifecycle.Ops() {
		how := "told"
		if o.Refusable {
			how = "asked, and told"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", o.Op, o.Doc, how)
	}
	return b.String()
}
