package control

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
)

func TestLogRecordsTravel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var file []byte
		var want []LogRecord
		for range rapid.IntRange(1, 5).Draw(r, "records") {
			rec := LogRecord{
				Time:   time.Unix(0, rapid.Int64().Draw(r, "time")),
				Stderr: rapid.Bool().Draw(r, "stderr"),
				Data:   rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(r, "data"),
			}
			file = AppendLogRecord(file, rec)
			want = append(want, rec)
		}
		in := bytes.NewReader(file)
		at := 0
		for _, w := range want {
			got, n, err := ReadLogRecord(in)
			at += n
			if err != nil || !got.Time.Equal(w.Time) || got.Stderr != w.Stderr || !bytes.Equal(got.Data, w.Data) {
				r.Fatalf("got %+v, %v, want %+v", got, err, w)
			}
			if at != len(file)-in.Len() {
				r.Fatalf("read %d bytes and says %d", len(file)-in.Len(), at)
			}
		}
		if _, _, err := ReadLogRecord(in); err != io.EOF {
			r.Fatalf("after the last: %v", err)
		}
		// A file that is still being written ends anywhere.
		cut := rapid.IntRange(0, len(file)).Draw(r, "cut")
		in = bytes.NewReader(file[:cut])
		for n := 0; ; n++ {
			if _, _, err := ReadLogRecord(in); err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF || n > len(want) {
					r.Fatalf("cut at %d: %v after %d records", cut, err, n)
				}
				break
			}
		}
	})
}

func TestDamagedLogRecords(t *testing.T) {
	good := AppendLogRecord(nil, LogRecord{Time: time.Unix(1, 0), Data: []byte("data")})
	for name, spoil := range map[string]func([]byte){
		"stream": func(b []byte) { b[8] = 3 },
		"zero":   func(b []byte) { b[8] = 0 },
		"length": func(b []byte) { b[9] = 1 },
	} {
		b := bytes.Clone(good)
		spoil(b)
		if _, _, err := ReadLogRecord(bytes.NewReader(b)); errdefs.CodeOf(err) != errdefs.HostIO {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzLogRecord reads records out of arbitrary bytes; what it takes, written
// again, is what it took.
func FuzzLogRecord(f *testing.F) {
	f.Add(AppendLogRecord(AppendLogRecord(nil, LogRecord{Time: time.Unix(1, 2), Data: []byte("out")}), LogRecord{Stderr: true}))
	f.Add(bytes.Repeat([]byte{1}, 40))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		var again []byte
		for {
			rec, n, err := ReadLogRecord(in)
			if err != nil {
				if n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && errdefs.CodeOf(err) != errdefs.HostIO {
					t.Errorf("%d bytes and %v", n, err)
				}
				break
			}
			if len(rec.Data) > MaxLogRecord {
				t.Errorf("a record of %d bytes", len(rec.Data))
			}
			before := len(again)
			if again = AppendLogRecord(again, rec); len(again)-before != n {
				t.Errorf("a record of %d bytes was read as %d", len(again)-before, n)
			}
		}
		if !bytes.HasPrefix(data, again) {
			t.Errorf("%q reads as %q", data, again)
		}
	})
}
