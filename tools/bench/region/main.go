// Command region is what the figures of the fabric are measured by, inside agents:
// it does what it is told on standard input, and says what came of it. The region
// big is for memory, and ring for rings.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"aios.dev/aios/sdk/go/aios"
)

const patience = time.Minute

func must(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// median of some numbers.
func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// mapping returns how many microseconds it takes to map all of big.
func mapping(n int) float64 {
	f, err := os.OpenFile("/aios/fabric/big", os.O_RDWR, 0)
	must(err)
	defer f.Close()
	st, err := f.Stat()
	must(err)
	var took []float64
	for range n {
		began := time.Now()
		mem, err := syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		took = append(took, float64(time.Since(began))/1e3)
		must(err)
		must(syscall.Munmap(mem))
	}
	return median(took)
}

// copies returns how fast memory is copied within big, and within memory of the
// program's own, in GB/s, in turns.
func copies(n int) (region, plain float64) {
	r, err := aios.OpenRegion("big")
	must(err)
	const half = 64 << 20
	own, err := syscall.Mmap(-1, 0, 2*half, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS)
	must(err)
	var rates [2][]float64
	for i := range n + 1 {
		for k, mem := range [][]byte{r.Bytes(), own} {
			if i == 0 {
				for off := 0; off < 2*half; off += 4096 {
					mem[off] = 1
				}
				continue
			}
			began := time.Now()
			copy(mem[:half], mem[half:2*half])
			rates[k] = append(rates[k], half/float64(time.Since(began)))
		}
	}
	must(r.Close())
	must(syscall.Munmap(own))
	return median(rates[0]), median(rates[1])
}

func main() {
	var g *aios.Ring
	ring := func() *aios.Ring {
		if g == nil {
			r, err := aios.OpenRegion("ring")
			must(err)
			g, err = r.Ring(0)
			must(err)
		}
		return g
	}
	buf := make([]byte, 64)
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		words := strings.Fields(in.Text())
		n := 0
		if len(words) > 1 {
			n, _ = strconv.Atoi(words[1])
		}
		switch words[0] {
		case "make":
			r, err := aios.OpenRegion("ring")
			must(err)
			_, err = r.MakeRing(0, 4096, 48)
			must(err)
			fmt.Println("made")
		case "map":
			fmt.Println(mapping(n))
		case "copy":
			fmt.Println(copies(n))
		case "touch": // all of big, and it stays mapped
			r, err := aios.OpenRegion("big")
			must(err)
			for off := 0; off < len(r.Bytes()); off += 4096 {
				r.Bytes()[off]++
			}
			fmt.Println("touched")
		case "send": // as many as can be
			g := ring()
			for range n {
				must(g.Send(1, buf[:16], patience))
			}
			fmt.Println("sent")
		case "receive": // millions a second
			g := ring()
			_, err := g.Receive(buf, patience)
			must(err)
			began := time.Now()
			for range n - 1 {
				_, err := g.Receive(buf, patience)
				must(err)
			}
			fmt.Println(float64(n-1) / float64(time.Since(began)) * 1e3)
		case "spin": // how often to look before falling asleep
			ring().Spin(n)
			fmt.Println("spins")
		case "wake": // with time to fall asleep in between
			g := ring()
			for range n {
				time.Sleep(5 * time.Millisecond)
				binary.LittleEndian.PutUint64(buf, uint64(time.Now().UnixNano()))
				must(g.Send(2, buf[:8], patience))
			}
			fmt.Println("sent")
		case "woken": // microseconds
			g := ring()
			var took []float64
			for range n {
				m, err := g.Receive(buf, patience)
				must(err)
				took = append(took, float64(time.Now().UnixNano()-int64(binary.LittleEndian.Uint64(m.Data)))/1e3)
			}
			slices.Sort(took)
			fmt.Println(took[len(took)/2], took[len(took)*99/100])
		default:
			fmt.Println("what?")
		}
	}
}
