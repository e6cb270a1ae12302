package audit

import (
	"strconv"
	"testing"
)

func BenchmarkAppend(b *testing.B) {
	for _, parallel := range []bool{false, true} {
		b.Run("parallel="+strconv.FormatBool(parallel), func(b *testing.B) {
			l := mustOpen(b, b.TempDir(), Options{})
			e := mint(1)
			b.ReportAllocs()
			b.ResetTimer()
			if parallel {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						mustAppend(b, l, e)
					}
				})
			} else {
				for range b.N {
					mustAppend(b, l, e)
				}
			}
			must(b, l.Sync())
		})
	}
}

// BenchmarkSync is an entry that has to be on disk before its caller goes on.
func BenchmarkSync(b *testing.B) {
	l := mustOpen(b, b.TempDir(), Options{})
	for range b.N {
		mustAppend(b, l, mint(1))
		must(b, l.Sync())
	}
}

// BenchmarkDenied is a refusal that repeats: it is counted, not written.
func BenchmarkDenied(b *testing.B) {
	l := mustOpen(b, b.TempDir(), Options{})
	e := Entry{Op: OpDenied, Agent: "a1", Target: "/etc/shadow", Errno: "EACCES"}
	b.ReportAllocs()
	for range b.N {
		mustAppend(b, l, e)
	}
}

func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	l := mustOpen(b, dir, Options{})
	for i := range 20000 {
		mustAppend(b, l, mint(i))
	}
	must(b, l.Close())
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		mustVerify(b, dir, VerifyOptions{})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20000, "ns/entry")
}

func BenchmarkQuery(b *testing.B) {
	dir := b.TempDir()
	l := mustOpen(b, dir, Options{})
	for i := range 20000 {
		mustAppend(b, l, mint(i))
	}
	must(b, l.Close())
	b.ResetTimer()
	for range b.N {
		if len(query(b, dir, Filter{Correlation: "r77"})) != 3 {
			b.Fatal("not found")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20000, "ns/entry")
}
