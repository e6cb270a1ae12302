package sentry

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/ktime"
)

// makeFiles is how many files the C project has.
const makeFiles = 12

// makeImage is an image with a C project in /src and what it takes to make it.
var makeImage = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "aios-make")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "make", func(root string) error {
		for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "src"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		cc1, err := exec.Command("gcc", "-print-prog-name=cc1").Output()
		if err != nil {
			return err
		}
		for _, p := range []string{"/usr/bin/make", "/usr/bin/gcc", "/usr/bin/as", "/usr/bin/ld", strings.TrimSpace(string(cc1))} {
			if err := copyProgram(root, p); err != nil {
				return err
			}
		}
		if err := copyTo(root, "/bin/busybox", "/bin/sh"); err != nil {
			return err
		}
		include := filepath.Join(root, "usr/include/stdc-predef.h") // The compiler looks for it.
		if err := os.MkdirAll(filepath.Dir(include), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(include, nil, 0o644); err != nil {
			return err
		}
		for i := range makeFiles {
			text := fmt.Sprintf("struct s { int a[%d]; double d; };\n", i+1)
			for j := range 10 {
				text += fmt.Sprintf("int f%d_%d(struct s *p, int n) { int r = 0; for (int i = 0; i < n; i++) { p->a[i %% %d] += i * %d; r ^= p->a[(i + %d) %% %d]; if (r & %d) p->d *= 1.5; } return r; }\n",
					i, j, i+1, j+3, j, i+1, j+1)
			}
			if err := os.WriteFile(filepath.Join(root, fmt.Sprintf("src/f%d.c", i)), []byte(text), 0o644); err != nil {
				return err
			}
		}
		return os.WriteFile(filepath.Join(root, "src/Makefile"), []byte(`O = $(patsubst %.c,$(OUT)/%.o,$(wildcard *.c))
$(OUT)/all.o: $(O)
	ld -r -o $@ $^
$(OUT)/%.o: %.c
	gcc -O1 -c -o $@ $<
`), 0o644)
	})
})

// copyTo copies a file of the host into a root.
func copyTo(root, from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	to = filepath.Join(root, to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o755)
}

// copyProgram copies a program and the libraries that it is linked with.
func copyProgram(root, path string) error {
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", path, err)
	}
	for line := range strings.Lines(string(out)) {
		if _, after, ok := strings.Cut(line, "=> "); ok {
			line = after
		}
		if f := strings.Fields(line); len(f) > 0 && filepath.IsAbs(f[0]) {
			if err := copyTo(root, f[0], f[0]); err != nil {
				return err
			}
		}
	}
	return copyTo(root, path, path)
}

// BenchmarkMakeInAgent compares `make -j2` of a C project in one agent, whose
// processes the scheduler knows, or does not, by turns. Nobody is beside it.
func BenchmarkMakeInAgent(b *testing.B) {
	for _, name := range []string{"gcc", "make", "ld"} {
		if _, err := exec.LookPath(name); err != nil {
			b.Skip("it needs " + name)
		}
	}
	if err := makeImage(); err != nil {
		b.Fatal(err)
	}
	s := spawn(b, []string{"/bin/sh", "-c", "while :; do read x; done"}, withStdin, func(r *control.SpawnRequest) { r.Root.Base = "make" })
	a, err := theKernel.agent(s.id)
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	measure := func(scheduled bool) time.Duration {
		a.unscheduled.Store(!scheduled)
		n++
		out := fmt.Sprint("/tmp/o", n)
		began := ktime.Real.Now()
		m := s.execIn([]string{"/bin/sh", "-c", "mkdir " + out + " && cd /src && make -s -j2 OUT=" + out + " && rm -r " + out}, func(p *control.Process) {
			p.Env = []string{"PATH=/usr/bin:/bin"}
		})
		text, errs, exit := m.output()
		if exit.Code != 0 || exit.Signal != 0 {
			b.Fatalf("make: %s%s%+v", text, errs, exit)
		}
		return ktime.Real.Since(began)
	}
	measure(true)
	measure(false)
	var ratios, took []float64
	for i := range b.N {
		var w, o time.Duration
		if i%2 == 0 {
			w, o = measure(true), measure(false)
		} else {
			o, w = measure(false), measure(true)
		}
		took, ratios = append(took, w.Seconds()), append(ratios, float64(w)/float64(o))
	}
	b.ReportMetric(median(took), "s/make")
	b.ReportMetric(100*(median(ratios)-1), "extra-%")
}
