package sentry

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/sentry/smp"
)

// cpuDir is /sys/devices/system/cpu. It has a directory for each CPU that the
// reader sees.
type cpuDir struct {
	viewDir
	s *Kernel
	// each is by number; all that the kernel has.
	each []*oneCPUDir
}

// oneCPUDir is the directory of a CPU, for those who see that.
type oneCPUDir struct {
	viewDir
	s *Kernel
	n uint
}

func (s *Kernel) newCPUDir(ctx context.Context) *cpuDir {
	d := &cpuDir{s: s}
	d.viewDir.init(ctx, s, linux.SYSFS_MAGIC)
	file := func(text viewText) kernfs.Inode { return s.newViewFile(ctx, linux.SYSFS_MAGIC, text) }
	none, zero := file(viewText{arg: "\n"}), file(fixed("0"))
	list := file(viewText{of: "cpu/list"})
	smt := s.newViewDir(ctx, linux.SYSFS_MAGIC)
	smt.fill(map[string]kernfs.Inode{"active": zero, "control": file(fixed("notsupported"))})
	d.fill(map[string]kernfs.Inode{
		"online": list, "possible": list, "present": list, "offline": none, "isolated": none,
		"kernel_max": file(fixed(strconv.Itoa(smp.MaxCPUs - 1))), "smt": smt,
	})
	all := file(viewText{of: "cpu/mask"})
	for n := range uint(s.cfg.CPUs) {
		own := file(viewText{of: "cpu/own", arg: strconv.Itoa(int(n))})
		number := file(fixed(strconv.Itoa(int(n))))
		topology := s.newViewDir(ctx, linux.SYSFS_MAGIC)
		// All in one socket, each a core of its own, as in /proc/cpuinfo.
		topology.fill(map[string]kernfs.Inode{
			"physical_package_id": zero, "die_id": zero, "core_id": number,
			"core_cpus": own, "core_cpus_list": number, "thread_siblings": own, "thread_siblings_list": number,
			"package_cpus": all, "package_cpus_list": list, "core_siblings": all, "core_siblings_list": list, "die_cpus": all, "die_cpus_list": list,
		})
		one := &oneCPUDir{s: s, n: n}
		one.viewDir.init(ctx, s, linux.SYSFS_MAGIC)
		one.fill(map[string]kernfs.Inode{"topology": topology})
		d.each = append(d.each, one)
	}
	return d
}

// cpuViews are files of /sys/devices/system.
var cpuViews = map[string]viewWriter{
	"list": func(v *view, _ string, buf *bytes.Buffer) { fmt.Fprintln(buf, v.cpus()) },
	"mask": func(v *view, _ string, buf *bytes.Buffer) { fmt.Fprintln(buf, cpuHex(v.cpus(), v.cpus())) },
	"own": func(v *view, cpu string, buf *bytes.Buffer) {
		n, _ := strconv.Atoi(cpu)
		fmt.Fprintln(buf, cpuHex(v.cpus(), smp.Of(n)))
	},
	"meminfo": func(v *view, _ string, buf *bytes.Buffer) {
		total, used, _ := v.memory()
		for _, line := range []struct {
			name  string
			bytes uint64
		}{{"MemTotal", total}, {"MemFree", total - used}, {"MemUsed", used}} {
			fmt.Fprintf(buf, "Node 0 %-15s %8d kB\n", line.name+":", line.bytes>>10)
		}
	},
}

// newNodeDir makes /sys/devices/system/node: all CPUs and all memory are in one.
func (s *Kernel) newNodeDir(ctx context.Context) *viewDir {
	file := func(text viewText) kernfs.Inode { return s.newViewFile(ctx, linux.SYSFS_MAGIC, text) }
	node := s.newViewDir(ctx, linux.SYSFS_MAGIC)
	node.fill(map[string]kernfs.Inode{
		"cpulist": file(viewText{of: "cpu/list"}), "cpumap": file(viewText{of: "cpu/mask"}), "distance": file(fixed("10")),
		"meminfo": file(viewText{of: "cpu/meminfo"}),
	})
	d := s.newViewDir(ctx, linux.SYSFS_MAGIC)
	zero := file(fixed("0"))
	d.fill(map[string]kernfs.Inode{
		"node0": node, "online": zero, "possible": zero, "has_cpu": zero, "has_memory": zero, "has_normal_memory": zero,
	})
	return d
}

// Valid implements kernfs.Inode.Valid: the directory may be remembered from
// somebody who sees more CPUs.
func (d *oneCPUDir) Valid(ctx context.Context, _ *kernfs.Dentry, _ string) bool {
	return d.s.viewOf(ctx).cpus().Has(int(d.n))
}

// Lookup implements kernfs.Inode.Lookup.
func (d *cpuDir) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	if number, ok := strings.CutPrefix(name, "cpu"); ok {
		n, err := strconv.ParseUint(number, 10, 32)
		if err == nil && strconv.FormatUint(n, 10) == number && d.s.viewOf(ctx).cpus().Has(int(n)) {
			return d.each[n], nil
		}
	}
	return d.viewDir.Lookup(ctx, name)
}

// IterDirents implements kernfs.Inode.IterDirents.
func (d *cpuDir) IterDirents(ctx context.Context, _ *vfs.Mount, callback vfs.IterDirentsCallback, offset, relOffset int64) (int64, error) {
	at := int64(0)
	var err error
	d.s.viewOf(ctx).cpus().All(func(n int) bool {
		if at++; at <= relOffset {
			return true
		}
		err = callback.Handle(vfs.Dirent{
			Name: fmt.Sprintf("cpu%d", n), Type: linux.DT_DIR, Ino: d.each[n].Ino(), NextOff: offset + 1,
		})
		if err == nil {
			offset++
		}
		return err == nil
	})
	return offset, err
}

// cpuHex is a mask of CPUs, of all that there are, as the kernel prints them: words
// of 32 bits, the highest first.
func cpuHex(all, cpus smp.Set) string {
	top := 0
	all.All(func(cpu int) bool {
		top = cpu
		return true
	})
	words := make([]string, 0, top/32+1)
	for base := top / 32 * 32; base >= 0; base -= 32 {
		var word uint32
		for bit := range 32 {
			if cpus.Has(base + bit) {
				word |= 1 << bit
			}
		}
		width := 8
		if len(words) == 0 {
			width = (min(top-base, 31) + 4) / 4
		}
		words = append(words, fmt.Sprintf("%0*x", width, word))
	}
	return strings.Join(words, ",")
}
