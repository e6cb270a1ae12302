package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMedianAndPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for name, test := range map[string]struct{ got, want float64 }{
		"median of none":      {median(nil), 0},
		"median of one":       {median([]float64{7}), 7},
		"median of odd":       {median([]float64{9, 1, 5}), 5},
		"median of even":      {median([]float64{9, 1, 5, 3}), 4},
		"p99 of none":         {percentile(nil, 99), 0},
		"p99 of one":          {percentile([]float64{7}, 99), 7},
		"p99 of a hundred":    {percentile(hundred, 99), 99},
		"p50 of a hundred":    {percentile(hundred, 50), 50},
		"the input is kept":   {hundred[0], 100},
		"p100 is the largest": {percentile(hundred, 100), 100},
	} {
		if test.got != test.want {
			t.Errorf("%s: %v, want %v", name, test.got, test.want)
		}
	}
}

func TestInterleave(t *testing.T) {
	var order []string
	steady := func(name string) contender {
		return contender{name, func(context.Context) (map[string]float64, error) {
			order = append(order, name)
			return map[string]float64{elapsed: float64(len(order))}, nil
		}}
	}
	calls := 0
	frail := contender{"frail", func(context.Context) (map[string]float64, error) {
		if calls++; calls > 2 {
			return nil, errors.New("worn out")
		}
		return map[string]float64{elapsed: 1}, nil
	}}
	var failed []string
	got := interleave(t.Context(), 3, []contender{steady("a"), steady("b"), frail}, func(name string, err error) {
		failed = append(failed, name+": "+err.Error())
	})
	if n := len(got[elapsed]["a"]); n != 3 {
		t.Errorf("a has %d samples, want 3 without the first round", n)
	}
	if _, ok := got[elapsed]["frail"]; ok {
		t.Error("samples of a contender that failed are kept")
	}
	if !slices.Equal(failed, []string{"frail: worn out"}) {
		t.Errorf("failures %q, want one of frail", failed)
	}
	if len(order) != 8 || slices.Equal(order[:2], order[2:4]) && slices.Equal(order[2:4], order[4:6]) {
		t.Errorf("order %v does not rotate", order)
	}
}

func TestInterleaveStopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	runs := 0
	interleave(ctx, 100, []contender{{"a", func(context.Context) (map[string]float64, error) {
		if runs++; runs == 3 {
			cancel()
		}
		return nil, nil
	}}}, func(string, error) {})
	if runs != 3 {
		t.Errorf("%d runs, want 3", runs)
	}
}

func TestVerdict(t *testing.T) {
	values := map[string]float64{aios: 4, runc: 40, runsc: 60}
	for name, test := range map[string]struct {
		row  row
		want string
	}{
		"no goal":            {row{Values: values}, ""},
		"no value":           {row{Goal: &goal{Limit: 1}}, ""},
		"ceiling":            {row{Values: values, Goal: &goal{Limit: 4}}, "met"},
		"ceiling broken":     {row{Values: values, Goal: &goal{Limit: 3.9}}, "missed"},
		"floor":              {row{Values: values, More: true, Goal: &goal{Limit: 4}}, "met"},
		"floor broken":       {row{Values: values, More: true, Goal: &goal{Limit: 4.1}}, "missed"},
		"factor":             {row{Values: values, Goal: &goal{Than: map[string]float64{runc: 10}}}, "met"},
		"one factor of two":  {row{Values: values, Goal: &goal{Than: map[string]float64{runc: 10, runsc: 20}}}, "missed"},
		"peer is missing":    {row{Values: values, Goal: &goal{Than: map[string]float64{crun: 10}}}, ""},
		"more than the peer": {row{Values: values, More: true, Goal: &goal{Than: map[string]float64{runc: 0.2}}}, "missed"},
	} {
		if got := test.row.verdict(); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for want, v := range map[string]float64{"0": 0, "4.03 ms": 4.031, "35.1 ms": 35.06, "1235 ms": 1234.6, "-0.50 ms": -0.5, "250": 250} {
		unit := ""
		if strings.HasSuffix(want, " ms") {
			unit = "ms"
		}
		if got := number(v, unit); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestPrint(t *testing.T) {
	var tb table
	tb.Host = "2 CPUs"
	tb.add(row{Figure: "spawn", Unit: "ms", Values: map[string]float64{aios: 4, runc: 40},
		Goal: &goal{Than: map[string]float64{runc: 10}}})
	tb.add(row{Figure: "rate", Unit: "1/s", More: true, Values: map[string]float64{aios: 100}, Goal: &goal{Limit: 250}})
	tb.note("crun left out: %s", "not installed")
	var out strings.Builder
	if err := tb.print(&out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	for i, words := range [][]string{
		{"figure", "(median)", "aios", "runc", "goal"},
		{"spawn", "4", "ms", "40", "ms", "(10×)", "≥", "10×", "runc", "met"},
		{"rate", "100", "1/s", "–", "≥", "250", "1/s", "missed"},
	} {
		if got := strings.Fields(lines[i]); !slices.Equal(got, words) {
			t.Errorf("line %d is %q, want %q", i, got, words)
		}
	}
	if !strings.Contains(out.String(), "note: crun left out: not installed") {
		t.Errorf("the note is missing:\n%s", out.String())
	}
}

func TestLibraries(t *testing.T) {
	const ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n" +
		"\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n" +
		"\tlibgone.so => not found\n" +
		"\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n"
	want := []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}
	if got := libraries(ldd); !slices.Equal(got, want) {
		t.Errorf("libraries = %q, want %q", got, want)
	}
}

func TestRootHoldsWhatAProgramNeeds(t *testing.T) {
	r, err := newRoot(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	path := find("true")
	if path == "" || find("ldd") == "" {
		t.Skip("the host has no true or no ldd")
	}
	if err := r.program(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(r.place(path))
	if err != nil || info.Mode().Perm()&0o111 == 0 {
		t.Errorf("%s is not executable in the root: %v", path, err)
	}
	if err := r.program(t.Context(), path); err != nil {
		t.Errorf("the same program again: %v", err)
	}
	if err := r.file("/dev/null"); err == nil {
		t.Error("a device is copied as if it were a file")
	}
	if got := r.place("/lib64/x"); got != filepath.Join(r.dir, "usr/lib64/x") {
		t.Errorf("/lib64/x lies at %s", got)
	}
}

func TestTreeCopiesFilesAndSkipsDirectories(t *testing.T) {
	src := t.TempDir()
	for _, name := range []string{"a/keep", "a/skip/lost", "b"} {
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(src, "dangling")); err != nil {
		t.Fatal(err)
	}
	r, err := newRoot(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.tree(src, "skip"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"a/keep": true, "b": true, "a/skip/lost": false, "dangling": false} {
		text, err := os.ReadFile(r.place(filepath.Join(src, name)))
		if (err == nil) != want || want && string(text) != name {
			t.Errorf("%s: copied %q, %v; wanted there: %v", name, text, err, want)
		}
	}
}

func TestParentOf(t *testing.T) {
	for stat, want := range map[string]int{
		"12 (cat) S 34 12 12 0":        34,
		"12 (a) b) S 9 (x) R 56 1 2 3": 56,
	} {
		if got, ok := parentOf([]byte(stat)); !ok || got != want {
			t.Errorf("parentOf(%q) = %d, %v", stat, got, ok)
		}
	}
	for _, stat := range []string{"", "12 (cat", "12 (cat) S", "12 (cat) S x"} {
		if got, ok := parentOf([]byte(stat)); ok {
			t.Errorf("parentOf(%q) = %d", stat, got)
		}
	}
}

func TestWithoutShmem(t *testing.T) {
	const rollup = "00400000-7fff [rollup]\nRss: 900 kB\nPss: 800 kB\nPss_Anon: 100 kB\nPss_File:  20 kB\nPss_Shmem: 680 kB\n"
	if got := withoutShmem([]byte(rollup)); got != 120<<10 {
		t.Errorf("withoutShmem = %d, want %d", got, 120<<10)
	}
}

func TestMeasureSeesAChildAndItsFiles(t *testing.T) {
	path := find("sleep")
	if path == "" {
		t.Skip("the host has no sleep")
	}
	before, err := measure([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	pipe, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer end.Close()
	child := exec.Command(path, "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	during, err := measure([]int{os.Getpid()})
	alive := running(child.Process.Pid)
	child.Process.Kill()
	child.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if !alive || running(child.Process.Pid) {
		t.Errorf("running says %v before a child's end and %v after", alive, running(child.Process.Pid))
	}
	if during.processes != before.processes+1 {
		t.Errorf("%d processes with a child, %d without", during.processes, before.processes)
	}
	if during.fds < before.fds+2 {
		t.Errorf("%d open files with a pipe, %d without", during.fds, before.fds)
	}
	if during.pss <= 0 || during.mounts <= 0 {
		t.Errorf("measured %+v", during)
	}
}

func TestSpecOfAPeer(t *testing.T) {
	p := &peer{name: runc, cgroup: "/base"}
	spec := p.spec(box{root: &root{dir: "/r"}, argv: []string{"/bin/x"}})
	if path := spec["linux"].(object)["cgroupsPath"]; path != "/base/runc" {
		t.Errorf("cgroupsPath is %v", path)
	}
	if r := spec["root"].(object); r["path"] != "/r" || r["readonly"] != true {
		t.Errorf("root is %v", r)
	}
	if n := len(spec["mounts"].([]object)); n != 3 {
		t.Errorf("%d mounts without a directory", n)
	}

	spec = p.spec(box{root: &root{}, dir: "/host", memory: 1 << 20, group: "-7"})
	linux := spec["linux"].(object)
	if linux["cgroupsPath"] != "/base/runc-7" {
		t.Errorf("cgroupsPath is %v", linux["cgroupsPath"])
	}
	if memory := linux["resources"].(object)["memory"].(object); memory["limit"] != int64(1<<20) {
		t.Errorf("memory is %v", memory)
	}
	mounts := spec["mounts"].([]object)
	if last := mounts[len(mounts)-1]; last["source"] != "/host" || last["destination"] != dataDir {
		t.Errorf("the directory is mounted as %v", last)
	}
}

func TestParseBenchmarks(t *testing.T) {
	const text = `goos: linux
goarch: amd64
pkg: aios.dev/aios/sentry
BenchmarkGate/bare-2         	 5058384	         3.5 ns/op	       0 B/op	       0 allocs/op
BenchmarkGate/with_a_rule-2  	 8993528	        20.7 ns/op	       0 B/op	       0 allocs/op
BenchmarkGate/with_a_rule-2  	 8993528	        22.7 ns/op	       0 B/op	       0 allocs/op
BenchmarkGate/with_a_rule-2  	 8993528	        99 ns/op	       0 B/op	       0 allocs/op
BenchmarkGateInAgent/getpid  	      20	1873027403 ns/op	        -1.763 extra-%	     21704 gated-ns
BenchmarkBroken-2            	      20	many ns/op
BenchmarkLogs
    x_test.go:7: 5 ns/op
BenchmarkFailed-2
--- FAIL: BenchmarkFailed-2
PASS
ok  	aios.dev/aios/sentry	1.2s
`
	m := parseBenchmarks(text)
	for _, want := range []struct {
		name, unit string
		value      float64
	}{
		{"Gate/bare", "ns/op", 3.5},
		{"Gate/bare", "allocs/op", 0},
		{"Gate/with_a_rule", "ns/op", 22.7},
		{"GateInAgent/getpid", "extra-%", -1.763},
		{"GateInAgent/getpid", "gated-ns", 21704},
	} {
		if got, ok := m.median(want.name, want.unit); !ok || got != want.value {
			t.Errorf("%s %s: %v, %v", want.name, want.unit, got, ok)
		}
	}
	for _, none := range [][2]string{{"Broken", "ns/op"}, {"Failed", "ns/op"}, {"Gate/bare", "p50-ns"}, {"Logs", "ns/op"}} {
		if got, ok := m.median(none[0], none[1]); ok {
			t.Errorf("%q: %v", none, got)
		}
	}
	if got := parseBenchmarks("PASS\nok aios.dev/aios/sentry 0.1s [no tests to run]\n"); len(got) != 0 {
		t.Errorf("figures out of nothing: %v", got)
	}
}

func TestParsePace(t *testing.T) {
	got, err := parsePace("7297 7321 387723")
	if want := (pace{7297, 7321, 387723}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "7297 7321", "0 0 0", "fine 1 2"} {
		if got, err := parsePace(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

// scripted is a speaker with the lines that it will say.
type scripted struct {
	said  []string
	lines []string
}

func (s *scripted) send(line string) error {
	s.said = append(s.said, line)
	return nil
}

func (s *scripted) line() (string, bool, error) {
	if len(s.lines) == 0 {
		return "", false, nil
	}
	line := s.lines[0]
	s.lines = s.lines[1:]
	return line, true, nil
}

func (*scripted) close() {}

func TestHogged(t *testing.T) {
	for name, test := range map[string]struct {
		lines []string
		ok    bool
	}{
		"killed":              {[]string{"near"}, true},
		"refused":             {[]string{"near", "refused"}, true},
		"never near":          {nil, false},
		"refused too early":   {[]string{"refused"}, false},
		"something else said": {[]string{"near", "far"}, false},
	} {
		got, err := hogged(&scripted{lines: test.lines})
		if (err == nil) != test.ok || test.ok && got[elapsed] < 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestExpect(t *testing.T) {
	s := &scripted{lines: []string{"0 0", "1 0"}}
	if err := expect(s, "check", "0 0"); err != nil {
		t.Error(err)
	}
	if err := expect(s, "check", "0 0"); err == nil {
		t.Error("a wrong answer is right")
	}
	if err := expect(s, "check", "0 0"); err == nil {
		t.Error("the end is an answer")
	}
	if !slices.Equal(s.said, []string{"check", "check", "check"}) {
		t.Errorf("said %q", s.said)
	}
}

func TestLossOf(t *testing.T) {
	got := lossOf(pace{count: 90}, pace{count: 110}, pace{count: 95})
	if got < 4.99 || got > 5.01 {
		t.Errorf("lost %v %%, want 5", got)
	}
}

func TestSpread(t *testing.T) {
	var tb table
	tb.spreadOurs("revoke", "µs", []float64{3, 1, 2}, nil, &goal{Limit: 2})
	if len(tb.Rows) != 2 || tb.Rows[0].Figure != "revoke: p50" || tb.Rows[1].Figure != "revoke: p99" {
		t.Fatalf("rows %+v", tb.Rows)
	}
	if p50, p99 := tb.Rows[0].Values[aios], tb.Rows[1].Values[aios]; p50 != 2 || p99 != 3 {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
	if tb.Rows[0].verdict() != "" || tb.Rows[1].verdict() != "missed" {
		t.Errorf("verdicts %q and %q", tb.Rows[0].verdict(), tb.Rows[1].verdict())
	}
}
