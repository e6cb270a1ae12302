package klog

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is written, the newest records are there, whole and in order.
func TestRingKeepsTheNewest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := NewRing(make([]byte, minRingSize), "x", 1)
		var want []Record
		for range rapid.IntRange(1, 120).Draw(t, "records") {
			r := Record{
				Wall: rapid.Int64().Draw(t, "wall"), Mono: rapid.Int64().Draw(t, "mono"),
				Level:     slog.Level(rapid.Int32Range(-8, 20).Draw(t, "level")),
				Subsystem: rapid.StringN(0, 20, maxSubsystem).Draw(t, "subsystem"),
				Message:   strings.Repeat("m", rapid.IntRange(0, maxMessage).Draw(t, "message")),
				Attrs:     strings.Repeat("a", rapid.IntRange(0, maxAttrs).Draw(t, "attrs")),
			}
			g.Write(&r)
			want = append(want, r)
		}
		c, err := Read(bytes.NewReader(g.mem)) // +checklocksignore: nobody else has it.
		if err != nil {
			t.Fatal(err)
		}
		got := c.Records
		if c.Last != uint64(len(want)) || len(got) == 0 || got[len(got)-1] != want[len(want)-1] {
			t.Fatalf("the last of %d is not there; %d are", len(want), len(got))
		}
		// The ring holds the records of half its size without a hole.
		room := (minRingSize - ringHeader) / 2
		for i := 1; i <= len(want); i++ {
			r := want[len(want)-i]
			room -= recordHeader + slotSize + len(r.Subsystem) + len(r.Message) + len(r.Attrs)
			if room < 0 {
				break
			}
			if i > len(got) || got[len(got)-i] != r {
				t.Fatalf("record %d is lost, though %d bytes were free", r.Seq, room)
			}
		}
	})
}

// A writer that stops at any byte of a record costs that record, no other, and
// never brings forth a wrong one.
func TestTornAtEveryByte(t *testing.T) {
	mem := make([]byte, minRingSize)
	g := NewRing(mem, "x", 1)
	say := func(i int) {
		g.Write(&Record{Message: fmt.Sprintf("%d %s", i, strings.Repeat("x", 150))})
	}
	for i := range 300 { // Round and round.
		say(i)
	}
	before := bytes.Clone(mem)
	say(300)
	after := bytes.Clone(mem)
	first, last := 0, 0
	for i := range before {
		if before[i] != after[i] {
			if first == 0 && i >= ringHeader {
				first = i
			}
			last = i
		}
	}
	for n := first; n <= last; n++ {
		torn := append(bytes.Clone(after[:n]), before[n:]...)
		c, err := Read(bytes.NewReader(torn))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range c.Records {
			if want := fmt.Sprintf("%d %s", r.Seq-1, strings.Repeat("x", 150)); r.Message != want {
				t.Fatalf("torn at %d: record %d reads %q", n, r.Seq, r.Message)
			}
			if i > 0 && r.Seq != c.Records[i-1].Seq+1 {
				t.Fatalf("torn at %d: %d follows %d", n, r.Seq, c.Records[i-1].Seq)
			}
		}
		if lastSeq := c.Records[len(c.Records)-1].Seq; lastSeq < 300 {
			t.Fatalf("torn at %d: the last is %d", n, lastSeq)
		}
	}
}

// Text that looks like a record is none.
func TestForgedRecord(t *testing.T) {
	g := testRing()
	g.Write(&Record{Message: "real"})
	g.mu.Lock()
	forged := string(g.mem[ringHeader : ringHeader+slotSize*2])
	g.mu.Unlock()
	for pad := range slotSize {
		g.Write(&Record{Message: strings.Repeat(" ", pad) + forged, Attrs: `"k":"` + cut(forged, 200) + `"`})
	}
	for _, r := range contents(t, g)[1:] {
		if r.Message == "real" {
			t.Fatal("what was logged was read as a record")
		}
	}
}

const writerEnv = "KLOG_TEST_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerEnv); path != "" {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			panic(err)
		}
		g, err := Map(f, "victim", 7)
		if err != nil {
			panic(err)
		}
		f.Close()
		for i := 0; ; i++ {
			g.Write(&Record{Message: strings.Repeat(string(rune('a'+i%26)), i%3000)})
		}
	}
	os.Exit(m.Run())
}

// A process is killed while it writes; what it wrote is in the file.
func TestSurvivesKill(t *testing.T) {
	for range 5 {
		path := filepath.Join(t.TempDir(), "ring")
		f, err := Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerEnv+"="+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); Last(f) < 5000; {
			begun := Last(f) > 0
			if _, err := Read(f); err != nil && begun {
				t.Error(err) // It is read while it is written.
			}
			if time.Now().After(deadline) {
				t.Fatal("the writer does not write")
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		c, err := Read(f)
		if err != nil {
			t.Fatal(err)
		}
		if c.Name != "victim" || c.PID != cmd.Process.Pid || c.Opened != 7 || len(c.Records) < 100 {
			t.Fatalf("read %s, process %d, %d records", c.Name, c.PID, len(c.Records))
		}
		if last := c.Records[len(c.Records)-1].Seq; last != c.Last && last != c.Last+1 && last != c.Last-1 {
			t.Errorf("the last record is %d, the header says %d", last, c.Last)
		}
		for _, r := range c.Records {
			if i := int(r.Seq - 1); r.Message != strings.Repeat(string(rune('a'+i%26)), i%3000) {
				t.Fatalf("record %d reads %q", r.Seq, r.Message)
			}
		}
	}
}

// A file that is made shorter does not kill who logs.
func TestShortenedFile(t *testing.T) {
	f, err := Create(filepath.Join(t.TempDir(), "ring"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g, err := Map(f, "x", 1)
	if err != nil {
		t.Fatal(err)
	}
	g.Write(&Record{Message: "one"})
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	r := Record{Message: "two"}
	g.Write(&r)
	if !g.dead.Load() || r.Seq != 2 {
		t.Error("the ring goes on without memory")
	}
	if _, err := Read(f); err == nil {
		t.Error("an empty file is read as a ring")
	}
}

func FuzzRead(f *testing.F) {
	g := NewRing(make([]byte, minRingSize), "x", 1)
	for i := range 20 {
		g.Write(&Record{Subsystem: "s", Agent: "a", Message: strings.Repeat("m", i*10), Attrs: `"k":1`})
	}
	f.Add(g.mem, uint16(0), byte(0)) // +checklocksignore: nobody else has it.
	f.Add(g.mem[:5000], uint16(4100), byte(0xff))
	f.Add([]byte("AIOSKLOG"), uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, raw []byte, at uint16, xor byte) {
		raw = bytes.Clone(raw)
		if int(at) < len(raw) {
			raw[at] ^= xor
		}
		c, err := Read(bytes.NewReader(raw))
		if err != nil {
			return
		}
		var last uint64
		for i, r := range c.Records {
			if i > 0 && r.Seq <= last {
				t.Fatal("out of order")
			}
			last = r.Seq
			line := r.AppendText(nil)
			if bytes.Count(line, []byte("\n")) != 1 {
				t.Fatalf("not one line: %q", line)
			}
			r.AppendJSON(nil)
		}
	})
}
