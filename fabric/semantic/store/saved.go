package store

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"aios.dev/aios/fabric/semantic/blocks"
	"aios.dev/aios/fabric/semantic/hnsw"
	"aios.dev/aios/internal/safefile"
)

// Indexes are saved, so that a store is open at once. Of a namespace there are two
// files: its graph, and its items with their words. They may be of different times,
// and older than the items: when the store is opened, versions are compared.

const (
	saveEvery = time.Minute
	// leastWords is how many items a namespace has for its words to be saved: fewer
	// are read as fast from the items.
	leastWords = 1000
	blockSize  = 1 << 20
	// mostPostings bounds what a damaged file can cost.
	mostPostings = 1 << 30
	// most is how much room is made for what a file says that it has; for more it
	// is made as it comes.
	most       = 1 << 20
	wordsMagic = "AIOSWRD1"
)

func (s *Store) graphFile(id int64) string {
	return filepath.Join(s.o.Dir, fmt.Sprintf("graph-%d", id))
}
func (s *Store) wordsFile(id int64) string {
	return filepath.Join(s.o.Dir, fmt.Sprintf("words-%d", id))
}

// removeSaved removes what was saved of a namespace. What stays is of no use, and
// does no harm.
func (s *Store) removeSaved(id int64) {
	os.Remove(s.graphFile(id))
	os.Remove(s.wordsFile(id))
}

// saveLater saves indexes that have changed, every now and then.
func (s *Store) saveLater(ctx context.Context) {
	s.o.Clock.AfterFunc(saveEvery, func() {
		if ctx.Err() != nil {
			return
		}
		s.save(func(sp *space) bool {
			return sp.unsaved > 1000 && sp.unsaved > sp.live/10 && (sp.graph == nil || sp.graph.Unlinked() == 0)
		}, func(do func()) error {
			return s.submit(ctx, func(*txn) error { do(); return nil })
		})
		s.saveLater(ctx)
	})
}

// save writes the indexes of which want says so. still has something done while
// nobody writes.
func (s *Store) save(want func(*space) bool, still func(do func()) error) {
	type one struct {
		sp *space
		g  *hnsw.Graph
	}
	var list []one
	s.mu.Lock()
	for _, sp := range s.byID {
		if sp.unsaved > 0 && want(sp) {
			list = append(list, one{sp, sp.graph})
			sp.unsaved = 0
		}
	}
	s.mu.Unlock()
	for _, o := range list {
		if o.g != nil {
			if err := saveTo(s.graphFile(o.sp.id), o.g.Save); err != nil {
				s.o.Log("saving a graph", err)
			}
		}
		var words bytes.Buffer
		if err := still(func() { o.sp.saveWords(&words) }); err != nil || words.Len() == 0 {
			continue // The store ends, and saves then.
		}
		if err := saveTo(s.wordsFile(o.sp.id), func(to io.Writer) error { _, err := words.WriteTo(to); return err }); err != nil {
			s.o.Log("saving words", err)
		}
	}
}

// saveTo writes a file, which is whole or as it was.
func saveTo(path string, write func(io.Writer) error) error {
	f, err := os.Create(path + ".new")
	if err != nil {
		return safefile.Fail(err, "save index", path)
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	return safefile.Fail(err, "save index", path)
}

// saveWords writes the items of an index and their words. Only the writer changes
// it, and does not meanwhile: so it needs no lock.
func (sp *space) saveWords(to io.Writer) {
	if sp.live < leastWords {
		return
	}
	moved := make([]uint32, len(sp.docs))
	w := blocks.NewWriter(to, wordsMagic)
	total := 0
	for _, list := range sp.words {
		total += len(list)
	}
	var b []byte
	for _, n := range []int{sp.live, len(sp.words), total} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	w.Put(b)
	b = b[:0]
	full := func(least int) {
		if len(b) > least {
			w.Put(b)
			b = b[:0]
		}
	}
	n := uint32(0)
	for slot := range sp.docs {
		d := &sp.docs[slot]
		if moved[slot] = noNode; d.dead {
			continue
		}
		moved[slot] = n
		n++
		for _, v := range []uint64{uint64(d.key), uint64(d.version), uint64(d.expires), uint64(d.length), uint64(len(d.tags))} {
			b = binary.AppendUvarint(b, v)
		}
		for _, t := range d.tags {
			b = blocks.AppendString(b, t)
		}
		b = append(b, 0)
		if d.vector {
			b[len(b)-1] = 1
		}
		full(blockSize)
	}
	full(0)
	var one []byte
	for word, list := range sp.words {
		one = one[:0]
		kept, last := 0, uint32(0)
		for _, p := range list {
			if to := moved[p.slot]; to != noNode { // Slots only grow, before and after.
				one = binary.AppendUvarint(one, uint64(to-last))
				one = binary.AppendUvarint(one, uint64(p.times))
				kept, last = kept+1, to
			}
		}
		b = blocks.AppendString(b, word)
		b = binary.AppendUvarint(b, uint64(kept))
		b = append(b, one...)
		full(blockSize)
	}
	full(0)
}

// loadWords takes what saveWords has written, if it is there and whole.
func (s *Store) loadWords(sp *space) {
	f, err := os.Open(s.wordsFile(sp.id))
	if err != nil {
		return
	}
	defer f.Close()
	saved := newSpace(sp.id, sp.name, sp.dims)
	if err := saved.readWords(bufio.NewReaderSize(f, blockSize)); err != nil {
		s.o.Log("the words of a namespace are read anew", err)
		return
	}
	sp.docs, sp.slots, sp.words, sp.tags, sp.live, sp.length = saved.docs, saved.slots, saved.words, saved.tags, saved.live, saved.length
}

func (sp *space) readWords(from io.Reader) error {
	r, err := blocks.NewReader(from, wordsMagic)
	if err != nil {
		return err
	}
	d, err := r.Next()
	if err != nil {
		return err
	}
	live, words, total := d.Varint(), d.Varint(), d.Varint()
	if d.Short() || live > hnsw.MaxNodes || words > total || total > mostPostings {
		return blocks.Damaged("it has more than there can be")
	}
	sp.docs, sp.slots = make([]doc, 0, min(live, most)), make(map[int64]uint32, min(live, most))
	sp.words = make(map[string][]posting, min(words, most))
	tags := make(interned)
	for d = nil; uint64(len(sp.docs)) < live; {
		if d, err = more(r, d); err != nil {
			return err
		}
		e := doc{key: int64(d.Varint()), version: int64(d.Varint()), expires: int64(d.Varint()), length: int32(d.Varint()), node: noNode}
		for n := d.Varint(); n > 0 && !d.Short(); n-- {
			e.tags = append(e.tags, d.String())
		}
		tags.all(e.tags)
		e.vector = d.Byte() != 0
		if d.Short() {
			return blocks.Damaged("an item ends too early")
		}
		if err := sp.add(&entry{doc: e}); err != nil {
			return err
		}
	}
	all := make([]posting, 0, min(total, 16*most))
	for d = nil; words > 0; words-- {
		if d, err = more(r, d); err != nil {
			return err
		}
		word, n := d.String(), d.Varint()
		if n > total-uint64(len(all)) {
			return blocks.Damaged("a word is in too many items")
		}
		begin, slot := len(all), uint64(0)
		for range n {
			slot += d.Varint()
			times := d.Varint()
			if d.Short() || slot >= live || times > math.MaxUint16 {
				return blocks.Damaged("a word is in an item that is none")
			}
			all = append(all, posting{uint32(slot), uint16(times)})
		}
		if n > 0 { // Clipped: a list that grows takes nothing from the next one.
			sp.words[word] = all[begin:len(all):len(all)]
		}
	}
	sp.unsaved = 0
	return nil
}

// more returns the block that is being read, or the next one when it is at its end.
func more(r *blocks.Reader, d *blocks.Data) (*blocks.Data, error) {
	if d != nil && d.Rest() > 0 {
		return d, nil
	}
	return r.Next()
}
