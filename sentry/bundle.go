package sentry

import (
	"os"
	"runtime"
	"runtime/debug"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/kdb"
)

// maxStacks bounds the stacks of goroutines in a bundle, in bytes.
const maxStacks = 32 << 20

// gvisorModule is what gVisor is imported as.
const gvisorModule = "gvisor.dev/gvisor"

// Bundle writes what the kernel knows of itself to a stream. It owns files.
func (s *Kernel) Bundle(_ struct{}, files []*os.File) (struct{}, error) {
	none := struct{}{}
	_, stream, err := spawnFiles(files, 0, true)
	if err != nil {
		return none, err
	}
	defer stream.Close()
	agents, err := s.List(none)
	if err != nil {
		return none, err
	}
	stacks, whole := stacksUpTo(maxStacks)
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	m := control.KernelManifest{
		Domain: s.cfg.Domain, Platform: s.cfg.Driver.Name(), CPUs: s.cfg.CPUs, MemoryBytes: s.cfg.MemoryBytes, ImagesOnly: s.cfg.ImagesOnly,
		Version: abi.Version, Go: runtime.Version(),
		Agents: len(agents.Agents), Goroutines: runtime.NumGoroutine(), HeapBytes: memory.HeapAlloc, Cut: !whole,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		m.Module = info.Main.Path + " " + info.Main.Version
		for _, dep := range info.Deps {
			if dep.Path == gvisorModule {
				m.GVisor = dep.Version
			}
		}
	}
	archive := kdb.NewArchive(stream, s.cfg.Clock.Now())
	if err := archive.JSON("kernel.json", m); err != nil {
		return none, err
	}
	if err := archive.JSON("agents.json", agents.Agents); err != nil {
		return none, err
	}
	if err := archive.Bytes("goroutines.txt", stacks); err != nil {
		return none, errdefs.Wrap(err, errdefs.HostIO, "write stacks")
	}
	return none, archive.Close()
}

// stacksUpTo returns the stacks of all goroutines, about most bytes of them, and
// whether that is all.
func stacksUpTo(most int) ([]byte, bool) {
	for size := 1 << 20; ; size *= 2 {
		buf := make([]byte, size)
		n := runtime.Stack(buf, true)
		if n < size || size >= most {
			return buf[:n], n < size
		}
	}
}
