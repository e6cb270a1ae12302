package store

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/ktime"
)

// writerEnv has the test binary be a process that writes until it is killed.
const writerEnv = "AIOS_TEST_STORE_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerEnv); dir != "" {
		writeForEver(dir)
		return
	}
	os.Exit(m.Run())
}

// writeForEver writes transactions of three items and says of each that it is on
// disk. Every fifth removes an earlier one.
func writeForEver(dir string) {
	die := func(err error) {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	s, err := Open(Options{Dir: dir, Clock: ktime.Real})
	if err != nil {
		die(err)
	}
	start, _ := strconv.Atoi(os.Getenv(writerEnv + "_FROM"))
	w := &world{s: s, t: &dying{die: die}}
	for n := start; ; n++ {
		var b semantic.Batch
		for part := range 3 {
			b.Changes = append(b.Changes, semantic.Change{Put: &semantic.Put{
				Namespace: "n", ID: fmt.Sprintf("%d-%d", n, part), Text: fmt.Sprintf("batch%d", n), Vector: []float32{float32(n), float32(part), 1},
			}})
		}
		if n%5 == 4 {
			for part := range 3 {
				b.Changes = append(b.Changes, semantic.Change{Delete: &semantic.Delete{Namespace: "n", IDs: []string{fmt.Sprintf("%d-%d", n-2, part)}}})
			}
		}
		w.must(operator, semantic.OpBatch, b, nil)
		fmt.Println(n)
	}
}

// dying is a failer outside of a test.
type dying struct {
	failer
	die func(error)
}

func (d *dying) Helper()                           {}
func (d *dying) Fatal(args ...any)                 { d.die(fmt.Errorf("%v", args)) }
func (d *dying) Fatalf(format string, args ...any) { d.die(fmt.Errorf(format, args...)) }

// TestKilledProcessesLoseNothing kills processes that write, with SIGKILL, at
// random moments: what they said is on disk is there, and of no transaction a part.
func TestKilledProcessesLoseNothing(t *testing.T) {
	w := &world{t: t, clock: ktime.Real, dir: t.TempDir()}
	acked := -1
	for round := range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerEnv+"="+w.dir, fmt.Sprintf("%s_FROM=%d", writerEnv, acked+1))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stop := 1 + rand.IntN(60)
		lines := bufio.NewScanner(out)
		for range stop {
			if !lines.Scan() {
				break
			}
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(lines.Text())
			}
			acked = n
		}
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond) // In the middle of the next one.
		cmd.Process.Kill()
		for lines.Scan() { // What it still said.
			if n, err := strconv.Atoi(lines.Text()); err == nil && n > acked {
				acked = n
			}
		}
		cmd.Wait()
		w.open()
		parts := make(map[int]int)
		for after := ""; ; {
			var items semantic.Items
			w.must(operator, semantic.OpList, semantic.List{Namespace: "n", After: after, Limit: semantic.MaxList}, &items)
			for _, it := range items.Items {
				n, err := strconv.Atoi(strings.Split(it.ID, "-")[0])
				if err != nil {
					t.Fatal(err)
				}
				parts[n]++
			}
			if after = items.Next; after == "" {
				break
			}
		}
		last := acked // The one after it may be there, too.
		if parts[acked+1] > 0 {
			last = acked + 1
		}
		for n := range last + 1 {
			want := 3
			if n%5 == 2 && n+2 <= last {
				want = 0
			}
			if parts[n] != want {
				t.Fatalf("round %d: of transaction %d there are %d items, want %d; the last that was said is %d", round, n, parts[n], want, acked)
			}
			delete(parts, n)
		}
		if len(parts) != 0 {
			t.Fatalf("round %d: there is %v beyond %d", round, parts, last)
		}
		var h semantic.Hits
		w.must(operator, semantic.OpSearch, semantic.Search{Namespace: "n", Text: fmt.Sprint("batch", acked)}, &h)
		if len(h.Hits) != 3 || !strings.HasPrefix(h.Hits[0].ID, fmt.Sprint(acked, "-")) {
			t.Fatalf("round %d: %v is found for %d", round, hitIDs(h), acked)
		}
		acked = last
		if err := w.s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if acked < 20 {
		t.Fatalf("no more than %d transactions were made", acked)
	}
}
