package sentry

import (
	"context"

	"gvisor.dev/gvisor/pkg/state"
)

// What of this package gVisor's kernel can reach, and so is part of a checkpoint. No
// task runs while it is saved or loaded: no locks are taken. The kernel itself is
// not saved; what is loaded belongs to the one that restores.

// restoringKernel is the key of the *Kernel in the context of a restore.
const restoringKernel contextKey = 1

func restorer(ctx context.Context) *Kernel {
	s, _ := ctx.Value(restoringKernel).(*Kernel)
	return s
}

// StateTypeName implements state.Type.
func (*lazyProcType) StateTypeName() string { return "aios/sentry.lazyProcType" }

// StateFields implements state.Type.
func (*lazyProcType) StateFields() []string { return nil }

// StateSave implements state.SaverLoader.
func (*lazyProcType) StateSave(state.Sink) {}

// StateLoad implements state.SaverLoader.
func (t *lazyProcType) StateLoad(ctx context.Context, _ state.Source) { t.s = restorer(ctx) }

// StateTypeName implements state.Type.
func (*lazyProc) StateTypeName() string { return "aios/sentry.lazyProc" }

// StateFields implements state.Type.
func (*lazyProc) StateFields() []string { return []string{"Filesystem", "root"} }

// StateSave implements state.SaverLoader.
func (fs *lazyProc) StateSave(m state.Sink) {
	m.Save(0, &fs.Filesystem)
	m.Save(1, &fs.root)
}

// StateLoad implements state.SaverLoader.
func (fs *lazyProc) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &fs.Filesystem)
	m.Load(1, &fs.root)
}

// StateTypeName implements state.Type.
func (*lazyProcRoot) StateTypeName() string { return "aios/sentry.lazyProcRoot" }

// StateFields implements state.Type.
func (*lazyProcRoot) StateFields() []string {
	return []string{"InodeWatches", "vfs", "source", "data", "ctx", "fs", "root"}
}

// StateSave implements state.SaverLoader.
func (r *lazyProcRoot) StateSave(m state.Sink) {
	m.Save(0, &r.InodeWatches)
	m.Save(1, &r.vfsObj)
	m.Save(2, &r.source)
	m.Save(3, &r.opts.Data)
	m.Save(4, &r.ctx)
	m.Save(5, &r.fs)   // +checklocksignore
	m.Save(6, &r.root) // +checklocksignore
}

// StateLoad implements state.SaverLoader.
func (r *lazyProcRoot) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &r.InodeWatches)
	m.Load(1, &r.vfsObj)
	m.Load(2, &r.source)
	m.Load(3, &r.opts.Data)
	m.Load(4, &r.ctx)
	m.Load(5, &r.fs)   // +checklocksignore
	m.Load(6, &r.root) // +checklocksignore
	r.s, r.opts.InternalMount = restorer(ctx), true
}

// StateTypeName implements state.Type.
func (*procContext) StateTypeName() string { return "aios/sentry.procContext" }

// StateFields implements state.Type.
func (*procContext) StateFields() []string { return []string{"creds", "pidns", "stack"} }

// StateSave implements state.SaverLoader.
func (c *procContext) StateSave(m state.Sink) {
	m.Save(0, &c.creds)
	m.Save(1, &c.pidns)
	m.Save(2, &c.stack)
}

// StateLoad implements state.SaverLoader.
func (c *procContext) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &c.creds)
	m.Load(1, &c.pidns)
	m.Load(2, &c.stack)
	c.Context = restorer(ctx).k.SupervisorContext()
}

// StateTypeName implements state.Type.
func (*procTask) StateTypeName() string { return "aios/sentry.procTask" }

// StateFields implements state.Type.
func (*procTask) StateFields() []string { return []string{"Inode", "pidns", "id", "thread"} }

// StateSave implements state.SaverLoader.
func (p *procTask) StateSave(m state.Sink) {
	m.Save(0, &p.Inode)
	m.Save(1, &p.pidns)
	m.Save(2, &p.id)
	m.Save(3, &p.thread)
}

// StateLoad implements state.SaverLoader.
func (p *procTask) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &p.Inode)
	m.Load(1, &p.pidns)
	m.Load(2, &p.id)
	m.Load(3, &p.thread)
	p.s = restorer(ctx)
}

// StateTypeName implements state.Type.
func (*taskStat) StateTypeName() string { return "aios/sentry.taskStat" }

// StateFields implements state.Type.
func (*taskStat) StateFields() []string { return []string{"Inode", "pidns", "id", "whole"} }

// StateSave implements state.SaverLoader.
func (p *taskStat) StateSave(m state.Sink) {
	m.Save(0, &p.Inode)
	m.Save(1, &p.pidns)
	m.Save(2, &p.id)
	m.Save(3, &p.whole)
}

// StateLoad implements state.SaverLoader.
func (p *taskStat) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &p.Inode)
	m.Load(1, &p.pidns)
	m.Load(2, &p.id)
	m.Load(3, &p.whole)
	p.s = restorer(ctx)
}

// StateTypeName implements state.Type.
func (*taskStatFD) StateTypeName() string { return "aios/sentry.taskStatFD" }

// StateFields implements state.Type.
func (*taskStatFD) StateFields() []string { return []string{"DynamicBytesFD", "stat", "inner"} }

// StateSave implements state.SaverLoader.
func (f *taskStatFD) StateSave(m state.Sink) {
	m.Save(0, &f.DynamicBytesFD)
	m.Save(1, &f.stat)
	m.Save(2, &f.inner)
}

// StateLoad implements state.SaverLoader.
func (f *taskStatFD) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &f.DynamicBytesFD)
	m.Load(1, &f.stat)
	m.Load(2, &f.inner)
}

// StateTypeName implements state.Type.
func (*procMem) StateTypeName() string { return "aios/sentry.procMem" }

// StateFields implements state.Type.
func (*procMem) StateFields() []string { return []string{"Inode", "pidns", "id"} }

// StateSave implements state.SaverLoader.
func (p *procMem) StateSave(m state.Sink) {
	m.Save(0, &p.Inode)
	m.Save(1, &p.pidns)
	m.Save(2, &p.id)
}

// StateLoad implements state.SaverLoader.
func (p *procMem) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &p.Inode)
	m.Load(1, &p.pidns)
	m.Load(2, &p.id)
	p.s = restorer(ctx)
}

// StateTypeName implements state.Type.
func (*procMemFD) StateTypeName() string { return "aios/sentry.procMemFD" }

// StateFields implements state.Type.
func (*procMemFD) StateFields() []string {
	return []string{"vfsfd", "FileDescriptionDefaultImpl", "NoLockFD", "inner", "agent", "mm"}
}

// StateSave implements state.SaverLoader.
func (f *procMemFD) StateSave(m state.Sink) {
	m.Save(0, &f.vfsfd)
	m.Save(1, &f.FileDescriptionDefaultImpl)
	m.Save(2, &f.NoLockFD)
	m.Save(3, &f.inner)
	m.Save(4, &f.agent)
	m.Save(5, &f.mm)
}

// StateLoad implements state.SaverLoader.
func (f *procMemFD) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &f.vfsfd)
	m.Load(1, &f.FileDescriptionDefaultImpl)
	m.Load(2, &f.NoLockFD)
	m.Load(3, &f.inner)
	m.Load(4, &f.agent)
	m.Load(5, &f.mm)
	f.s = restorer(ctx)
}

// StateTypeName implements state.Type.
func (*procFDs) StateTypeName() string { return "aios/sentry.procFDs" }

// StateFields implements state.Type.
func (*procFDs) StateFields() []string { return []string{"Inode"} }

// StateSave implements state.SaverLoader.
func (p *procFDs) StateSave(m state.Sink) { m.Save(0, &p.Inode) }

// StateLoad implements state.SaverLoader.
func (p *procFDs) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &p.Inode)
	p.s = restorer(ctx)
}

// StateTypeName implements state.Type.
func (*procLink) StateTypeName() string { return "aios/sentry.procLink" }

// StateFields implements state.Type.
func (*procLink) StateFields() []string { return []string{"Inode"} }

// StateSave implements state.SaverLoader.
func (p *procLink) StateSave(m state.Sink) { m.Save(0, &p.Inode) }

// StateLoad implements state.SaverLoader.
func (p *procLink) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &p.Inode)
	p.s = restorer(ctx)
}

// StateTypeName implements state.Type.
func (*viewFSType) StateTypeName() string { return "aios/sentry.viewFSType" }

// StateFields implements state.Type.
func (*viewFSType) StateFields() []string { return []string{"name"} }

// StateSave implements state.SaverLoader.
func (t *viewFSType) StateSave(m state.Sink) { m.Save(0, &t.name) }

// StateLoad implements state.SaverLoader.
func (t *viewFSType) StateLoad(_ context.Context, m state.Source) { m.Load(0, &t.name) }

// StateTypeName implements state.Type.
func (*viewFS) StateTypeName() string { return "aios/sentry.viewFS" }

// StateFields implements state.Type.
func (*viewFS) StateFields() []string { return []string{"Filesystem"} }

// StateSave implements state.SaverLoader.
func (fs *viewFS) StateSave(m state.Sink) { m.Save(0, &fs.Filesystem) }

// StateLoad implements state.SaverLoader.
func (fs *viewFS) StateLoad(_ context.Context, m state.Source) { m.Load(0, &fs.Filesystem) }

// StateTypeName implements state.Type.
func (*sysViewRoot) StateTypeName() string { return "aios/sentry.sysViewRoot" }

// StateFields implements state.Type.
func (*sysViewRoot) StateFields() []string { return []string{"Inode", "over"} }

// StateSave implements state.SaverLoader.
func (r *sysViewRoot) StateSave(m state.Sink) {
	m.Save(0, &r.Inode)
	m.Save(1, &r.over)
}

// StateLoad implements state.SaverLoader.
func (r *sysViewRoot) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &r.Inode)
	m.Load(1, &r.over)
}

// StateTypeName implements state.Type.
func (*viewFile) StateTypeName() string { return "aios/sentry.viewFile" }

// StateFields implements state.Type.
func (*viewFile) StateFields() []string { return []string{"InodeAttrs", "magic", "of", "arg", "pidns"} }

// StateSave implements state.SaverLoader.
func (f *viewFile) StateSave(m state.Sink) {
	m.Save(0, &f.InodeAttrs)
	m.Save(1, &f.magic)
	m.Save(2, &f.text.of)
	m.Save(3, &f.text.arg)
	m.Save(4, &f.text.pidns)
}

// StateLoad implements state.SaverLoader.
func (f *viewFile) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &f.InodeAttrs)
	m.Load(1, &f.magic)
	m.Load(2, &f.text.of)
	m.Load(3, &f.text.arg)
	m.Load(4, &f.text.pidns)
	f.s = restorer(ctx)
}

// StateTypeName implements state.Type.
func (*pressureFD) StateTypeName() string { return "aios/sentry.pressureFD" }

// StateFields implements state.Type.
func (*pressureFD) StateFields() []string {
	return []string{"DynamicBytesFD", "file", "queue", "agent", "full", "threshold", "window"}
}

// StateSave implements state.SaverLoader.
//
// +checklocksignore: everything stands still.
func (f *pressureFD) StateSave(m state.Sink) {
	m.Save(0, &f.DynamicBytesFD)
	m.Save(1, &f.file)
	m.Save(2, &f.queue)
	m.Save(3, &f.agent)
	m.Save(4, &f.spec.full)
	m.Save(5, &f.spec.threshold)
	m.Save(6, &f.spec.window)
}

// StateLoad implements state.SaverLoader. The trigger is set when there is the agent.
//
// +checklocksignore: nobody else has it.
func (f *pressureFD) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &f.DynamicBytesFD)
	m.Load(1, &f.file)
	m.Load(2, &f.queue)
	m.Load(3, &f.agent)
	m.Load(4, &f.spec.full)
	m.Load(5, &f.spec.threshold)
	m.Load(6, &f.spec.window)
	if s := restorer(ctx); s != nil {
		s.pressure.restored = append(s.pressure.restored, f)
	}
}

// StateTypeName implements state.Type.
func (*viewDir) StateTypeName() string { return "aios/sentry.viewDir" }

// StateFields implements state.Type.
func (*viewDir) StateFields() []string { return []string{"InodeAttrs", "OrderedChildren", "magic"} }

// StateSave implements state.SaverLoader.
func (d *viewDir) StateSave(m state.Sink) {
	m.Save(0, &d.InodeAttrs)
	m.Save(1, &d.OrderedChildren)
	m.Save(2, &d.magic)
}

// StateLoad implements state.SaverLoader.
func (d *viewDir) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &d.InodeAttrs)
	m.Load(1, &d.OrderedChildren)
	m.Load(2, &d.magic)
}

// StateTypeName implements state.Type.
func (*cpuDir) StateTypeName() string { return "aios/sentry.cpuDir" }

// StateFields implements state.Type.
func (*cpuDir) StateFields() []string { return []string{"viewDir", "each"} }

// StateSave implements state.SaverLoader.
func (d *cpuDir) StateSave(m state.Sink) {
	m.Save(0, &d.viewDir)
	m.Save(1, &d.each)
}

// StateLoad implements state.SaverLoader.
func (d *cpuDir) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &d.viewDir)
	m.Load(1, &d.each)
	d.s = restorer(ctx)
}

// StateTypeName implements state.Type.
func (*oneCPUDir) StateTypeName() string { return "aios/sentry.oneCPUDir" }

// StateFields implements state.Type.
func (*oneCPUDir) StateFields() []string { return []string{"viewDir", "n"} }

// StateSave implements state.SaverLoader.
func (d *oneCPUDir) StateSave(m state.Sink) {
	m.Save(0, &d.viewDir)
	m.Save(1, &d.n)
}

// StateLoad implements state.SaverLoader.
func (d *oneCPUDir) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &d.viewDir)
	m.Load(1, &d.n)
	d.s = restorer(ctx)
}

// StateTypeName implements state.Type.
func (*ending) StateTypeName() string { return "aios/sentry.ending" }

// StateFields implements state.Type.
func (*ending) StateFields() []string {
	return []string{"told", "agent", "protocol", "local", "remote", "since"}
}

// StateSave implements state.SaverLoader.
func (e *ending) StateSave(m state.Sink) {
	m.SaveValue(0, e.told.Load())
	m.Save(1, &e.agent)
	m.Save(2, &e.what.Protocol)
	m.Save(3, &e.what.Local)
	m.Save(4, &e.what.Remote)
	m.Save(5, &e.since)
}

// StateLoad implements state.SaverLoader.
func (e *ending) StateLoad(ctx context.Context, m state.Source) {
	m.LoadValue(0, new(bool), func(v any) { e.told.Store(v.(bool)) })
	m.Load(1, &e.agent)
	m.Load(2, &e.what.Protocol)
	m.Load(3, &e.what.Local)
	m.Load(4, &e.what.Remote)
	m.Load(5, &e.since)
	e.s = restorer(ctx)
}

func init() {
	for _, t := range []state.Type{
		(*lazyProcType)(nil), (*lazyProc)(nil), (*lazyProcRoot)(nil), (*procContext)(nil), (*procTask)(nil), (*taskStat)(nil), (*taskStatFD)(nil), (*procMem)(nil), (*procMemFD)(nil),
		(*procFDs)(nil), (*procLink)(nil), (*viewFSType)(nil), (*viewFS)(nil), (*sysViewRoot)(nil), (*viewFile)(nil), (*pressureFD)(nil), (*viewDir)(nil),
		(*cpuDir)(nil), (*oneCPUDir)(nil), (*ending)(nil), (*savedDomain)(nil), (*savedAgent)(nil), (*savedProcess)(nil),
	} {
		state.Register(t)
	}
}
