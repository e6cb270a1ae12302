package control

import "aios.dev/aios/sentry/smp"

// MethodCPUs asks for the CPUs of a kernel process: no request, CPUsReply.
const MethodCPUs = "cpus"

// CPUsReply is which CPUs of the host a domain has. Its own number n is the one in
// place n of CPUs.
type CPUsReply struct {
	CPUs smp.Set `json:"cpus"`
	// Allowed is what the host allows the process now.
	Allowed smp.Set `json:"allowed"`
}
