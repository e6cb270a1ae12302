package account

import (
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// TestLedgerAgainstAModel makes charges, releases and measurements at random
// and compares with arithmetic.
func TestLedgerAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var told []Crossing
		l := NewLedger(func(c Crossing) { told = append(told, c) })
		var used, peak, refused uint64
		soft, hard := Unlimited, Unlimited
		softTold, hardTold := false, false
		amount := rapid.Uint64Range(0, 300)
		const r = Memory
		expect := func(level Level, limit uint64) {
			if len(told) == 0 || told[0] != (Crossing{r, level, used, limit}) {
				t.Fatalf("told %+v, want %v of %d at %d", told, level, limit, used)
			}
			told = told[1:]
		}
		settle := func() { // After usage has changed.
			peak = max(peak, used)
			if used >= soft && !softTold {
				expect(Soft, soft)
				softTold = true
			}
			if used > hard && !hardTold {
				expect(Hard, hard)
				hardTold = true
			}
		}
		leave := func() {
			softTold = softTold && used >= soft-soft/8
			hardTold = hardTold && used >= hard-hard/8
		}
		t.Repeat(map[string]func(*rapid.T){
			"charge": func(t *rapid.T) {
				n := amount.Draw(t, "n")
				fits := used+n <= hard
				if l.Charge(r, n) != fits {
					t.Fatalf("charge of %d at %d of %d: %v", n, used, hard, !fits)
				}
				if fits {
					used += n
					settle()
				} else {
					refused++
					if !hardTold {
						expect(Hard, hard)
						hardTold = true
					}
				}
			},
			"refuse": func(*rapid.T) {
				l.Refuse(r)
				refused++
				if !hardTold {
					expect(Hard, hard)
					hardTold = true
				}
			},
			"add": func(t *rapid.T) {
				n := amount.Draw(t, "n")
				l.Add(r, n)
				used += n
				settle()
			},
			"release": func(t *rapid.T) {
				n := amount.Draw(t, "n")
				l.Release(r, n)
				used -= min(n, used)
				leave()
			},
			"measure": func(t *rapid.T) {
				used = amount.Draw(t, "n")
				l.Measure(r, used)
				leave()
				settle()
			},
			"limit": func(t *rapid.T) {
				limit := rapid.OneOf(rapid.Uint64Range(0, 1000), rapid.Just(Unlimited))
				oldSoft, oldHard := soft, hard
				if rapid.Bool().Draw(t, "change") {
					soft, hard = limit.Draw(t, "soft"), limit.Draw(t, "hard")
				}
				l.SetLimits(r, soft, hard)
				if soft != oldSoft || hard != oldHard {
					softTold, hardTold = false, false
					settle()
				}
			},
			"": func(t *rapid.T) {
				if l.Used(r) != used || l.Peak(r) != peak || l.Refused(r) != refused {
					t.Fatalf("used %d peak %d refused %d, want %d %d %d", l.Used(r), l.Peak(r), l.Refused(r), used, peak, refused)
				}
				if len(told) != 0 {
					t.Fatalf("unexpected %+v", told)
				}
				if l.Used(Tasks) != 0 || l.Peak(Tasks) != 0 {
					t.Fatal("another resource was touched")
				}
			},
		})
	})
}

func TestChargeDoesNotOverflow(t *testing.T) {
	l := NewLedger(nil)
	if !l.Charge(Disk, Unlimited-1) || l.Charge(Disk, 2) {
		t.Error("usage wrapped around")
	}
}

// TestRacingCharges lets goroutines fight for fewer places than there are
// goroutines: the limit holds, every place is used, and the soft limit is told
// once.
func TestRacingCharges(t *testing.T) {
	const limit, racers, rounds = 5, 8, 3000
	var told atomic.Int32
	l := NewLedger(func(c Crossing) {
		if c.Level == Soft {
			told.Add(1)
		}
	})
	l.SetLimits(Tasks, limit, limit)
	var most, inside atomic.Int32
	var wg sync.WaitGroup
	for range racers {
		wg.Go(func() {
			for range rounds {
				if !l.Charge(Tasks, 1) {
					continue
				}
				if n := inside.Add(1); n > most.Load() {
					most.Store(n)
				}
				inside.Add(-1)
				l.Release(Tasks, 1)
			}
		})
	}
	wg.Wait()
	if most.Load() > limit || l.Peak(Tasks) > limit || l.Used(Tasks) != 0 {
		t.Errorf("most %d peak %d left %d, limit %d", most.Load(), l.Peak(Tasks), l.Used(Tasks), limit)
	}
	told.Store(0)
	var won atomic.Int32
	for range racers {
		wg.Go(func() {
			if l.Charge(Tasks, 1) {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != limit {
		t.Errorf("%d racers got %d places", won.Load(), limit)
	}
	if told.Load() != 1 {
		t.Errorf("the soft limit was told %d times", told.Load())
	}
}

func TestChargeAllocatesNothing(t *testing.T) {
	l := NewLedger(func(Crossing) {})
	l.SetLimits(Memory, 10, 20)
	if n := testing.AllocsPerRun(1000, func() {
		l.Charge(Memory, 15)
		l.Charge(Memory, 15)
		l.Add(ReadBytes, 1)
		l.Measure(Files, 3)
		l.Release(Memory, 15)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCharge(b *testing.B) {
	l := NewLedger(nil)
	l.SetLimits(Memory, Unlimited-1, Unlimited-1)
	b.ReportAllocs()
	for b.Loop() {
		l.Charge(Memory, 4096)
		l.Release(Memory, 4096)
	}
}

func BenchmarkAdd(b *testing.B) {
	l := NewLedger(nil)
	b.ReportAllocs()
	for b.Loop() {
		l.Add(ReadBytes, 1)
	}
}

func BenchmarkChargeTogether(b *testing.B) {
	l := NewLedger(nil)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Add(ReadBytes, 1)
		}
	})
}
