package grantfs

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/ktime"
)

// benchSides runs a benchmark without a grant, and through one.
func benchSides(b *testing.B, run func(b *testing.B, u user)) {
	w := newWorld(b)
	raw := w.raw()
	must(b, raw.mkdir("/d"))
	must(b, raw.mkdir("/d/e"))
	must(b, raw.writeFile("/d/e/f", string(make([]byte, 8192))))
	w.grant("/g", "/", Options{Rights: allRights})
	granted := w.agent()
	root, err := w.vfs.GetDentryAt(granted.ctx, granted.creds, granted.pop("/g"), &vfs.GetDentryOptions{})
	must(b, err)
	granted.root = root
	b.Run("plain", func(b *testing.B) { run(b, raw) })
	b.Run("grant", func(b *testing.B) { run(b, granted) })
}

// BenchmarkPRead is the read path; it must not allocate.
func BenchmarkPRead(b *testing.B) {
	for _, size := range []int{1, 4096} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			benchSides(b, func(b *testing.B, u user) {
				fd, err := u.openFile("/d/e/f", linux.O_RDWR, 0)
				must(b, err)
				defer fd.DecRef(u.ctx)
				dst := usermem.BytesIOSequence(make([]byte, size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := fd.PRead(u.ctx, dst, 0, vfs.ReadOptions{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkPWrite is the write path.
func BenchmarkPWrite(b *testing.B) {
	benchSides(b, func(b *testing.B, u user) {
		fd, err := u.openFile("/d/e/f", linux.O_RDWR, 0)
		must(b, err)
		defer fd.DecRef(u.ctx)
		src := usermem.BytesIOSequence(make([]byte, 4096))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := fd.PWrite(u.ctx, src, 0, vfs.WriteOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkOpen opens a file three directories down, and closes it.
func BenchmarkOpen(b *testing.B) {
	benchSides(b, func(b *testing.B, u user) {
		b.ReportAllocs()
		for b.Loop() {
			must(b, u.opens("/d/e/f", linux.O_RDONLY))
		}
	})
}

// BenchmarkStat stats the same file.
func BenchmarkStat(b *testing.B) {
	benchSides(b, func(b *testing.B, u user) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := u.stat("/d/e/f"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRevoke revokes a grant with 100 open files, 10 of which are mapped and
// touched, and reports the 50th and 99th percentile.
func BenchmarkRevoke(b *testing.B) {
	var took []time.Duration
	for range b.N {
		b.StopTimer()
		w := newWorld(b)
		agent := w.agent()
		fs := w.grant("/g", "/", Options{Rights: allRights})
		m := agent.memory()
		for i := range 100 {
			path := fmt.Sprintf("/g/%d", i)
			must(b, agent.writeFile(path, "text"))
			fd, err := agent.openFile(path, linux.O_RDWR, 0)
			must(b, err)
			defer fd.DecRef(agent.ctx)
			if i < 10 {
				m.want("touch", m.mustMmap(fd, hostarch.ReadWrite, false), hostarch.Write, "ok")
			}
		}
		b.StartTimer()
		began := ktime.Real.Now()
		fs.Revoke()
		took = append(took, ktime.Real.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}
