package main

import (
	"context"
	"strings"

	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

// suggest adds names near to the one that was typed to an error that says that
// it is unknown.
func (a *app) suggest(ctx context.Context, c *client.Client, err error, typed string) error {
	var l lister
	list := ""
	switch errdefs.CodeOf(err) {
	case errdefs.AgentNotFound:
		l, list = a.allAgents, "aiosctl ps -a"
	case errdefs.ImageNotFound:
		l, list = a.imageNames, "aiosctl image ls"
	case errdefs.DomainNotFound:
		l, list = a.domainNames, "aiosctl domain ls"
	case errdefs.TemplateNotFound:
		l, list = a.templateNames, "aiosctl template ls"
	default:
		return err
	}
	e, ok := err.(*errdefs.Error)
	if !ok {
		return err
	}
	names, lerr := l(ctx, c)
	if lerr != nil {
		return err // The first failure is the one to hear about.
	}
	if near := nearest(typed, names); near != "" {
		return e.With(errdefs.Fix("did you mean %q? `%s` lists them all", near, list))
	}
	if e.Fix == "" {
		return e.With(errdefs.Fix("`%s` lists what there is", list))
	}
	return err
}

// nearest returns the name that a typing mistake or an unfinished word may
// have meant, or "".
func nearest(typed string, names []string) string {
	best, bestAt := "", len(typed)/3+2
	for _, n := range names {
		d := distance(typed, n)
		if strings.HasPrefix(n, typed) && len(typed) >= 2 {
			d = 1
		}
		if d < bestAt {
			best, bestAt = n, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, cur := rows[(i+2)%3], rows[i%3], rows[(i+1)%3]
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(last[j]+1, cur[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
	}
	return rows[(len(a)+1)%3][len(b)]
}
