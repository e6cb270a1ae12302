package sentry

import (
	"context"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/state"

	"aios.dev/aios/fabric"
	"aios.dev/aios/netstack"
)

// savedDomain is what of gVisor's objects this package holds, as part of a
// checkpoint; record is the rest, as JSON.
type savedDomain struct {
	record     []byte
	stacks     *netstack.Creator
	mounts     map[string]*vfs.Mount
	pause      *kernel.Task
	cgroup     *vfs.Filesystem
	cgroupRoot *vfs.Dentry
	sysfs      *vfs.Filesystem
	sysRoot    *vfs.Dentry
	empty      *vfs.Filesystem
	emptyRoot  *vfs.Dentry
	outside    []*vfs.Filesystem
	agents     []*savedAgent
	fabric     *fabric.Saved
}

// StateTypeName implements state.Type.
func (*savedDomain) StateTypeName() string { return "aios/sentry.savedDomain" }

// StateFields implements state.Type.
func (*savedDomain) StateFields() []string {
	return []string{"record", "stacks", "mounts", "pause", "cgroup", "cgroupRoot", "sysfs", "sysRoot", "empty", "emptyRoot", "outside", "agents", "fabric"}
}

// fields are what StateFields names.
func (d *savedDomain) fields() []any {
	return []any{&d.record, &d.stacks, &d.mounts, &d.pause, &d.cgroup, &d.cgroupRoot, &d.sysfs, &d.sysRoot, &d.empty, &d.emptyRoot, &d.outside, &d.agents, &d.fabric}
}

// StateSave implements state.SaverLoader.
func (d *savedDomain) StateSave(m state.Sink) { saveAll(m, d.fields()) }

// StateLoad implements state.SaverLoader.
func (d *savedDomain) StateLoad(_ context.Context, m state.Source) { loadAll(m, d.fields()) }

func saveAll(m state.Sink, fields []any) {
	for i, f := range fields {
		m.Save(i, f)
	}
}

func loadAll(m state.Source, fields []any) {
	for i, f := range fields {
		m.Load(i, f)
	}
}

// savedAgent is the same of an agent.
type savedAgent struct {
	pid      *kernel.PIDNamespace
	uts      *kernel.UTSNamespace
	ipc      *kernel.IPCNamespace
	net      *inet.Namespace
	mnt      *vfs.MountNamespace
	upper    *vfs.Mount
	procs    []*savedProcess
	kids     []*kernel.ThreadGroup
	clearTID map[*kernel.Task]hostarch.Addr
	grants   []*savedGrant
	notes    *savedNotes
}

// StateTypeName implements state.Type.
func (*savedAgent) StateTypeName() string { return "aios/sentry.savedAgent" }

// StateFields implements state.Type.
func (*savedAgent) StateFields() []string {
	return []string{"pid", "uts", "ipc", "net", "mnt", "upper", "procs", "kids", "clearTID", "grants", "notes"}
}

// fields are what StateFields names.
func (a *savedAgent) fields() []any {
	return []any{&a.pid, &a.uts, &a.ipc, &a.net, &a.mnt, &a.upper, &a.procs, &a.kids, &a.clearTID, &a.grants, &a.notes}
}

// StateSave implements state.SaverLoader.
func (a *savedAgent) StateSave(m state.Sink) { saveAll(m, a.fields()) }

// StateLoad implements state.SaverLoader.
func (a *savedAgent) StateLoad(_ context.Context, m state.Source) { loadAll(m, a.fields()) }

// savedProcess is a process that was started from outside, and the kernel's ends of
// its standard files.
type savedProcess struct {
	id     int32
	tg     *kernel.ThreadGroup
	tty    bool
	in     *vfs.FileDescription
	outs   []*vfs.FileDescription
	kinds  []uint8
	closed []bool
}

// StateTypeName implements state.Type.
func (*savedProcess) StateTypeName() string { return "aios/sentry.savedProcess" }

// StateFields implements state.Type.
func (*savedProcess) StateFields() []string {
	return []string{"id", "tg", "tty", "in", "outs", "kinds", "closed"}
}

// fields are what StateFields names.
func (p *savedProcess) fields() []any {
	return []any{&p.id, &p.tg, &p.tty, &p.in, &p.outs, &p.kinds, &p.closed}
}

// StateSave implements state.SaverLoader.
func (p *savedProcess) StateSave(m state.Sink) { saveAll(m, p.fields()) }

// StateLoad implements state.SaverLoader.
func (p *savedProcess) StateLoad(_ context.Context, m state.Source) { loadAll(m, p.fields()) }
