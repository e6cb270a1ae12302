package control

import (
	"encoding/json"
	"io"
	"os"
	"strconv"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/smp"
)

// Descriptors that a kernel process is started with.
const (
	KernelConfigFD = 3 // a pipe: KernelConfig as JSON
	KernelListenFD = 4 // the listening socket
	KernelStatusFD = 5 // a pipe: BootStatus as JSON, once
	KernelExtraFD  = 6 // the platform's device and the root directory, when the config says so
)

// Descriptors that a gofer is started with.
const (
	GoferDirFD    = 3 // the directory to serve
	GoferSocketFD = 4 // the connection to serve it on
)

// BootHeap is how much a kernel process that boots, or saves itself, may put on its
// heap before garbage is collected.
const BootHeap = 256 << 20

// BootEnv is what a kernel process has in its environment so that none is until then.
func BootEnv() []string { return []string{"GOGC=off", "GOMEMLIMIT=" + strconv.Itoa(BootHeap)} }

// KernelConfig tells a new kernel process what it is.
type KernelConfig struct {
	Domain   string `json:"domain"`
	Platform string `json:"platform"`
	DeviceFD int    `json:"device_fd,omitempty"` // 0: the platform has none
	RootFD   int    `json:"root_fd,omitempty"`   // 0: the process makes its own empty root
	// CPUs is what the domain has of the host, as it was when the domain started.
	CPUs        smp.Topology `json:"cpus"`
	MemoryBytes uint64       `json:"memory_bytes,omitempty"`
	// Alone says that the process has a host cgroup of the CPU controller to itself.
	Alone bool `json:"alone,omitempty"`
	// UsageFD tells what CPU time its host cgroup has used; 0: nothing does.
	UsageFD int `json:"usage_fd,omitempty"`
	// IdleFD takes threads that shall have the CPU time that the others of the host
	// cgroup leave; 0: nothing does.
	IdleFD int `json:"idle_fd,omitempty"`
	// Clock is how AIOS's clock differs from the host's.
	Clock Steer `json:"clock,omitzero"`
	// RingFD is the ring of the process' log; 0: it has none. LogLevels are as
	// klog.ParseSettings reads them; LogJSON is the form of what it writes besides.
	RingFD    int    `json:"ring_fd,omitempty"`
	LogLevels string `json:"log_levels,omitempty"`
	LogJSON   bool   `json:"log_json,omitempty"`
	Strict    bool   `json:"strict,omitempty"`
	// ImagesOnly is a domain that no directory of the host will ever be mounted
	// in; its seccomp program is the narrower for it.
	ImagesOnly bool `json:"images_only,omitempty"`
	// SpareFD has it prepare what every domain needs alike, and wait on this socket
	// for what it is to become; 0: it knows.
	SpareFD int `json:"spare_fd,omitempty"`
	// Restore, unless nil, has it go on with what another process saved.
	Restore *RestoreConfig `json:"restore,omitempty"`
	// Boxes are the confinements that the daemon tried before the process
	// started.
	Boxes []Box `json:"boxes,omitempty"`
}

// BootStatus is what a kernel process says when it has booted, or failed to.
type BootStatus struct {
	Boxes []Box      `json:"boxes,omitempty"`
	Err   *wireError `json:"error,omitempty"`
}

// NewBootStatus describes the outcome of a boot.
func NewBootStatus(boxes []Box, err error) BootStatus {
	return BootStatus{Boxes: boxes, Err: toWire(err)}
}

// ReadBootStatus waits for a kernel process to say how its boot went. A
// process that died without a word is an error.
func ReadBootStatus(r io.Reader) ([]Box, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxMessage))
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.DomainBoot, "wait for the kernel process")
	}
	var st BootStatus
	if len(raw) == 0 || json.Unmarshal(raw, &st) != nil {
		return nil, errdefs.New(errdefs.DomainBoot, "the kernel process died while it booted")
	}
	if st.Err != nil {
		return st.Boxes, st.Err.error()
	}
	return st.Boxes, nil
}

// WriteJSON writes v to f and closes it.
func WriteJSON(f *os.File, v any) error {
	err := json.NewEncoder(f).Encode(v)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return errdefs.Wrap(err, errdefs.HostIO, "write configuration")
}
