// Watch prints each topic of events that it sees, once, by the module for Go. It
// watches in the ways of its arguments, each SEVERITY:QUEUE.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"aios.dev/aios/sdk/go/aios"
)

var (
	mu   sync.Mutex
	seen = make(map[string]bool)
)

func main() {
	var done sync.WaitGroup
	for _, arg := range os.Args[1:] {
		severity, queue, _ := strings.Cut(arg, ":")
		n, err := strconv.Atoi(queue)
		if err != nil {
			fail(err)
		}
		events, err := aios.Watch(aios.Choice{Topics: []string{"*"}, Severity: severity, Queue: n})
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
