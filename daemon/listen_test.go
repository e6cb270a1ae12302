package daemon

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// reach calls the daemon at an address with a token.
func reach(t *testing.T, address, text string) error {
	t.Helper()
	a, err := api.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, a.Network, a.Name)
	}
	cc, err := grpc.NewClient("passthrough:///x", append(api.TokenDialOptions(text), grpc.WithContextDialer(dial))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	_, err = apiv1.NewControlClient(cc).List(soon(t), &apiv1.ListRequest{})
	return err
}

func TestListen(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	text := b.issue(t, nil).Text()
	dir := shortDir(t)
	socket := filepath.Join(dir, "s")
	listen := func(address string) (string, error) {
		resp, err := b.d.TokenListen(context.Background(), &apiv1.TokenListenRequest{Address: address})
		return resp.GetAddress(), err
	}
	if at, err := listen("unix:" + socket); err != nil || at != "unix:"+socket {
		t.Fatal(at, err)
	}
	defer b.d.closeDoor()
	if fi, err := os.Stat(socket); err != nil || fi.Mode().Perm() != 0o666 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := reach(t, "unix:"+socket, text); err != nil {
		t.Error(err)
	}
	// An address that cannot be had leaves things as they were.
	for _, bad := range []string{"tcp:0.0.0.0:7000", "unix:" + filepath.Join(dir, "no/s"), "unix:" + b.path, "somewhere"} {
		if at, err := listen(bad); err == nil {
			t.Errorf("%s: %s", bad, at)
		}
		if err := reach(t, "unix:"+socket, text); err != nil {
			t.Errorf("after %s: %v", bad, err)
		}
	}
	at, err := listen("tcp:127.0.0.1:0")
	if err != nil || strings.HasSuffix(at, ":0") {
		t.Fatal(at, err)
	}
	if err := reach(t, at, text); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the old socket is still there")
	}
	// The next daemon listens there too.
	b.d.closeDoor()
	if err := reach(t, at, text); errdefs.CodeOf(err) != errdefs.DaemonUnreachable {
		t.Errorf("%v", err)
	}
	b.d.openDoor()
	if err := reach(t, at, text); err != nil {
		t.Error(err)
	}
	resp, err := b.d.TokenKey(context.Background(), &apiv1.TokenKeyRequest{})
	if err != nil || resp.GetListen() != at || resp.GetFailed() != "" {
		t.Errorf("%+v, %v", resp, err)
	}
	if at, err := listen("off"); err != nil || at != "" {
		t.Errorf("%s, %v", at, err)
	}
	b.d.openDoor()
	if err := reach(t, at, text); errdefs.CodeOf(err) != errdefs.DaemonUnreachable {
		t.Errorf("%v", err)
	}
}

// TestAnAddressThatFails does not keep the daemon from the rest, which says so.
func TestAnAddressThatFails(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	if err := replaceFile(b.d.listenPath(), "unix:/nonexistent/dir/s\n"); err != nil {
		t.Fatal(err)
	}
	b.d.openDoor()
	resp, err := b.d.TokenKey(context.Background(), &apiv1.TokenKeyRequest{})
	if err != nil || resp.GetListen() != "unix:/nonexistent/dir/s" || resp.GetFailed() == "" {
		t.Errorf("%+v, %v", resp, err)
	}
}

func TestClearSocket(t *testing.T) {
	dir := shortDir(t)
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o1777); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy := filepath.Join(dir, "busy")
	l, err := net.Listen("unix", busy)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir, "stale")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: stale}); err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	for path, want := range map[string]string{
		filepath.Join(open, "s"): "others can write", file: "not a socket", link: "not a socket", busy: "somebody listens",
		filepath.Join(dir, "no", "s"): "no such file", stale: "", filepath.Join(dir, "new"): "",
	} {
		err := clearSocket(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if _, err := os.Lstat(stale); err == nil {
		t.Error("the stale socket is still there")
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "precious" {
		t.Errorf("%q, %v", raw, err)
	}
}
