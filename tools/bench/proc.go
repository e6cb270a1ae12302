package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// usage is what a group of host processes holds.
type usage struct {
	processes int
	fds       int
	mounts    int
	// pss is proportional memory in bytes: private and file pages by the
	// kernel's proportional count, and every memory file once, at its full
	// allocated size, whether a process maps its pages or not.
	pss int64
}

// family returns the processes in pids and all their descendants.
func family(pids []int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // It has ended meanwhile.
		}
		if parent, ok := parentOf(stat); ok {
			children[parent] = append(children[parent], pid)
		}
	}
	var out []int
	queue := slices.Clone(pids)
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		if slices.Contains(pids, pid) && slices.Contains(out, pid) {
			continue
		}
		out = append(out, pid)
		queue = append(queue, children[pid]...)
	}
	return out, nil
}

// parentOf reads the parent out of a stat file.
func parentOf(stat []byte) (int, bool) {
	fields := afterName(stat)
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}

// afterName returns the fields of a stat file from the state on. The command's
// name may hold anything, so they are counted from its closing bracket.
func afterName(stat []byte) []string {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return nil
	}
	return strings.Fields(string(stat[end+1:]))
}

// running reports whether a process runs; one that has ended and waits for its
// parent to notice does not.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := afterName(stat)
	return len(fields) > 0 && fields[0] != "Z"
}

// measure adds up what the processes in pids and their descendants hold.
func measure(pids []int) (usage, error) {
	all, err := family(pids)
	if err != nil {
		return usage{}, err
	}
	u := usage{processes: len(all)}
	files := map[uint64]int64{} // memory files by inode
	for _, pid := range all {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err == nil {
			u.pss += withoutShmem(rollup)
		}
		u.fds += countFDs(pid, files)
		if slices.Contains(pids, pid) {
			u.mounts += countMounts(pid)
		}
	}
	for _, size := range files {
		u.pss += size
	}
	return u, nil
}

// withoutShmem returns the proportional bytes of a smaps_rollup that are not
// pages of memory files, which are counted by file.
func withoutShmem(rollup []byte) int64 {
	var total int64
	scanner := bufio.NewScanner(bytes.NewReader(rollup))
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 2 || (fields[0] != "Pss_Anon:" && fields[0] != "Pss_File:") {
			continue
		}
		kb, err := strconv.ParseInt(fields[1], 10, 64)
		if err == nil {
			total += kb << 10
		}
	}
	return total
}

// countFDs counts the open files of a process and records its memory files.
func countFDs(pid int, memoryFiles map[uint64]int64) int {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		to, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(to, "/memfd:") {
			continue
		}
		var st syscall.Stat_t
		if syscall.Stat(path, &st) == nil {
			memoryFiles[st.Ino] = st.Blocks * 512
		}
	}
	return len(entries)
}

func countMounts(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return 0
	}
	return bytes.Count(text, []byte("\n"))
}
