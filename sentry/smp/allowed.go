package smp

import (
	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// Allowed returns the CPUs that the host lets the calling thread use: what its
// cpuset and its affinity have left of those that are online.
func Allowed() (s Set, err error) {
	var mask unix.CPUSet
	if err := unix.SchedGetaffinity(0, &mask); err != nil {
		return s, errdefs.Wrap(err, errdefs.HostFeature, "ask which CPUs may be used")
	}
	for cpu := range MaxCPUs {
		if mask.IsSet(cpu) {
			s.Add(cpu)
		}
	}
	return s, nil
}
