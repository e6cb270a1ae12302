// Watch prints each topic of events that it sees, once, by the module for Go. It
// watches in three ways: so that what is made by the thousand does not hide the
// rest, and so that something is missed.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	"aios.dev/aios/sdk/go/aios"
)

var (
	mu   sync.Mutex
	seen = make(map[string]bool)
)

func main() {
	var done sync.WaitGroup
	for _, c := range []aios.Choice{{Severity: "debug", Queue: 4096}, {Severity: "notice", Queue: 4096}, {Severity: "debug", Queue: 1}} {
		c.Topics = []string{"*"}
		events, err := aios.Watch(c)
		if err != nil {
			fail(err)
		}
		done.Go(func() { note(events) })
	}
	fmt.Println("listens")
	done.Wait()
}

func note(events *aios.Events) {
	for e, err := range events.All(context.Background()) {
		if err != nil {
			fail(err)
		}
		mu.Lock()
		if !seen[e.Topic] {
			seen[e.Topic] = true
			fmt.Println(e.Topic)
		}
		mu.Unlock()
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
