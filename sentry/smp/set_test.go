package smp

import (
	"testing"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
)

func TestSetText(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"", ""}, {" 0\n", "0"}, {"0-3,8", "0-3,8"}, {"8,0-2,3", "0-3,8"}, {"63-64", "63-64"}, {"1023", "1023"}, {"5,5,5-5", "5"},
	} {
		s, err := Parse(c.in)
		if err != nil || s.String() != c.out {
			t.Errorf("%q: %q, %v; want %q", c.in, s, err, c.out)
		}
	}
	for _, in := range []string{"a", "-1", "1-", "3-1", "1024", "0,,1", "0x1", "1 2", "99999999999999999999"} {
		if s, err := Parse(in); errdefs.CodeOf(err) != errdefs.InvalidArgument || errdefs.FixOf(err) == "" || !s.Empty() {
			t.Errorf("%q: %v, %v", in, s, err)
		}
	}
}

// TestSetModel compares sets with maps.
func TestSetModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cpus := rapid.SliceOf(rapid.IntRange(-3, MaxCPUs+3))
		a, b := cpus.Draw(t, "a"), cpus.Draw(t, "b")
		sa, sb := Of(a...), Of(b...)
		in := func(list []int) map[int]bool {
			m := make(map[int]bool)
			for _, c := range list {
				if c >= 0 && c < MaxCPUs {
					m[c] = true
				}
			}
			return m
		}
		ma, mb := in(a), in(b)
		n := 0
		for c := -3; c < MaxCPUs+3; c++ {
			if ma[c] {
				n++
			}
			if sa.Has(c) != ma[c] || sa.And(sb).Has(c) != (ma[c] && mb[c]) || sa.Or(sb).Has(c) != (ma[c] || mb[c]) ||
				sa.Minus(sb).Has(c) != (ma[c] && !mb[c]) {
				t.Fatalf("CPU %d of %v and %v", c, sa, sb)
			}
		}
		if sa.Len() != n || sa.Empty() != (n == 0) {
			t.Fatalf("%v has %d", sa, sa.Len())
		}
		last, walked := -1, 0
		sa.All(func(c int) bool {
			if c <= last || !ma[c] {
				t.Fatalf("%d after %d", c, last)
			}
			last, walked = c, walked+1
			return true
		})
		if walked != n {
			t.Fatalf("walked %d of %d", walked, n)
		}
		if again, err := Parse(sa.String()); err != nil || again != sa {
			t.Fatalf("%q: %v", sa, err)
		}
		if first := First(n); first.Len() != n || n > 0 && !first.Has(n-1) {
			t.Fatalf("first %d: %v", n, first)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("0-3,8")
	f.Fuzz(func(t *testing.T, in string) {
		s, err := Parse(in)
		if again, err2 := Parse(s.String()); err == nil && (err2 != nil || again != s) {
			t.Errorf("%q became %q", in, s)
		}
	})
}
