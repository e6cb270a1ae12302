// Command calls has goroutines wait in many ways, for a child process and for
// each other, and prints what came of it.
package main

import (
	"fmt"
	"os/exec"
	"sync"
	"time"
)

func main() {
	var wg sync.WaitGroup
	numbers, done, sum := make(chan int, 4), make(chan bool), 0
	go func() {
		for n := range numbers {
			sum += n
		}
		close(done)
	}()
	for i := range 8 {
		wg.Go(func() {
			for k := range 100 {
				numbers <- k * i
				if k%5 == 0 {
					time.Sleep(2 * time.Millisecond)
				}
			}
		})
	}
	out, err := exec.Command("sh", "-c", "for i in 1 2 3; do sleep 0.05; echo $i; done").Output()
	wg.Wait()
	close(numbers)
	<-done
	fmt.Printf("%d %q %v\n", sum, out, err)
}
