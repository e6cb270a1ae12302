package filter

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/runsc/fsgofer"
)

// goferSocket is the descriptor on which a child that is a gofer serves.
const goferSocket = 6

// serve is the life of a gofer: gVisor's server on path.
func serve(path string, readonly bool) error {
	sock, err := unet.NewSocket(goferSocket)
	if err != nil {
		return err
	}
	conf := &fsgofer.Config{RUID: unix.Getuid(), EUID: unix.Geteuid(), RGID: unix.Getgid(), EGID: unix.Getegid()}
	server := lisafs.NewServer()
	conn, err := server.CreateConnection(sock, path, fsgofer.ConnectionOpts(readonly), fsgofer.NewConnectionImpl(conf))
	if err != nil {
		return err
	}
	server.StartConnection(conn)
	server.Wait()
	return nil
}

// connect becomes a gofer's client.
func connect(socket *os.File) (client *lisafs.Client, root lisafs.Inode, err error) {
	fd, err := unix.Dup(int(socket.Fd()))
	if err != nil {
		return nil, root, err
	}
	socket.Close()
	sock, err := unet.NewSocket(fd)
	if err != nil {
		return nil, root, err
	}
	client, root, hostFD, err := lisafs.NewClient(sock)
	if err != nil {
		return nil, root, fmt.Errorf("connect: %w", err)
	}
	if hostFD >= 0 {
		unix.Close(hostFD)
	}
	return client, root, nil
}

// look does to a directory that is served for reading what agents do, and tries
// to change it. It holds a file "served".
func look(socket *os.File) error {
	client, root, err := connect(socket)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := context.Background()
	dir := client.NewFD(root.ControlFD)
	names, err := list(ctx, client, &dir)
	if err != nil {
		return err
	}
	if !names["served"] {
		return fmt.Errorf("it holds %v", names)
	}
	inode, err := dir.Walk(ctx, "served")
	if err != nil {
		return fmt.Errorf("walk: %w", err)
	}
	control := client.NewFD(inode.ControlFD)
	id, host, err := control.OpenAt(ctx, unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if host >= 0 {
		defer unix.Close(host)
	}
	file := client.NewFD(id)
	buf := make([]byte, 1)
	if n, err := file.Read(ctx, buf, 0); err != nil || string(buf[:n]) != "x" {
		return fmt.Errorf("read %q: %w", buf[:n], err)
	}
	if err := file.Sync(ctx); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if _, err := control.GetXattr(ctx, "user.none", 16); !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("an attribute that is not there: %w", err)
	}
	file.Close(ctx, true)
	for what, f := range map[string]func() error{
		"open for writing": func() error { _, _, err := control.OpenAt(ctx, unix.O_RDWR); return err },
		"create": func() error {
			_, _, _, err := dir.OpenCreateAt(ctx, "new", unix.O_RDWR, 0o644, 0, 0)
			return err
		},
		"mkdir":    func() error { _, err := dir.MkdirAt(ctx, "new", 0o755, 0, 0); return err },
		"symlink":  func() error { _, err := dir.SymlinkAt(ctx, "new", "served", 0, 0); return err },
		"unlink":   func() error { return dir.UnlinkAt(ctx, "served", 0) },
		"rename":   func() error { return dir.RenameAt(ctx, "served", root.ControlFD, "new", 0) },
		"setxattr": func() error { return control.SetXattr(ctx, "user.new", "x", 0) },
		"chmod": func() error {
			_, _, err := control.SetStat(ctx, &linux.Statx{Mask: linux.STATX_MODE, Mode: 0o777})
			return err
		},
	} {
		if err := f(); !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("%s: %w, not %w", what, err, unix.EROFS)
		}
	}
	return nil
}

// use does to a gofer's directory what agents do to files.
func use(socket *os.File) error {
	client, root, err := connect(socket)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := context.Background()
	dir := client.NewFD(root.ControlFD)
	uid, gid := lisafs.UID(0), lisafs.GID(0) // an agent's root
	if _, err := dir.MkdirAt(ctx, "made", 0o755, uid, gid); err != nil {
		return fmt.Errorf("mkdir: %w", err)
	}
	inode, open, host, err := dir.OpenCreateAt(ctx, "file", unix.O_RDWR, 0o640, uid, gid)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if host >= 0 {
		defer unix.Close(host)
	}
	file, control := client.NewFD(open), client.NewFD(inode.ControlFD)
	if _, err := file.Write(ctx, []byte("content"), 0); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	buf := make([]byte, 7)
	if n, err := file.Read(ctx, buf, 0); err != nil || string(buf[:n]) != "content" {
		return fmt.Errorf("read %q: %w", buf[:n], err)
	}
	var st lisafs.Statx
	if err := control.StatTo(ctx, &st); err != nil || st.Mode&0o777 != 0o640 || st.Size != 7 {
		return fmt.Errorf("stat %+v: %w", st, err)
	}
	if _, _, err := control.SetStat(ctx, &linux.Statx{Mask: linux.STATX_SIZE | linux.STATX_MODE, Size: 3, Mode: 0o600}); err != nil {
		return fmt.Errorf("setstat: %w", err)
	}
	if err := file.Sync(ctx); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	file.Close(ctx, true)
	control.Close(ctx, true)
	if _, err := dir.SymlinkAt(ctx, "link", "../../etc/passwd", uid, gid); err != nil {
		return fmt.Errorf("symlink: %w", err)
	}
	if err := dir.RenameAt(ctx, "file", root.ControlFD, "renamed", 0); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	// A dot-dot must not lead anywhere.
	if in, err := dir.Walk(ctx, ".."); err == nil {
		return fmt.Errorf("walked out of the directory to inode %+v", in)
	}
	names, err := list(ctx, client, &dir)
	if err != nil {
		return err
	}
	for _, want := range []string{"made", "renamed", "link"} {
		if !names[want] {
			return fmt.Errorf("%s is not among %v", want, names)
		}
	}
	for name := range names {
		flags := uint32(0)
		if name == "made" {
			flags = unix.AT_REMOVEDIR
		}
		if err := dir.UnlinkAt(ctx, name, flags); err != nil {
			return fmt.Errorf("unlink %s: %w", name, err)
		}
	}
	return nil
}

// list reads a directory through a gofer.
func list(ctx context.Context, client *lisafs.Client, dir *lisafs.ClientFD) (map[string]bool, error) {
	id, host, err := dir.OpenAt(ctx, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	if host >= 0 {
		defer unix.Close(host)
	}
	open := client.NewFD(id)
	defer open.Close(ctx, true)
	entries, err := open.Getdents64(ctx, 4096)
	if err != nil {
		return nil, fmt.Errorf("getdents: %w", err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		if n := string(e.Name); n != "." && n != ".." {
			names[n] = true
		}
	}
	return names, nil
}
