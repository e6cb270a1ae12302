package sentry

import (
	"fmt"
	"os"

	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/devices/memdev"
	"gvisor.dev/gvisor/pkg/sentry/devices/ttydev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/dev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/erofs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/gofer"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/mqfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/sys"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/syscalls/linux"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	// Socket families an agent may use; each registers itself.
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/route"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/uevent"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/unix"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/ctlfs"
)

// goferDentries is how many unused directory entries of host directories the
// kernel keeps. All agents of a domain share them, and a program's start looks
// up several hundred.
const goferDentries = 8192

// devKey is the kernel's own file system of devices; the daemon's keys have
// other forms.
const devKey = "aios:dev"

func (s *Kernel) registerFilesystems() error {
	v := s.k.VFS()
	mountable := &vfs.RegisterFilesystemTypeOptions{AllowUserMount: true, AllowUserList: true}
	listed := &vfs.RegisterFilesystemTypeOptions{AllowUserList: true}
	v.MustRegisterFilesystemType(ctlfs.Name, ctlfs.FilesystemType{Authority: ctlAuthority{s}}, listed)
	v.MustRegisterFilesystemType(devpts.Name, &devpts.FilesystemType{}, mountable)
	v.MustRegisterFilesystemType(dev.Name, &dev.FilesystemType{}, &vfs.RegisterFilesystemTypeOptions{})
	v.MustRegisterFilesystemType(erofs.Name, &erofs.FilesystemType{}, listed)
	v.MustRegisterFilesystemType(gofer.Name, &gofer.FilesystemType{}, listed)
	v.MustRegisterFilesystemType(mqfs.Name, &mqfs.FilesystemType{}, mountable)
	v.MustRegisterFilesystemType(overlay.Name, &overlay.FilesystemType{}, mountable)
	v.MustRegisterFilesystemType(proc.Name, lazyProcType{s}, mountable)
	v.MustRegisterFilesystemType(sys.Name, &sys.FilesystemType{}, listed)
	v.MustRegisterFilesystemType(tmpfs.Name, &tmpfs.FilesystemType{}, mountable)
	if err := memdev.Register(v); err != nil {
		return err
	}
	if err := ttydev.Register(v); err != nil {
		return err
	}
	if err := ctlfs.RegisterDevice(v, ctlAuthority{s}); err != nil {
		return err
	}
	gofer.SetDentryCacheSize(goferDentries)
	s.viewCalls(linux.AMD64)
	s.gateCalls(linux.AMD64)

	ctx := s.context(s.rootNamespaces(), s.creds, 0)
	if err := s.registerViews(ctx); err != nil {
		return err
	}
	shmMode := uint16(0o1777)
	devices, err := v.MountDisconnected(ctx, s.creds, "", dev.Name, &vfs.MountOptions{
		GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true, InternalData: dev.InternalData{ShmMode: &shmMode}},
	})
	if err != nil {
		return err
	}
	s.mounts[devKey] = devices // +checklocksignore: the kernel boots.
	s.emptyFS, s.emptyRoot, err = v.NewFilesystem(ctx, s.creds, "", tmpfs.Name, &vfs.MountOptions{
		GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true},
	})
	return err
}

// Mount makes a file system known under req.Key. It owns file.
func (s *Kernel) Mount(req control.MountRequest, file *os.File) error {
	s.mu.Lock()
	_, known := s.mounts[req.Key]
	s.mu.Unlock()
	if known {
		file.Close()
		return nil
	}
	if req.Kind == control.KindGofer && s.cfg.ImagesOnly {
		file.Close()
		return errdefs.New(errdefs.Sealed, "the domain was started without access to directories of the host", errdefs.Op("mount"), errdefs.Resource("%s", req.Key),
			errdefs.Fix("grant the directory when the agent is started, or start it without --isolated"))
	}
	opts := vfs.GetFilesystemOptions{InternalMount: true}
	var fsType string
	switch req.Kind {
	case control.KindEROFS:
		fsType = erofs.Name
		opts.Data = fmt.Sprintf("ifd=%d", releaseFD(file))
		opts.InternalData = erofs.InternalFilesystemOptions{UniqueID: resourceOf(req.Key)}
	case control.KindGofer:
		fsType = gofer.Name
		n := releaseFD(file)
		opts.Data = fmt.Sprintf("trans=fd,rfdno=%d,wfdno=%d,disable_fifo_open", n, n)
		if req.Image {
			// Nobody writes through this mount, so its files' host
			// descriptors may be shared with the copies of an overlay.
			opts.Data += ",overlayfs_stale_read"
		} else {
			// Others may write the directory while agents use it, whether they
			// may or not.
			opts.Data += ",cache=remote_revalidating"
		}
		opts.InternalData = gofer.InternalFilesystemOptions{UniqueID: resourceOf(req.Key)}
	default:
		file.Close()
		return errdefs.Newf(errdefs.Unsupported, "no file system of kind %q", req.Kind)
	}
	ctx := s.context(s.rootNamespaces(), s.creds, 0)
	mnt, err := s.k.VFS().MountDisconnected(ctx, s.creds, "", fsType, &vfs.MountOptions{
		ReadOnly:             req.ReadOnly,
		GetFilesystemOptions: opts,
	})
	if err != nil {
		return errdefs.Wrap(err, errdefs.ImageInvalid, "mount", errdefs.Resource("%s", req.Key))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.mounts[req.Key]; known { // Another request was faster.
		mnt.DecRef(ctx)
		return nil
	}
	s.mounts[req.Key] = mnt
	s.mountedAs[mnt.Filesystem()] = mountKind{req.Key, req.Kind, req.ReadOnly, req.Image}
	return nil
}

// Unmount forgets a key; agents that use the file system keep it.
func (s *Kernel) Unmount(req control.UnmountRequest) (reply control.UnmountReply, err error) {
	s.mu.Lock()
	mnt := s.mounts[req.Key]
	delete(s.mounts, req.Key)
	s.mu.Unlock()
	if mnt == nil {
		return reply, errdefs.Newf(errdefs.NotFound, "no file system %q", req.Key)
	}
	mnt.DecRef(s.k.SupervisorContext())
	s.emptyTmp.Delete(req.Key)
	s.shells.flush()
	for _, a := range s.liveAgents() {
		if a.hasGrantOf(req.Key) {
			reply.Agents = append(reply.Agents, a.id)
		}
	}
	return reply, nil
}

// resourceOf is how a checkpoint calls the file system of a key.
func resourceOf(key string) checkpoint.ResourceID { return checkpoint.ResourceID{Path: key} }

// mount returns the mount under key with a reference for the caller.
func (s *Kernel) mount(key string) (*vfs.Mount, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mnt := s.mounts[key]
	if mnt == nil {
		return nil, errdefs.Newf(errdefs.NotFound, "no file system %q", key)
	}
	mnt.IncRef()
	return mnt, nil
}
