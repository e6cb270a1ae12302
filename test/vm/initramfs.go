package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// mark begins each line of the console that is for us.
const mark = "AIOS-VM"

// initScript begins what the machine does; one block per suite follows.
const initScript = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do
	echo +$c >/sys/fs/cgroup/cgroup.subtree_control
done
for m in $(cat /modules/order); do
	insmod /modules/$m || echo "cannot load $m"
done
cd /tmp
`

// writeInitramfs writes the archive: busybox, modules, test binaries and what
// to do with them.
func writeInitramfs(w io.Writer, k *kernel, chosen []suite, dir string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return errors.New("no busybox: install busybox-static")
	}
	if out, err := exec.Command("ldd", busybox).CombinedOutput(); err == nil {
		return fmt.Errorf("%s is not static (install busybox-static): %s", busybox, bytes.TrimSpace(out))
	}
	modules, err := k.order(wanted)
	if err != nil {
		return err
	}
	a := &archive{w: w}
	for _, d := range []string{"bin", "dev", "modules", "proc", "sys", "tests", "tmp"} {
		a.add(d, fs.ModeDir|0o755, nil)
	}
	a.addFile("bin/busybox", busybox)
	var order strings.Builder
	for _, m := range modules {
		a.addFile("modules/"+filepath.Base(m), m)
		fmt.Fprintln(&order, filepath.Base(m))
	}
	a.add("modules/order", 0o644, []byte(order.String()))
	script := initScript
	for _, s := range chosen {
		a.addFile(path.Join("tests", s.name), filepath.Join(dir, s.name))
		script += fmt.Sprintf("echo; echo %s begin %s\n%s /tests/%s -test.v -test.timeout=3m\nstatus=$?\necho; echo %s end %s $status\n",
			mark, s.name, strings.Join(s.env, " "), s.name, mark, s.name)
	}
	a.add("init", 0o755, []byte(script+"poweroff -f\n"))
	return a.close()
}

// archive writes the "newc" form of cpio, the one that Linux unpacks.
type archive struct {
	w     io.Writer
	inode int
	err   error // the first one; later calls do nothing
}

// add writes a directory or a file.
func (a *archive) add(name string, mode fs.FileMode, content []byte) {
	unix := uint32(mode.Perm()) | 0o100000
	if mode.IsDir() {
		unix = uint32(mode.Perm()) | 0o040000
	}
	a.entry(name, unix, content)
}

// addFile writes an executable file with the contents of another one.
func (a *archive) addFile(name, from string) {
	content, err := os.ReadFile(from)
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	a.add(name, 0o755, content)
}

func (a *archive) entry(name string, mode uint32, content []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	var b bytes.Buffer
	b.WriteString("070701")
	for _, field := range []int{a.inode, int(mode), 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0} {
		fmt.Fprintf(&b, "%08x", field)
	}
	b.WriteString(name)
	b.WriteByte(0)
	pad := func() { b.Write(make([]byte, -b.Len()&3)) }
	pad()
	b.Write(content)
	pad()
	_, a.err = a.w.Write(b.Bytes())
}

// close ends the archive.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	return a.err
}
