// Command region takes part in what agents keep together in a region: a lock at
// 0 with two numbers at 64 and 72 that it keeps equal, and a ring at 4096. What a
// sender knows to be sent is at 1024, for each of them.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"aios.dev/aios/sdk/go/aios"
)

const (
	long  = 2 * time.Minute
	ended = 99 // a message that is the last
)

func must(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func number(i int) uint64 {
	n, err := strconv.ParseUint(os.Args[i], 10, 64)
	must(err)
	return n
}

func main() {
	r, err := aios.OpenRegion(os.Args[2])
	must(err)
	word := func(off uint64) *uint64 { return (*uint64)(unsafe.Pointer(&r.Bytes()[off])) }
	switch os.Args[1] {
	case "make":
		_, err := r.MakeRing(4096, 64, 48)
		must(err)
	case "locks":
		m, err := r.Join()
		must(err)
		a, b := word(64), word(72)
		repaired := 0
		for range number(3) {
			switch err := m.Lock(0, long); err {
			case nil:
			case aios.ErrOwnerDied:
				repaired++
				*b = *a
				must(m.Consistent(0))
			default:
				must(err)
			}
			if *a != *b {
				fmt.Println("torn:", *a, *b)
				os.Exit(1)
			}
			*a++
			for range 200 {
				atomic.LoadUint64(a)
			}
			*b++
			must(m.Unlock(0))
		}
		fmt.Println("repaired", repaired)
	case "send":
		g, err := r.Ring(4096)
		must(err)
		who := number(3)
		msg := make([]byte, 8)
		for n := uint64(1); n <= number(4); n++ {
			binary.LittleEndian.PutUint64(msg, n)
			must(g.Send(uint32(who), msg, long))
			atomic.StoreUint64(word(1024+8*who), n)
		}
	case "end":
		g, err := r.Ring(4096)
		must(err)
		must(g.Send(ended, nil, long))
	case "receive":
		g, err := r.Ring(4096)
		must(err)
		for who := range uint64(8) {
			atomic.StoreUint64(word(1024+8*who), 0)
		}
		fmt.Println("ready")
		var last [8]uint64
		buf := make([]byte, 48)
		for {
			m, err := g.Receive(buf, long)
			must(err)
			if m.Type == ended {
				break
			}
			n := binary.LittleEndian.Uint64(m.Data)
			if last[m.Type]+1 != n {
				fmt.Println("sender", m.Type, "sends", n, "after", last[m.Type])
				os.Exit(1)
			}
			last[m.Type] = n
		}
		for who, n := range last {
			if sent := atomic.LoadUint64(word(1024 + 8*uint64(who))); n != sent && n != sent+1 {
				fmt.Println("sender", who, "sent", sent, "and", n, "came")
				os.Exit(1)
			}
		}
		fmt.Println("all came")
	}
}
