package sentry

import (
	"aios.dev/aios/control"
	"aios.dev/aios/sentry/smp"
)

// CPUs returns which CPUs of the host the kernel has.
func (s *Kernel) CPUs(struct{}) (control.CPUsReply, error) {
	top := s.cfg.Topology
	allowed, err := smp.Allowed()
	return control.CPUsReply{CPUs: top.ToHost(smp.First(top.Len())), Allowed: allowed}, err
}
