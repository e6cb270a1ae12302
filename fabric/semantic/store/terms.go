package store

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"unicode"
	"unicode/utf8"
)

// maxTerm bounds a word in bytes; more of it does not count.
const maxTerm = 64

// words calls yield with every word of a text: runs of letters and digits, in
// lower case.
func words(text string, yield func(word string)) {
	var buf [maxTerm + utf8.UTFMax]byte
	n := 0
	end := func() {
		if n > 0 {
			yield(string(buf[:n]))
			n = 0
		}
	}
	for _, r := range text {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
			end()
			continue
		}
		if n < maxTerm {
			n += utf8.EncodeRune(buf[n:], unicode.ToLower(r))
		}
	}
	end()
}

// count returns how often each word is in a text, and how many there are.
func count(text string) (map[string]uint16, int) {
	out := make(map[string]uint16)
	n := 0
	words(text, func(w string) {
		n++
		if out[w] < math.MaxUint16 {
			out[w]++
		}
	})
	return out, n
}

// posting is a word in an item.
type posting struct {
	slot  uint32
	times uint16
}

// The parameters of BM25.
const (
	bm25K = 1.2
	bm25B = 0.75
)

// scored is an item with its score in one ranking.
type scored struct {
	slot  uint32
	score float32
}

// byWords ranks the items of a view by the words of a question.
func (sp *space) byWords(question string, v *view, most int) []scored {
	if v.count == 0 {
		return nil
	}
	wanted, _ := count(question)
	scores := sp.borrow()
	defer sp.putBack(scores)
	average := max(float64(v.length)/float64(v.count), 1)
	for _, w := range slices.Sorted(maps.Keys(wanted)) { // The same sums, whenever it is asked.
		list := sp.words[w]
		in := 0
		for _, p := range list {
			if v.has(sp, p.slot) {
				in++
			}
		}
		if in == 0 {
			continue
		}
		idf := math.Log(1 + (float64(v.count)-float64(in)+0.5)/(float64(in)+0.5))
		for _, p := range list {
			if !v.has(sp, p.slot) {
				continue
			}
			tf := float64(p.times)
			norm := bm25K * (1 - bm25B + bm25B*float64(sp.docs[p.slot].length)/average)
			if scores.of[p.slot] == 0 {
				scores.hit = append(scores.hit, p.slot)
			}
			scores.of[p.slot] += float32(idf * tf * (bm25K + 1) / (tf + norm))
		}
	}
	return sp.top(scores, most)
}

// sums are scores by slot, and the slots that have one.
type sums struct {
	of  []float32
	hit []uint32
}

func (sp *space) borrow() *sums {
	s, _ := sp.sums.Get().(*sums)
	if s == nil {
		s = &sums{}
	}
	if len(s.of) < len(sp.docs) {
		s.of = make([]float32, len(sp.docs)+len(sp.docs)/2)
	}
	return s
}

func (sp *space) putBack(s *sums) {
	for _, slot := range s.hit {
		s.of[slot] = 0
	}
	s.hit = s.hit[:0]
	sp.sums.Put(s)
}

// top returns the best, of which there are at most so many; of equals those that
// are older.
func (sp *space) top(s *sums, most int) []scored {
	var best []scored // the worst of them is known by least
	least := float32(0)
	better := func(a, b scored) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(sp.docs[a.slot].key, sp.docs[b.slot].key))
	}
	for _, slot := range s.hit {
		if x := s.of[slot]; x >= least || len(best) < most {
			best = append(best, scored{slot, x})
			if len(best) >= 4*most { // Now and then, not for each.
				slices.SortFunc(best, better)
				best = best[:most]
				least = best[most-1].score
			}
		}
	}
	slices.SortFunc(best, better)
	return best[:min(most, len(best))]
}
