package filter

import (
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
func serve(path string) error {
	sock, err := unet.NewSocket(goferSocket)
	if err != nil {
		return err
	}
	conf := &fsgofer.Config{RUID: unix.Getuid(), EUID: unix.Geteuid(), RGID: unix.Getgid(), EGID: unix.Getegid()}
	server := lisafs.NewServer()
	conn, err := server.CreateConnection(sock, path, fsgofer.ConnectionOpts(false), fsgofer.NewConnectionImpl(conf))
	if err != nil {
		return err
	}
	server.StartConnection(conn)
	server.Wait()
	return nil
}

// use does to a gofer's directory what agents do to files.
func use(socket *os.File) error {
	fd, err := unix.Dup(int(socket.Fd()))
	if err != nil {
		return err
	}
	socket.Close()
	sock, err := unet.NewSocket(fd)
	if err != nil {
		return err
	}
	client, root, hostFD, err := lisafs.NewClient(sock)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer client.Close()
	if hostFD >= 0 {
		unix.Close(hostFD)
	}
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
