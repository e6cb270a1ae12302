package ctlfs

import (
	"context"
	"strings"

	"gvisor.dev/gvisor/pkg/state"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/sentry/ctlfs/command"
)

// What of this package is part of a checkpoint. An entry of the tree is saved as its
// path, and whoever answers is the kernel that restores.

type contextKey int

const (
	// RestoredAuthority is the key of the Authority in the context of a restore.
	RestoredAuthority contextKey = iota
	// RestoredListeners is that of a *Listeners.
	RestoredListeners
)

func restoredAuthority(ctx context.Context) Authority {
	a, _ := ctx.Value(RestoredAuthority).(Authority)
	return a
}

// entryOf returns the entry of a path.
func entryOf(path string) *entry {
	if name, ok := strings.CutPrefix(path, regionsPath); ok {
		return regionEntry(name)
	}
	e := rootDir
	rest := strings.Trim(strings.TrimPrefix(path, Mountpoint), "/")
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		var found *entry
		for _, c := range e.children {
			if c.name == name {
				found = c
			}
		}
		if found == nil {
			state.Failf("there is no file %s", path)
		}
		e = found
	}
	return e
}

// StateTypeName implements state.Type.
func (*FilesystemType) StateTypeName() string { return "aios/ctlfs.FilesystemType" }

// StateFields implements state.Type.
func (*FilesystemType) StateFields() []string { return nil }

// StateSave implements state.SaverLoader.
func (*FilesystemType) StateSave(state.Sink) {}

// StateLoad implements state.SaverLoader.
func (t *FilesystemType) StateLoad(ctx context.Context, _ state.Source) {
	t.Authority = restoredAuthority(ctx)
}

// StateTypeName implements state.Type.
func (*device) StateTypeName() string { return "aios/ctlfs.device" }

// StateFields implements state.Type.
func (*device) StateFields() []string { return nil }

// StateSave implements state.SaverLoader.
func (*device) StateSave(state.Sink) {}

// StateLoad implements state.SaverLoader.
func (d *device) StateLoad(ctx context.Context, _ state.Source) { d.auth = restoredAuthority(ctx) }

// StateTypeName implements state.Type.
func (*filesystem) StateTypeName() string { return "aios/ctlfs.filesystem" }

// StateFields implements state.Type.
func (*filesystem) StateFields() []string { return []string{"Filesystem", "devMinor"} }

// StateSave implements state.SaverLoader.
func (fs *filesystem) StateSave(m state.Sink) {
	m.Save(0, &fs.Filesystem)
	m.Save(1, &fs.devMinor)
}

// StateLoad implements state.SaverLoader.
func (fs *filesystem) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &fs.Filesystem)
	m.Load(1, &fs.devMinor)
	fs.auth = restoredAuthority(ctx)
}

// StateTypeName implements state.Type.
func (*directory) StateTypeName() string { return "aios/ctlfs.directory" }

// StateFields implements state.Type.
func (*directory) StateFields() []string {
	return []string{"path", "InodeAttrs", "InodeWatches", "OrderedChildren", "fs", "locks"}
}

// StateSave implements state.SaverLoader.
func (d *directory) StateSave(m state.Sink) {
	m.SaveValue(0, d.entry.path)
	m.Save(1, &d.InodeAttrs)
	m.Save(2, &d.InodeWatches)
	m.Save(3, &d.OrderedChildren)
	m.Save(4, &d.fs)
	m.Save(5, &d.locks)
}

// StateLoad implements state.SaverLoader.
func (d *directory) StateLoad(_ context.Context, m state.Source) {
	m.LoadValue(0, new(string), func(v any) { d.entry = entryOf(v.(string)) })
	m.Load(1, &d.InodeAttrs)
	m.Load(2, &d.InodeWatches)
	m.Load(3, &d.OrderedChildren)
	m.Load(4, &d.fs)
	m.Load(5, &d.locks)
}

// StateTypeName implements state.Type.
func (*regionsDir) StateTypeName() string { return "aios/ctlfs.regionsDir" }

// StateFields implements state.Type.
func (*regionsDir) StateFields() []string { return []string{"directory"} }

// StateSave implements state.SaverLoader.
func (d *regionsDir) StateSave(m state.Sink) { m.Save(0, &d.directory) }

// StateLoad implements state.SaverLoader.
func (d *regionsDir) StateLoad(_ context.Context, m state.Source) { m.Load(0, &d.directory) }

// StateTypeName implements state.Type.
func (*regionFile) StateTypeName() string { return "aios/ctlfs.regionFile" }

// StateFields implements state.Type.
func (*regionFile) StateFields() []string { return []string{"inode", "region"} }

// StateSave implements state.SaverLoader.
func (f *regionFile) StateSave(m state.Sink) {
	m.Save(0, &f.inode)
	m.Save(1, &f.region)
}

// StateLoad implements state.SaverLoader.
func (f *regionFile) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &f.inode)
	m.Load(1, &f.region)
}

// StateTypeName implements state.Type.
func (*regionFD) StateTypeName() string { return "aios/ctlfs.regionFD" }

// StateFields implements state.Type.
func (*regionFD) StateFields() []string { return []string{"openFile", "view", "off"} }

// StateSave implements state.SaverLoader.
func (f *regionFD) StateSave(m state.Sink) {
	m.Save(0, &f.openFile)
	m.Save(1, &f.view)
	m.Save(2, &f.off) // +checklocksignore
}

// StateLoad implements state.SaverLoader.
func (f *regionFD) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &f.openFile)
	m.Load(1, &f.view)
	m.Load(2, &f.off) // +checklocksignore
}

// StateTypeName implements state.Type.
func (*inode) StateTypeName() string { return "aios/ctlfs.inode" }

// StateFields implements state.Type.
func (*inode) StateFields() []string {
	return []string{"path", "InodeAttrs", "InodeWatches", "fs", "locks"}
}

// StateSave implements state.SaverLoader.
func (i *inode) StateSave(m state.Sink) {
	m.SaveValue(0, i.entry.path)
	m.Save(1, &i.InodeAttrs)
	m.Save(2, &i.InodeWatches)
	m.Save(3, &i.fs)
	m.Save(4, &i.locks)
}

// StateLoad implements state.SaverLoader.
func (i *inode) StateLoad(_ context.Context, m state.Source) {
	m.LoadValue(0, new(string), func(v any) { i.entry = entryOf(v.(string)) })
	m.Load(1, &i.InodeAttrs)
	m.Load(2, &i.InodeWatches)
	m.Load(3, &i.fs)
	m.Load(4, &i.locks)
}

// StateTypeName implements state.Type.
func (*file) StateTypeName() string { return "aios/ctlfs.file" }

// StateFields implements state.Type.
func (*file) StateFields() []string { return []string{"inode"} }

// StateSave implements state.SaverLoader.
func (f *file) StateSave(m state.Sink) { m.Save(0, &f.inode) }

// StateLoad implements state.SaverLoader.
func (f *file) StateLoad(_ context.Context, m state.Source) { m.Load(0, &f.inode) }

// StateTypeName implements state.Type.
func (*commandFile) StateTypeName() string { return "aios/ctlfs.commandFile" }

// StateFields implements state.Type.
func (*commandFile) StateFields() []string { return []string{"inode"} }

// StateSave implements state.SaverLoader.
func (f *commandFile) StateSave(m state.Sink) { m.Save(0, &f.inode) }

// StateLoad implements state.SaverLoader.
func (f *commandFile) StateLoad(_ context.Context, m state.Source) { m.Load(0, &f.inode) }

// StateTypeName implements state.Type.
func (*eventsInode) StateTypeName() string { return "aios/ctlfs.eventsInode" }

// StateFields implements state.Type.
func (*eventsInode) StateFields() []string { return []string{"inode"} }

// StateSave implements state.SaverLoader.
func (i *eventsInode) StateSave(m state.Sink) { m.Save(0, &i.inode) }

// StateLoad implements state.SaverLoader.
func (i *eventsInode) StateLoad(_ context.Context, m state.Source) { m.Load(0, &i.inode) }

// Listeners are the open files of events that were restored. They hear nothing until
// there is somebody to ask what they may hear.
type Listeners struct{ files []*eventsFile }

// Listen has them hear again what they had asked for. What waited for them is gone.
// A file that may not hear it any more says so when it is used.
func (l *Listeners) Listen() {
	for _, f := range l.files {
		f.listenAgain()
	}
}

func (f *eventsFile) listenAgain() {
	f.mu.Lock()
	want, err := command.ParseWatch(f.wish)
	f.mu.Unlock()
	var w Watch
	if err == nil {
		w, err = f.session.auth.Watch(f.session.agent, want, f.ready)
	}
	if err != nil {
		w = deaf{err}
	}
	f.mu.Lock()
	f.lines.w, f.lines.want = w, want
	f.mu.Unlock()
	f.ready()
}

// deaf is in place of what a file listens through: before it does so again, or when it
// may not.
type deaf struct{ err error }

// Change implements Watch.
func (d deaf) Change(*command.Watch) error { return d.err }

// Read implements Watch.
func (d deaf) Read([]event.Event) (int, error) { return 0, d.err }

// Missed implements Watch.
func (deaf) Missed() (uint64, bool) { return 0, false }

// Gap implements Watch.
func (deaf) Gap(string, uint64) event.Event { return event.Event{} }

// Name implements Watch.
func (deaf) Name(string) string { return "" }

// Err implements Watch.
func (d deaf) Err() error { return d.err }

// Close implements Watch.
func (deaf) Close() {}

// StateTypeName implements state.Type.
func (*eventsFile) StateTypeName() string { return "aios/ctlfs.eventsFile" }

// StateFields implements state.Type.
func (*eventsFile) StateFields() []string { return []string{"openFile", "queue", "wish"} }

// StateSave implements state.SaverLoader.
func (f *eventsFile) StateSave(m state.Sink) {
	m.Save(0, &f.openFile)
	m.Save(1, &f.queue)
	m.Save(2, &f.wish) // +checklocksignore
}

// StateLoad implements state.SaverLoader.
func (f *eventsFile) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &f.openFile)
	m.Load(1, &f.queue)
	m.Load(2, &f.wish) // +checklocksignore
	f.lines.w = deaf{} // +checklocksignore
	if l, ok := ctx.Value(RestoredListeners).(*Listeners); ok {
		l.files = append(l.files, f)
	}
}

// StateTypeName implements state.Type.
func (*orderFile) StateTypeName() string { return "aios/ctlfs.orderFile" }

// StateFields implements state.Type.
func (*orderFile) StateFields() []string { return []string{"path", "inode"} }

// StateSave implements state.SaverLoader.
func (f *orderFile) StateSave(m state.Sink) {
	m.SaveValue(0, f.entry.path)
	m.Save(1, &f.inode)
}

// StateLoad implements state.SaverLoader.
func (f *orderFile) StateLoad(_ context.Context, m state.Source) {
	m.LoadValue(0, new(string), func(v any) {
		e := entryOf(v.(string))
		f.name, f.carryOut = e.name, e.order
	})
	m.Load(1, &f.inode)
}

// StateTypeName implements state.Type.
func (*session) StateTypeName() string { return "aios/ctlfs.session" }

// StateFields implements state.Type.
func (*session) StateFields() []string { return []string{"agent", "door"} }

// StateSave implements state.SaverLoader.
func (s *session) StateSave(m state.Sink) {
	m.Save(0, &s.agent)
	m.Save(1, &s.door)
}

// StateLoad implements state.SaverLoader.
func (s *session) StateLoad(ctx context.Context, m state.Source) {
	m.Load(0, &s.agent)
	m.Load(1, &s.door)
	s.auth = restoredAuthority(ctx)
}

// StateTypeName implements state.Type.
func (*openFile) StateTypeName() string { return "aios/ctlfs.openFile" }

// StateFields implements state.Type.
func (*openFile) StateFields() []string {
	return []string{"FileDescriptionDefaultImpl", "LockFD", "vfsfd", "inode", "session"}
}

// StateSave implements state.SaverLoader.
func (f *openFile) StateSave(m state.Sink) {
	m.Save(0, &f.FileDescriptionDefaultImpl)
	m.Save(1, &f.LockFD)
	m.Save(2, &f.vfsfd)
	m.Save(3, &f.inode)
	m.Save(4, &f.session)
}

// StateLoad implements state.SaverLoader.
func (f *openFile) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &f.FileDescriptionDefaultImpl)
	m.Load(1, &f.LockFD)
	m.Load(2, &f.vfsfd)
	m.Load(3, &f.inode)
	m.Load(4, &f.session)
}

// StateTypeName implements state.Type.
func (*readFile) StateTypeName() string { return "aios/ctlfs.readFile" }

// StateFields implements state.Type.
func (*readFile) StateFields() []string { return []string{"openFile", "text"} }

// StateSave implements state.SaverLoader.
func (f *readFile) StateSave(m state.Sink) {
	m.Save(0, &f.openFile)
	m.Save(1, &f.text)
}

// StateLoad implements state.SaverLoader.
func (f *readFile) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &f.openFile)
	m.Load(1, &f.text)
}

// StateTypeName implements state.Type.
func (*orderFD) StateTypeName() string { return "aios/ctlfs.orderFD" }

// StateFields implements state.Type.
func (*orderFD) StateFields() []string { return []string{"readFile", "file"} }

// StateSave implements state.SaverLoader.
func (f *orderFD) StateSave(m state.Sink) {
	m.Save(0, &f.readFile)
	m.Save(1, &f.file)
}

// StateLoad implements state.SaverLoader.
func (f *orderFD) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &f.readFile)
	m.Load(1, &f.file)
}

// StateTypeName implements state.Type.
func (*ctlFile) StateTypeName() string { return "aios/ctlfs.ctlFile" }

// StateFields implements state.Type.
func (*ctlFile) StateFields() []string { return []string{"openFile", "answer"} }

// StateSave implements state.SaverLoader. No task runs.
func (f *ctlFile) StateSave(m state.Sink) {
	m.Save(0, &f.openFile)
	m.Save(1, &f.answer) // +checklocksignore
}

// StateLoad implements state.SaverLoader.
func (f *ctlFile) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &f.openFile)
	m.Load(1, &f.answer) // +checklocksignore
}

// StateTypeName implements state.Type.
func (*deviceFile) StateTypeName() string { return "aios/ctlfs.deviceFile" }

// StateFields implements state.Type.
func (*deviceFile) StateFields() []string {
	return []string{"FileDescriptionDefaultImpl", "DentryMetadataFileDescriptionImpl", "NoLockFD", "vfsfd", "session", "last"}
}

// StateSave implements state.SaverLoader. Of the last error its text is kept.
func (f *deviceFile) StateSave(m state.Sink) {
	last := ""
	if err := f.last; err != nil { // +checklocksignore
		last = err.Error()
	}
	m.SaveValue(5, last)
	m.Save(0, &f.FileDescriptionDefaultImpl)
	m.Save(1, &f.DentryMetadataFileDescriptionImpl)
	m.Save(2, &f.NoLockFD)
	m.Save(3, &f.vfsfd)
	m.Save(4, &f.session)
}

// StateLoad implements state.SaverLoader.
func (f *deviceFile) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &f.FileDescriptionDefaultImpl)
	m.Load(1, &f.DentryMetadataFileDescriptionImpl)
	m.Load(2, &f.NoLockFD)
	m.Load(3, &f.vfsfd)
	m.Load(4, &f.session)
	m.LoadValue(5, new(string), func(v any) {
		if last := v.(string); last != "" {
			f.last = errdefs.New(errdefs.Internal, last) // +checklocksignore
		}
	})
}

// StateTypeName implements state.Type.
func (*templateFile) StateTypeName() string { return "aios/ctlfs.templateFile" }

// StateFields implements state.Type.
func (*templateFile) StateFields() []string { return []string{"inode"} }

// StateSave implements state.SaverLoader.
func (f *templateFile) StateSave(m state.Sink) { m.Save(0, &f.inode) }

// StateLoad implements state.SaverLoader.
func (f *templateFile) StateLoad(_ context.Context, m state.Source) { m.Load(0, &f.inode) }

// StateTypeName implements state.Type.
func (*templateFD) StateTypeName() string { return "aios/ctlfs.templateFD" }

// StateFields implements state.Type.
func (*templateFD) StateFields() []string { return []string{"readFile"} }

// StateSave implements state.SaverLoader.
func (f *templateFD) StateSave(m state.Sink) { m.Save(0, &f.readFile) }

// StateLoad implements state.SaverLoader.
func (f *templateFD) StateLoad(_ context.Context, m state.Source) { m.Load(0, &f.readFile) }

// StateTypeName implements state.Type.
func (*clonesFile) StateTypeName() string { return "aios/ctlfs.clonesFile" }

// StateFields implements state.Type.
func (*clonesFile) StateFields() []string { return []string{"inode"} }

// StateSave implements state.SaverLoader.
func (f *clonesFile) StateSave(m state.Sink) { m.Save(0, &f.inode) }

// StateLoad implements state.SaverLoader.
func (f *clonesFile) StateLoad(_ context.Context, m state.Source) { m.Load(0, &f.inode) }

// StateTypeName implements state.Type.
func (*clonesFD) StateTypeName() string { return "aios/ctlfs.clonesFD" }

// StateFields implements state.Type.
func (*clonesFD) StateFields() []string { return []string{"openFile", "begun", "rest"} }

// StateSave implements state.SaverLoader. No task runs.
func (f *clonesFD) StateSave(m state.Sink) {
	m.Save(0, &f.openFile)
	m.Save(1, &f.begun) // +checklocksignore
	m.Save(2, &f.rest)  // +checklocksignore
}

// StateLoad implements state.SaverLoader.
func (f *clonesFD) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &f.openFile)
	m.Load(1, &f.begun) // +checklocksignore
	m.Load(2, &f.rest)  // +checklocksignore
}

func init() {
	for _, t := range []state.Type{
		(*FilesystemType)(nil), (*device)(nil), (*filesystem)(nil), (*directory)(nil), (*regionsDir)(nil), (*inode)(nil), (*file)(nil),
		(*commandFile)(nil), (*eventsInode)(nil), (*eventsFile)(nil), (*orderFile)(nil), (*session)(nil), (*openFile)(nil), (*readFile)(nil), (*orderFD)(nil),
		(*ctlFile)(nil), (*deviceFile)(nil), (*templateFile)(nil), (*templateFD)(nil), (*clonesFile)(nil), (*clonesFD)(nil), (*regionFile)(nil), (*regionFD)(nil),
	} {
		state.Register(t)
	}
}
