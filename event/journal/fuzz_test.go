package journal

import (
	"bytes"
	"os"
	"testing"
)

// unsynced is a disk that is not waited for.
type unsynced struct{ hostDisk }

type unsyncedFile struct{ file }

func (unsyncedFile) Sync() error { return nil }

func (d unsynced) create(path string) (file, error) {
	f, err := d.hostDisk.create(path)
	return unsyncedFile{f}, err
}

// FuzzSegment opens a journal whose newest file somebody made up: it opens,
// takes records, and gives them back.
func FuzzSegment(f *testing.F) {
	head, _ := appendHeader(nil, header{First: 1, Created: 5, Leaps: []span{{1, 1}}, State: []byte("state")})
	f.Add(head)
	f.Add(appendRecord(bytes.Clone(head), Record{Cursor: 1, Time: 3, Data: []byte("x")}))
	f.Add(appendRecord(appendRecord(bytes.Clone(head), Record{Cursor: 1, Time: 3}), Record{Cursor: 2, Data: make([]byte, 300)}))
	f.Add(append(bytes.Clone(head), 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(segmentPath(dir, 1), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(dir, Options{disk: unsynced{}})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		cursor := j.Append(1, []byte("mine"))
		settle(t, j)
		got, _ := readAll(t, j, 1)
		if len(got) == 0 || got[len(got)-1].Cursor != cursor || string(got[len(got)-1].Data) != "mine" {
			t.Fatalf("%d records", len(got))
		}
		for i, r := range got {
			if i > 0 && r.Cursor <= got[i-1].Cursor {
				t.Fatalf("%d after %d", r.Cursor, got[i-1].Cursor)
			}
		}
	})
}

// FuzzPositions reads a file of durable subscriptions that somebody made up.
func FuzzPositions(f *testing.F) {
	f.Add([]byte(`[{"name":"a","next":3,"created":1}]`))
	f.Add([]byte(`[null]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := parsePositions(raw)
		for _, p := range list {
			if err == nil && (p.Name == "" || p.Next == 0) {
				t.Fatalf("%+v", p)
			}
		}
	})
}
