package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// install is one installation of AIOS.
type install struct {
	dir      string // of everything below
	state    string // the state directory
	ctl      string // the binaries, linked here so that processes tell whose they are
	aiosd    string
	platform string
	env      []string // of commands
	uid      uint32   // of commands; 0 is the test's own user
}

var installs atomic.Int64

// newInstall makes an installation that ends with the test, and then checks
// that nothing of it is left. No daemon runs yet.
func newInstall(t *testing.T, platform string) *install {
	t.Helper()
	in := &install{dir: filepath.Join(theRoot, "i"+strconv.FormatInt(installs.Add(1), 10)), platform: platform}
	in.state = filepath.Join(in.dir, "s")
	bin, tmp := filepath.Join(in.dir, "bin"), filepath.Join(in.dir, "tmp")
	in.ctl, in.aiosd = filepath.Join(bin, "aiosctl"), filepath.Join(bin, "aiosd")
	in.env = append(cleanEnv(), "AIOS_STATE_DIR="+in.state, "TMPDIR="+tmp)
	for _, dir := range []string{in.dir, bin, tmp} {
		must(t, os.Mkdir(dir, 0o755))
	}
	for _, path := range []string{in.ctl, in.aiosd} {
		must(t, os.Link(filepath.Join(theRoot, "bin", filepath.Base(path)), path))
	}
	t.Cleanup(func() { in.end(t) })
	return in
}

// cleanEnv is the environment without what steers aiosctl.
func cleanEnv() []string {
	var out []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "AIOS") && !strings.HasPrefix(e, "TMPDIR=") && !strings.HasPrefix(e, "NO_COLOR=") {
			out = append(out, e)
		}
	}
	return out
}

// end stops the installation and reports what is left of it.
func (in *install) end(t *testing.T) {
	if t.Failed() {
		in.showLogs(t)
	}
	cgroups := in.cgroups()
	in.stop(t)
	for _, what := range in.leftovers(cgroups) {
		t.Errorf("left behind: %s", what)
	}
	in.killAll()
	// What a daemon and its domains left that were killed alike: there is no next
	// daemon here to remove it.
	cgroups = append(cgroups, in.ownGroups()...)
	for _, dir := range cgroups { // Or they would stay on the host for ever.
		os.Remove(dir)
		os.Remove(filepath.Dir(dir))
	}
	if err := os.RemoveAll(in.dir); err != nil {
		t.Errorf("left behind: %v", err)
	}
}

// stop ends the daemon and every domain the way a user does.
func (in *install) stop(t *testing.T) {
	t.Helper()
	if len(in.processes()) == 0 {
		return
	}
	// Whatever happened, the audit trail is whole. And a daemon that was killed cannot
	// stop its domains: asking starts a new one.
	for _, args := range [][]string{{"audit", "verify"}, {"daemon", "stop", "--domains"}} {
		if r := in.run(t, args...); r.status != 0 {
			t.Errorf("aiosctl %s: status %d: %s%s", strings.Join(args, " "), r.status, r.stdout, r.stderr)
		}
	}
}

// hostProcess is a process of the host that runs this installation's aiosd.
type hostProcess struct {
	pid  int
	args []string // none for a process that executes agent code
}

func (p hostProcess) String() string {
	return fmt.Sprintf("process %d (%s)", p.pid, strings.Join(p.args, " "))
}

// processes returns every process of the installation but clients. They are
// known by their program, which is a link of this installation alone.
func (in *install) processes() []hostProcess {
	mine := strings.TrimPrefix(in.aiosd, theRoot) // A process with a root of its own sees the rest differently.
	entries, _ := os.ReadDir("/proc")
	var out []hostProcess
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		exe, err := os.Readlink("/proc/" + e.Name() + "/exe")
		if err != nil || !strings.HasSuffix(exe, filepath.Base(theRoot)+mine) {
			continue
		}
		p := hostProcess{pid: pid}
		if raw, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline"); len(raw) > 0 {
			p.args = strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
		}
		if state, _ := processState(pid); state == 'Z' || state == 'X' {
			continue // Its parent has yet to look.
		}
		out = append(out, p)
	}
	return out
}

// processState returns the state letter of a process, and whether it exists.
func processState(pid int) (byte, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	s := string(raw)
	if i := strings.LastIndex(s, ") "); i >= 0 && i+2 < len(s) {
		return s[i+2], true
	}
	return 0, false
}

// killAll ends every process of the installation.
func (in *install) killAll() {
	for range 100 {
		left := in.processes()
		if len(left) == 0 {
			return
		}
		for _, p := range left {
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// leftovers says what a stopped installation has left on the host.
func (in *install) leftovers(cgroups []string) []string {
	var out []string
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := in.processes()
		if len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			for _, p := range left {
				out = append(out, p.String())
			}
			break
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, in.dir+"/") {
			out = append(out, "mount "+line)
		}
	}
	for _, dir := range cgroups {
		if _, err := os.Stat(dir); err == nil {
			out = append(out, "cgroup "+dir)
		}
	}
	for _, pattern := range []string{"s/run/*", "s/domains/*.json", "s/images/tmp/*", "s/*/*.new", "tmp/*"} {
		found, _ := filepath.Glob(filepath.Join(in.dir, pattern))
		for _, f := range found {
			out = append(out, "file "+f)
		}
	}
	return append(out, in.oddAgentFiles()...)
}

// oddAgentFiles returns the files of agents that are not a record and its log.
func (in *install) oddAgentFiles() []string {
	files, _ := filepath.Glob(filepath.Join(in.state, "agents", "*"))
	there := make(map[string]bool, len(files))
	for _, f := range files {
		there[f] = true
	}
	var out []string
	for f := range there {
		base, isRecord := strings.CutSuffix(f, ".json")
		base, isLog := strings.CutSuffix(base, ".log")
		if !isRecord && !isLog || !there[base+".json"] || !there[base+".log"] {
			out = append(out, "file "+f)
		}
	}
	return out
}

// cgroups returns the host cgroups that processes of the installation are in
// and this test is not.
func (in *install) cgroups() []string {
	own := make(map[string]bool)
	for _, g := range cgroupsOf("self") {
		own[g] = true
	}
	seen := make(map[string]bool)
	for _, p := range in.processes() {
		for _, g := range cgroupsOf(strconv.Itoa(p.pid)) {
			if !own[g] {
				seen[g] = true
			}
		}
	}
	var out []string
	for g := range seen {
		out = append(out, g)
	}
	return out
}

// ownGroups returns the host cgroups of the installation's domains that there
// are, and then those that hold them.
func (in *install) ownGroups() (out []string) {
	h := fnv.New32a()
	h.Write([]byte(in.state))
	for _, below := range []string{"/*", ""} {
		for _, of := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
			found, _ := filepath.Glob(fmt.Sprintf("%s/aios-%08x%s", of, h.Sum32(), below))
			out = append(out, slices.DeleteFunc(found, func(path string) bool { return !isDir(path) })...)
		}
	}
	return out
}

// cgroupsOf returns the directories of a process's cgroups.
func cgroupsOf(pid string) []string {
	raw, _ := os.ReadFile("/proc/" + pid + "/cgroup")
	var out []string
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 || f[2] == "/" {
			continue
		}
		hierarchy := strings.TrimPrefix(f[1], "name=")
		for _, dir := range []string{"/sys/fs/cgroup/" + hierarchy, "/sys/fs/cgroup/unified"} {
			if f[1] != "" || dir == "/sys/fs/cgroup/" {
				if path := filepath.Join(dir, f[2]); isDir(path) {
					out = append(out, path)
				}
			}
		}
	}
	return out
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// showLogs adds what the daemon and the kernel processes wrote to the test's
// output.
func (in *install) showLogs(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(in.state, "domains", "*.log"))
	for _, f := range append(files, filepath.Join(in.state, "aiosd.log")) {
		if raw, err := os.ReadFile(f); err == nil && len(raw) > 0 {
			const most = 4 << 10
			if len(raw) > most {
				raw = append([]byte("…"), raw[len(raw)-most:]...)
			}
			t.Logf("%s:\n%s", f, raw)
		}
	}
}

// process returns the host PID of the one process of the installation whose
// first arguments are these: "serve", or "kernel" and the domain's name.
func (in *install) process(t *testing.T, args ...string) int {
	t.Helper()
	for _, p := range in.processes() {
		if len(p.args) > len(args) && strings.Join(p.args[1:1+len(args)], " ") == strings.Join(args, " ") {
			return p.pid
		}
	}
	t.Fatalf("no process aiosd %s among %v", strings.Join(args, " "), in.processes())
	return 0
}

// kill9 kills a host process and returns when it is gone.
func kill9(t *testing.T, pid int) {
	t.Helper()
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	eventually(t, fmt.Sprintf("process %d dies", pid), 5*time.Second, func() (bool, string) {
		// The first thread may be a zombie while others still hold files open.
		state, exists := processState(pid)
		threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		return !exists || state == 'Z' && len(threads) <= 1, fmt.Sprintf("state %c, %d threads", state, len(threads))
	})
}

// command returns an aiosctl that has not started.
func (in *install) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, in.ctl, args...)
	cmd.Env = in.env
	cmd.Dir = in.dir
	cmd.WaitDelay = 5 * time.Second
	if in.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: in.uid, Gid: in.uid}}
	}
	return cmd
}

// asUser makes the installation that of an ordinary user.
func (in *install) asUser(t *testing.T, uid int) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	in.uid = uint32(uid)
	in.env = append(in.env, "HOME="+in.dir)
	for _, dir := range []string{in.dir, filepath.Join(in.dir, "tmp")} {
		must(t, os.Chown(dir, uid, uid))
	}
}

// agentInfo is what ps and inspect print of an agent.
type agentInfo struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Domain    string `json:"domain"`
	Image     string `json:"image"`
	State     string `json:"state"`
	Processes int    `json:"processes"`
	Memory    uint64 `json:"memory_bytes"`
	Exit      struct {
		Status int    `json:"status"`
		Code   int    `json:"code"`
		Signal string `json:"signal"`
		Reason string `json:"reason"`
	} `json:"exit"`
	ProcessList []struct {
		PID  int      `json:"pid"`
		Name string   `json:"name"`
		Argv []string `json:"argv"`
	} `json:"process_list"`
	LogPath string `json:"log_path"`
}

// inspect returns what is known of an agent.
func (in *install) inspect(t *testing.T, agent string) agentInfo {
	t.Helper()
	var all []agentInfo
	must(t, json.Unmarshal(in.ok(t, "inspect", "-o", "json", agent), &all))
	if len(all) != 1 {
		t.Fatalf("inspect %s: %d agents", agent, len(all))
	}
	return all[0]
}

// ps returns the agents that "ps" lists.
func (in *install) ps(t *testing.T, flags ...string) []agentInfo {
	t.Helper()
	var all []agentInfo
	must(t, json.Unmarshal(in.ok(t, append([]string{"ps", "-o", "json"}, flags...)...), &all))
	return all
}
