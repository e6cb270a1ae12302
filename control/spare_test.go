package control

import (
	"io"
	"os"
	"sync"
	"testing"

	"aios.dev/aios/errdefs"
)

// A spare gets all files, in their order, however many there are, and nothing of them
// is left when it gets no configuration.
func TestSpareBecomes(t *testing.T) {
	before := descriptors(t)
	for _, n := range []int{1, MaxFiles, MaxFiles + 1, 5*MaxFiles + 3} {
		a, b := pair(t)
		files := openFiles(t, n)
		var daemon sync.WaitGroup
		daemon.Go(func() {
			if err := AwaitSpare(a.c); err != nil {
				t.Error(err)
			}
			cfg := KernelConfig{Domain: "dom", Restore: &RestoreConfig{StateFD: 6, MemoryFD: 7, PackFDs: []int{8}, Mounts: []RestoreMount{{FD: 9}}, Logs: []RestoreLog{{FD: 10}}}}
			if err := Become(a.c, cfg, files); err != nil {
				t.Error(err)
			}
		})
		if err := SpareReady(b.c); err != nil {
			t.Fatal(err)
		}
		cfg, got, err := AwaitBecoming(b.c)
		if err != nil || cfg.Domain != "dom" || len(got) != n {
			t.Fatalf("%d files: %+v, %d, %v", n, cfg, len(got), err)
		}
		daemon.Wait()
		cfg.Restore.Renumber(func(i int) int { return 10 * i })
		r := cfg.Restore
		if all := []int{r.StateFD, r.MemoryFD, r.PackFDs[0], r.Mounts[0].FD, r.Logs[0].FD}; all[0] != 60 || all[1] != 70 || all[2] != 80 || all[3] != 90 || all[4] != 100 {
			t.Errorf("renumbered: %v", all)
		}
		for i := range files {
			x, y := stat(t, files[i]), stat(t, got[i])
			if !os.SameFile(x, y) {
				t.Errorf("file %d of %d is another", i, n)
			}
		}
		closeAll(files)
		closeAll(got)
		a.c.Close()
		b.c.Close()
	}
	wantDescriptors(t, before)
}

func stat(t *testing.T, f *os.File) os.FileInfo {
	t.Helper()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestSpareIsNotWanted(t *testing.T) {
	before := descriptors(t)
	for name, said := range map[string]func(c *conn, files []*os.File){
		"nothing":       func(*conn, []*os.File) {},
		"only files":    func(c *conn, files []*os.File) { c.send(&message{Method: spareFiles}, files...) },
		"no files":      func(c *conn, _ []*os.File) { c.send(&message{Method: spareStart, Body: []byte("{}")}) },
		"something":     func(c *conn, files []*os.File) { c.send(&message{Method: "hello"}, files...) },
		"no such thing": func(c *conn, files []*os.File) { c.send(&message{Method: spareStart, Body: []byte("[1]")}, files...) },
	} {
		a, b := pair(t)
		files := openFiles(t, 2)
		said(a, files)
		closeAll(files)
		a.c.Close()
		_, got, err := AwaitBecoming(b.c)
		if err == nil || got != nil || name == "nothing" && err != io.EOF || name == "something" && errdefs.CodeOf(err) != errdefs.Protocol {
			t.Errorf("%s: %d files, %v", name, len(got), err)
		}
		b.c.Close()
	}
	wantDescriptors(t, before)
	(*RestoreConfig)(nil).Renumber(nil)
}
