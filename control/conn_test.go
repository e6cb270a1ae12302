package control

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
)

// pair returns two connected ends.
func pair(t testing.TB) (a, b *conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]*conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		ends[i] = &conn{c: c.(*net.UnixConn)}
	}
	return ends[0], ends[1]
}

// openFiles returns n files, each with its number in it.
func openFiles(t testing.TB, n int) []*os.File {
	t.Helper()
	var files []*os.File
	for i := range n {
		fd, err := unix.MemfdCreate("file", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "file")
		fmt.Fprint(f, i)
		files = append(files, f)
	}
	return files
}

func descriptors(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// wantDescriptors waits until the process has as many descriptors as before.
func wantDescriptors(t testing.TB, before int) {
	t.Helper()
	var now int
	for range 500 {
		if now = descriptors(t); now <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d descriptors before, %d now", before, now)
}

// TestMessagesTravel sends arbitrary messages, several before one is read.
func TestMessagesTravel(t *testing.T) {
	before := descriptors(t)
	rapid.Check(t, func(r *rapid.T) {
		a, b := pair(t)
		defer a.c.Close()
		defer b.c.Close()
		var sent []*message
		var counts []int
		for range rapid.IntRange(1, 4).Draw(r, "messages") {
			m := &message{
				ID:     rapid.Uint64().Draw(r, "id"),
				Method: rapid.String().Draw(r, "method"),
			}
			if rapid.Bool().Draw(r, "body") {
				m.Body, _ = json.Marshal(rapid.String().Draw(r, "text"))
			}
			if rapid.Bool().Draw(r, "error") {
				m.Err = &wireError{Code: errdefs.WrongState, Op: rapid.String().Draw(r, "op"), Fix: "fix"}
			}
			n := rapid.IntRange(0, MaxFiles).Draw(r, "files")
			files := openFiles(t, n)
			if err := a.send(m, files...); err != nil {
				r.Fatal(err)
			}
			closeAll(files)
			sent, counts = append(sent, m), append(counts, n)
		}
		for i, want := range sent {
			got, files, err := b.recv()
			if err != nil {
				r.Fatal(err)
			}
			if g, w := mustJSON(got), mustJSON(want); g != w {
				r.Fatalf("got %s, want %s", g, w)
			}
			if len(files) != counts[i] {
				r.Fatalf("got %d files, want %d", len(files), counts[i])
			}
			for n, f := range files {
				text := make([]byte, 8)
				k, _ := f.ReadAt(text, 0)
				if string(text[:k]) != fmt.Sprint(n) {
					r.Fatalf("file %d is %q", n, text[:k])
				}
				if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					r.Fatalf("a received file would be inherited: %v", err)
				}
			}
			closeAll(files)
		}
		a.c.Close()
		if _, _, err := b.recv(); err != io.EOF {
			r.Fatalf("after the end: %v", err)
		}
	})
	wantDescriptors(t, before)
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// TestMessagesInPieces cuts a message at every place.
func TestMessagesInPieces(t *testing.T) {
	body := []byte(`{"id":7,"method":"spawn","body":{"a":[1,2,3]}}`)
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	frame = append(binary.BigEndian.AppendUint32(frame, 1), body...)
	for cut := 1; cut < len(frame); cut++ {
		a, b := pair(t)
		files := openFiles(t, 1)
		if _, _, err := a.c.WriteMsgUnix(frame[:cut], unix.UnixRights(int(files[0].Fd())), nil); err != nil {
			t.Fatal(err)
		}
		closeAll(files)
		go func() {
			time.Sleep(time.Millisecond)
			a.c.Write(frame[cut:])
		}()
		m, got, err := b.recv()
		if err != nil || m.ID != 7 || m.Method != "spawn" || string(m.Body) != `{"a":[1,2,3]}` || len(got) != 1 {
			t.Errorf("cut at %d: %+v, %d files, %v", cut, m, len(got), err)
		}
		closeAll(got)
		a.c.Close()
		b.c.Close()
	}
	for cut := range len(frame) { // The sender goes away in the middle.
		before := descriptors(t)
		a, b := pair(t)
		files := openFiles(t, 1)
		if cut > 0 {
			if _, _, err := a.c.WriteMsgUnix(frame[:cut], unix.UnixRights(int(files[0].Fd())), nil); err != nil {
				t.Fatal(err)
			}
		}
		closeAll(files)
		a.c.Close()
		m, got, err := b.recv()
		if err == nil || m != nil || got != nil {
			t.Errorf("cut at %d: %+v, %d files, %v", cut, m, len(got), err)
		}
		b.c.Close()
		wantDescriptors(t, before)
	}
}

// TestBadFrames sends what no correct peer would; every one is an error and
// none keeps a descriptor.
func TestBadFrames(t *testing.T) {
	frame := func(size, files uint32, body string) []byte {
		return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, size), files), body...)
	}
	before := descriptors(t)
	for name, test := range map[string]struct {
		data  []byte
		files int
	}{
		"too long":            {frame(MaxMessage+1, 0, ""), 0},
		"longest number":      {frame(1<<32-1, 0, ""), 3},
		"too many files":      {frame(2, MaxFiles+1, "{}"), MaxFiles},
		"files lost":          {frame(2, 3, "{}"), 2},
		"files too many":      {frame(2, 0, "{}"), 1},
		"more than can be":    {frame(2, MaxFiles, "{}"), MaxFiles + 5},
		"not JSON":            {frame(3, 0, "{]}"), 0},
		"not JSON with files": {frame(3, 2, "{]}"), 2},
		"empty":               {frame(0, 1, ""), 1},
		"no object":           {frame(2, 1, "42"), 1},
		"wrong types":         {frame(10, 1, `{"id":"x"}`), 1},
	} {
		a, b := pair(t)
		files := openFiles(t, test.files)
		var oob []byte
		if test.files > 0 {
			fds := make([]int, len(files))
			for i, f := range files {
				fds[i] = int(f.Fd())
			}
			oob = unix.UnixRights(fds...)
		}
		if _, _, err := a.c.WriteMsgUnix(test.data, oob, nil); err != nil {
			t.Fatal(err)
		}
		closeAll(files)
		m, got, err := b.recv()
		if err == nil {
			t.Errorf("%s: %+v with %d files is taken", name, m, len(got))
		}
		a.c.Close()
		b.c.Close()
	}
	wantDescriptors(t, before)
}

func TestSendRefusesWhatRecvWould(t *testing.T) {
	a, _ := pair(t)
	err := a.send(&message{Body: json.RawMessage(`"` + string(bytes.Repeat([]byte("x"), MaxMessage)) + `"`)})
	if errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Errorf("a long message: %v", err)
	}
	files := openFiles(t, MaxFiles+1)
	defer closeAll(files)
	if err := a.send(&message{}, files...); errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Errorf("too many files: %v", err)
	}
}

// TestErrorsTravel checks that an error says on the other side what it said on
// this one.
func TestErrorsTravel(t *testing.T) {
	for _, err := range []error{
		errdefs.New(errdefs.WrongState, "detail"),
		errdefs.New(errdefs.WrongState, "detail", errdefs.Op("op"), errdefs.Resource("thing"), errdefs.Fix("do %d", 1)),
		errdefs.New(errdefs.WrongState, "", errdefs.Op("op")),
		errdefs.New(errdefs.WrongState, ""),
		errdefs.Wrap(io.ErrUnexpectedEOF, errdefs.HostIO, "read", errdefs.Resource("x")),
		errdefs.Wrap(errdefs.New(errdefs.NotFound, "inner", errdefs.Fix("look elsewhere")), errdefs.Internal, "outer"),
		fmt.Errorf("foreign: %w", errdefs.New(errdefs.NotFound, "inner", errdefs.Fix("look"))),
		io.EOF,
	} {
		raw := mustJSON(toWire(err))
		var w wireError
		if e := json.Unmarshal([]byte(raw), &w); e != nil {
			t.Fatal(e)
		}
		got := w.error()
		if got.Error() != err.Error() || errdefs.CodeOf(got) != errdefs.CodeOf(err) || errdefs.FixOf(got) != errdefs.FixOf(err) {
			t.Errorf("%v (%s, %q) arrives as %v (%s, %q)", err, errdefs.CodeOf(err), errdefs.FixOf(err), got, errdefs.CodeOf(got), errdefs.FixOf(got))
		}
	}
	if toWire(nil) != nil {
		t.Error("no error is one")
	}
}

// FuzzConn feeds bytes, with descriptors at some place, to a receiver. It must
// neither panic nor keep a descriptor, and what it takes must be well-formed.
func FuzzConn(f *testing.F) {
	body := []byte(`{"id":7,"method":"spawn","body":{}}`)
	frame := append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(len(body))), 1), body...)
	f.Add(frame, uint8(1), uint16(0))
	f.Add(frame, uint8(0), uint16(0))
	f.Add(append(frame, frame...), uint8(1), uint16(len(frame)))
	f.Add(frame[:5], uint8(8), uint16(3))
	f.Fuzz(func(t *testing.T, data []byte, count uint8, at uint16) {
		before := descriptors(t)
		a, b := pair(t)
		files := openFiles(t, int(count%(MaxFiles+3)))
		place := min(int(at), len(data))
		a.c.Write(data[:place])
		if rest := data[place:]; len(rest) > 0 && len(files) > 0 {
			fds := make([]int, len(files))
			for i, f := range files {
				fds[i] = int(f.Fd())
			}
			a.c.WriteMsgUnix(rest, unix.UnixRights(fds...), nil)
		} else {
			a.c.Write(rest)
		}
		closeAll(files)
		a.c.Close()
		for {
			m, got, err := b.recv()
			if err != nil {
				if m != nil || got != nil {
					t.Error("an error comes with a message")
				}
				break
			}
			if len(got) > MaxFiles || m == nil {
				t.Errorf("took %+v with %d files", m, len(got))
			}
			closeAll(got)
		}
		b.c.Close()
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}
