package kdb

import (
	"bytes"
	"debug/elf"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// fakeMemory holds at every address the low byte of its page number, but for
// one page.
type fakeMemory struct{ bad uint64 }

func (m fakeMemory) ReadMemory(addr uint64, p []byte) error {
	for i := range p {
		page := (addr + uint64(i)) / pageSize
		if page == m.bad {
			return errors.New("bad page")
		}
		p[i] = byte(page)
	}
	return nil
}

func TestCore(t *testing.T) {
	p := &Process{
		PID: 7, Name: "prog", Args: "prog -x",
		Threads: []Thread{{TID: 7, Regs: make([]byte, RegsSize), Signal: Signal{Number: 11}}, {TID: 8, Regs: make([]byte, RegsSize)}},
		Mappings: []Mapping{
			{Start: 0x10000, End: 0x14000, Read: true, Write: true, Keep: 0x3000},
			{Start: 0x20000, End: 0x21000, Read: true, Exec: true, File: "/bin/prog"},
		},
	}
	c, err := NewCore(p)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	lost, err := c.Write(&out, fakeMemory{bad: 0x11}, make([]byte, 0x2000))
	if err != nil || lost != pageSize || int64(out.Len()) != c.Size() {
		t.Fatalf("%d bytes of %d, %d lost: %v", out.Len(), c.Size(), lost, err)
	}
	f, err := elf.NewFile(bytes.NewReader(out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_CORE || len(f.Progs) != 3 || f.Progs[0].Type != elf.PT_NOTE {
		t.Fatalf("%+v", f)
	}
	data := make([]byte, 0x3000)
	if _, err := f.Progs[1].ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if data[0] != 0x10 || data[pageSize] != 0 || data[2*pageSize] != 0x12 || f.Progs[1].Memsz != 0x4000 {
		t.Errorf("memory: %x %x %x, %+v", data[0], data[pageSize], data[2*pageSize], f.Progs[1].ProgHeader)
	}
	if f.Progs[2].Filesz != 0 || f.Progs[2].Flags != elf.PF_R|elf.PF_X {
		t.Errorf("%+v", f.Progs[2].ProgHeader)
	}
}

func TestCommonXState(t *testing.T) {
	// AVX-512 with and without protection keys; these with AVX alone, where there is
	// room for AVX-512 and where there is none.
	for _, c := range []struct {
		may  uint64
		size int
	}{{0xe7, closeEnd}, {0x2e7, closeEnd + pkruLen}, {0x207, closeEnd + pkruLen}, {0x207, avxEnd + pkruLen}} {
		x := make([]byte, c.size)
		for i := range x {
			x[i] = byte(i * 7)
		}
		le.PutUint64(x[xcr0Offset:], c.may)
		got := commonXState(x)
		size := commonEnd
		if c.may&xcr0PKRU != 0 {
			size += pkruLen
		}
		if len(got) != size || !bytes.Equal(got[:avxEnd], x[:avxEnd]) {
			t.Errorf("%x: %d bytes, or not those of AVX", c.may, len(got))
			continue
		}
		if c.may&xcr0AVX512 != 0 && (!bytes.Equal(got[commonMask:commonMask+maskLen], x[closeMask:closeZMM]) ||
			!bytes.Equal(got[commonZMM:commonHigh], x[closeZMM:closeHigh]) || !bytes.Equal(got[commonHigh:commonEnd], x[closeHigh:closeEnd])) {
			t.Errorf("%x: AVX-512 is not where debuggers look", c.may)
		}
		if c.may&xcr0PKRU != 0 && !bytes.Equal(got[commonEnd:], x[c.size-pkruLen:]) {
			t.Errorf("%x: protection keys are not where debuggers look", c.may)
		}
		if again := commonXState(got); !bytes.Equal(again, got) {
			t.Errorf("%x: the common layout was changed", c.may)
		}
	}
	for _, x := range [][]byte{nil, make([]byte, 512), make([]byte, avxEnd)} {
		if got := commonXState(x); !bytes.Equal(got, x) {
			t.Errorf("%d bytes were changed", len(x))
		}
	}
}

// TestPlan keeps what a plan promises: never more than the limit, never more
// than a mapping, and what is left out is said.
func TestPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ms []Mapping
		at := uint64(pageSize)
		var total uint64
		for range rapid.IntRange(1, 20).Draw(t, "mappings") {
			at += pageSize * rapid.Uint64Range(0, 3).Draw(t, "gap")
			m := Mapping{Start: at, Read: true, Write: true}
			m.End = at + pageSize*rapid.Uint64Range(1, 200).Draw(t, "pages")
			m.Resident, m.Anonymous = m.Size(), m.Size()
			at = m.End
			total += m.Size()
			ms = append(ms, m)
		}
		limit := rapid.Uint64Range(0, 2*total).Draw(t, "limit")
		stack := ms[rapid.IntRange(0, len(ms)-1).Draw(t, "stack")].Start
		out := Plan(ms, []uint64{stack}, limit, false)
		var kept, missing uint64
		for i := range ms {
			if ms[i].Keep > ms[i].Size() || ms[i].Keep%pageSize != 0 {
				t.Fatalf("%+v", ms[i])
			}
			kept += ms[i].Keep
			if ms[i].Start == stack && limit >= pageSize && ms[i].Keep == 0 {
				t.Fatal("nothing of the stack is kept")
			}
		}
		for _, l := range out {
			missing += l.End - l.Start
		}
		if kept > limit || kept+missing != total || limit >= total && missing != 0 {
			t.Fatalf("limit %d, kept %d, left out %d of %d", limit, kept, missing, total)
		}
	})
}

func TestWant(t *testing.T) {
	const page = pageSize
	for _, test := range []struct {
		name       string
		m          Mapping
		part, full uint64
	}{
		{"program", Mapping{End: 9 * page, Read: true, File: "/bin/true"}, page, 9 * page},
		{"code of it", Mapping{End: 9 * page, Read: true, Exec: true, File: "/bin/true", Offset: page}, 0, 9 * page},
		{"its data, written", Mapping{End: 9 * page, Read: true, File: "/bin/true", Offset: page, Anonymous: page}, 9 * page, 9 * page},
		{"heap", Mapping{End: 9 * page, Read: true, Write: true, Resident: page}, 9 * page, 9 * page},
		{"reserve", Mapping{End: 9 * page, Read: true, Write: true}, 0, 0},
		{"vdso", Mapping{End: 2 * page, Read: true, Exec: true}, 2 * page, 2 * page},
		{"device", Mapping{End: page, Read: true, Resident: page, File: "/dev/nvidia0"}, 0, 0},
		{"vsyscall", Mapping{End: page, Exec: true, File: "[vsyscall]"}, 0, 0},
	} {
		part, _ := test.m.want(false)
		full, _ := test.m.want(true)
		if part != test.part || full != test.full {
			t.Errorf("%s: %d, in full %d", test.name, part, full)
		}
	}
}

func FuzzParseSmaps(f *testing.F) {
	f.Add([]byte("00400000-00401000 r-xp 00000000 00:01 2    /bin/true\nRss: 4 kB\nAnonymous: 0 kB\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var end uint64
		for _, m := range ParseSmaps(text) {
			if m.Start < end || m.End <= m.Start || m.Resident > m.Size() || m.Anonymous > m.Size() {
				t.Fatalf("%+v after %x", m, end)
			}
			end = m.End
		}
	})
}
