// Command server serves HTTP to clients of its own, over TCP and over a socket of
// AF_UNIX, and prints what they have read.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

func main() {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		time.Sleep(time.Millisecond)
		fmt.Fprintf(w, "%d", n)
	})
	var mu sync.Mutex
	sums := make(map[string]int)
	var wg sync.WaitGroup
	for _, at := range [][2]string{{"tcp", "127.0.0.1:7070"}, {"unix", "/tmp/http.sock"}} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			fmt.Println(err)
			return
		}
		go http.Serve(l, handler)
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, at[0], at[1])
		}}}
		for i := range 4 {
			wg.Go(func() {
				for k := range 25 {
					resp, err := client.Post("http://here/", "", strings.NewReader(strings.Repeat("x", k*i)))
					if err != nil {
						fmt.Println(at[0], err)
						return
					}
					var n int
					fmt.Fscan(resp.Body, &n)
					resp.Body.Close()
					mu.Lock()
					sums[at[0]] += n
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	fmt.Println(sums)
}
