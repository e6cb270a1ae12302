package sentry

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
)

// failures are spawns that fail, each at another stage.
var failures = map[string]func(*control.SpawnRequest){
	"ID":   func(r *control.SpawnRequest) { r.ID = "bad" },
	"base": func(r *control.SpawnRequest) { r.Root.Base = "nosuch" },
	"layer": func(r *control.SpawnRequest) {
		r.Root.Layers = []control.Bind{{Key: "busybox", Target: "/a"}, {Key: "nosuch", Target: "/b"}}
	},
	"layer target": func(r *control.SpawnRequest) { r.Root.Layers = []control.Bind{{Key: "busybox", Target: "/etc/passwd"}} },
	"hide":         func(r *control.SpawnRequest) { r.Root.Hide = []string{"/etc/passwd"} },
	"grant": func(r *control.SpawnRequest) {
		withFiles("fs:/a:ro", "busybox")(r)
		withFiles("fs:/b:ro", "nosuch")(r)
	},
	"grant text":   withFiles("fs:a:ro", "busybox"),
	"grant target": withFiles("fs:/a:ro,at=/etc/passwd", "busybox"),
	"grant own":    withFiles("fs:/a:ro,at=/proc/self", "busybox"),
	"user":         func(r *control.SpawnRequest) { r.Process.User = "nosuch" },
	"argv":         func(r *control.SpawnRequest) { r.Process.Argv = nil },
	"program":      func(r *control.SpawnRequest) { r.Process.Argv = []string{"nosuch"} },
	"cwd":          func(r *control.SpawnRequest) { r.Process.Cwd = "/nosuch" },
	"load":         func(r *control.SpawnRequest) { r.Process.Argv = []string{"script"} },
	"load, input":  func(r *control.SpawnRequest) { r.Process.Argv, r.Process.Stdin = []string{"script"}, true },
	"load, tty":    func(r *control.SpawnRequest) { r.Process.Argv, r.Process.TTY = []string{"script"}, true },
	"cwd, tty":     func(r *control.SpawnRequest) { r.Process.Cwd, r.Process.TTY = "/nosuch", true },
}

func TestFailedSpawnsLeakNothing(t *testing.T) {
	for name, spoil := range failures {
		t.Run(name, func(t *testing.T) {
			once := func() {
				if _, err := trySpawn(t, []string{"true"}, spoil); err == nil {
					t.Fatal("the spawn succeeded")
				}
			}
			for range 20 { // Fills pools and caches.
				once()
			}
			leaksNothing(t, 50, func() {
				for range 50 {
					once()
				}
			})
		})
	}
	l, err := theKernel.List(struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range l.Agents {
		if st.State == string(abi.StateStarting) {
			t.Errorf("a failed spawn is listed: %+v", st)
		}
	}
}

// TestWrongFilesLeakNothing hands requests the wrong number of files.
func TestWrongFilesLeakNothing(t *testing.T) {
	before := consumed(t)
	s := spawn(t, []string{"sleep", "1000"}, detached)
	for n := range 4 {
		files := func() (out []*os.File) {
			for range n {
				f, err := os.Open(os.DevNull)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, f)
			}
			return out
		}
		req := control.SpawnRequest{ID: string(abi.NewAgentID()), Root: control.Root{Base: "busybox"}, Process: control.Process{Argv: []string{"true"}}}
		if n != 1 {
			if theKernel.Spawn(req, files()) == nil {
				t.Errorf("spawn takes %d files", n)
			}
		}
		req.Attach = true
		if n != 2 {
			if theKernel.Spawn(req, files()) == nil {
				t.Errorf("spawn with a stream takes %d files", n)
			}
		}
		if n != 0 {
			if _, err := theKernel.Exec(control.ExecRequest{ID: s.id, Process: control.Process{Argv: []string{"/bin/true"}}}, files()); err == nil {
				t.Errorf("exec takes %d files", n)
			}
		}
		if n != 1 {
			if _, err := theKernel.Attach(control.AttachRequest{ID: s.id}, files()); err == nil {
				t.Errorf("attach takes %d files", n)
			}
		}
	}
	s.signal(9)
	s.wait()
	backTo(t, before)
}

func TestSpawnsLeakNothing(t *testing.T) {
	kinds := []func(*testing.T){
		func(t *testing.T) { spawn(t, []string{"true"}).output() },
		func(t *testing.T) { spawn(t, sh("sleep 1000 & (sleep 1000 &) ; exit 3")).output() },
		func(t *testing.T) { spawn(t, sh("ps; ls /proc/self/fd; echo x > /tmp/x"), withTTY).output() },
		func(t *testing.T) { spawn(t, []string{"cat"}, withStdin).stream.Close() },
		func(t *testing.T) {
			s := spawn(t, []string{"sleep", "1000"}, detached)
			s.execIn([]string{"true"}).output()
			s.mustAttach(false)
			s.pause()
			s.signal(9)
		},
	}
	run := func(n int) {
		for i := range n {
			// A test of its own, so that what spawn puts off is done.
			t.Run("", func(t *testing.T) { kinds[i%len(kinds)](t) })
		}
	}
	run(25)
	leaksNothing(t, 100, func() { run(100) })
}

// last returns the number of the newest event that waits.
func (o *outbox) last() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.first + uint64(len(o.queue)) - 1
}

// heapBytes is what is reachable. The events of before are acknowledged, as the
// daemon does.
func heapBytes() int64 {
	exits.forget()
	theDaemon.forget()
	theKernel.outbox.ack(theKernel.outbox.last())
	runtime.GC()
	runtime.GC() // Pools are emptied in two steps.
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// leaksNothing checks that nothing stays of some operations: no task, mount or
// file, and no memory for each of them. A mount, a namespace or a task takes
// kilobytes. What is left over from other tests may grow meanwhile: a leak grows
// the next time, too.
func leaksNothing(t *testing.T, operations int64, run func()) {
	t.Helper()
	var grown [2]int64
	for i := range grown {
		before, heap := consumed(t), heapBytes()
		run()
		backTo(t, before)
		for range 500 {
			if grown[i] = heapBytes() - heap; grown[i] <= 1024*operations+128<<10 {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	t.Errorf("the heap has grown by %d bytes in %d operations, and by %d in as many more", grown[0], operations, grown[1])
}

// TestFilesAreClosed checks that an agent's log is closed when it has ended.
func TestFilesAreClosed(t *testing.T) {
	s := spawn(t, []string{"true"}, detached)
	s.wait()
	eventually(t, func() bool {
		fds, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if target, _ := os.Readlink(fd); target == s.log {
				return false
			}
		}
		return true
	})
}
