package main

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"aios.dev/aios/errdefs"
)

// errorCodes is the table of package errdefs, by category.
func errorCodes() string {
	var b strings.Builder
	var last errdefs.Category
	for _, c := range errdefs.Codes() {
		i := errdefs.InfoOf(c)
		if i.Category != last {
			last = i.Category
			fmt.Fprintf(&b, "\n### %s\n\n", last)
			b.WriteString("| code | severity | at fault | try again | agents see | told | errno | gRPC | exit |\n|---|---|---|---|---|---|---|---|---:|\n")
			for _, c := range errdefs.Codes() {
				if errdefs.InfoOf(c).Category == last {
					b.WriteString(errorRow(c))
				}
			}
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "**%s**: %s. %s *What helps:* %s\n\n", c, i.Meaning, i.Why, i.Do)
	}
	return b.String()
}

func errorRow(c errdefs.Code) string {
	i := errdefs.InfoOf(c)
	again := i.Retry.When.String()
	switch i.Retry.When {
	case errdefs.AtOnce:
		again = fmt.Sprintf("at-once, %d times", i.Retry.Limit)
	case errdefs.AfterDelay:
		again = fmt.Sprintf("after-delay, %s, %d times", i.Retry.Delay, i.Retry.Limit)
	}
	shown := i.Propagation.String()
	if i.ShownAs != "" {
		shown = "`" + string(i.ShownAs) + "`"
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s | %s | %s | `%s` | %s | %d |\n", c, i.Severity, i.Blame, again, shown,
		strings.ReplaceAll(i.Escalation.String(), "+", ", "), unix.ErrnoName(i.Errno), codes.Code(i.GRPC), i.Exit)
}
