package token

import (
	"fmt"
	"testing"
)

func BenchmarkVerify(b *testing.B) {
	tok := issue(b, claims(b))
	for _, blocks := range []int{1, 2, 4, 16} {
		for len(tok.blocks) < blocks {
			tok = attenuate(b, tok, Restriction{Ops: []string{OpList, OpSpawn}})
		}
		text := tok.Text()
		b.Run(fmt.Sprintf("blocks=%d", blocks), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				t, err := Parse(text)
				must(b, err)
				_, err = Verify(t, policy())
				must(b, err)
			}
			b.ReportMetric(float64(len(text)), "bytes")
		})
	}
}

func BenchmarkAllow(b *testing.B) {
	a := authority(b, attenuate(b, issue(b, claims(b)), Restriction{Ops: []string{OpList}}))
	agent := &Agent{ID: "a0123456789ab", Name: "build-7", Labels: map[string]string{"team": "x"}}
	b.ReportAllocs()
	for range b.N {
		must(b, a.Allow(OpList, agent))
	}
}

func BenchmarkIssue(b *testing.B) {
	c := claims(b)
	for range b.N {
		_, err := Issue(testKey(1), c, start)
		must(b, err)
	}
}
