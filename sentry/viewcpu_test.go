package sentry

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/account"
	"aios.dev/aios/sentry/smp"
)

// procStat is /proc/stat: rows of numbers by their names.
func procStat(t *testing.T, s *spawned) map[string][]int64 {
	t.Helper()
	return rowsOf(t, mustRun(t, s, "cat /proc/stat"))
}

func rowsOf(t *testing.T, text string) map[string][]int64 {
	t.Helper()
	rows := make(map[string][]int64)
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		f := strings.Fields(line)
		for _, word := range f[1:] {
			n, err := strconv.ParseInt(word, 10, 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			rows[f[0]] = append(rows[f[0]], n)
		}
	}
	return rows
}

// grantCPU gives an agent a quota, as if it had been granted.
func grantCPU(a *Agent, milli uint64) {
	a.authMu.Lock()
	defer a.authMu.Unlock()
	a.cpuGranted = milli
	a.requota()
}

// Columns of the lines of CPUs.
const (
	statUser, statSystem, statIdle, statSteal = 0, 2, 3, 7
	ticksPerSecond                            = 100
)

// TestProcStat looks at an agent that spins, at one that does not, and at what
// happens to the numbers when a quota comes and goes.
func TestProcStat(t *testing.T) {
	busy := spawn(t, sh("while :; do :; done"))
	quiet := spawn(t, []string{"sleep", "1000"})
	a := limited(t, busy)
	all := int64(theKernel.cfg.CPUs)
	uptime := func() int64 { return theKernel.uptimeNS() / (int64(time.Second) / ticksPerSecond) }

	before := procStat(t, quiet)
	eventually(t, func() bool { return procStat(t, busy)["cpu"][statUser] >= ticksPerSecond/2 })
	var last map[string][]int64
	check := func(what string, cpus int64) {
		t.Helper()
		rows := procStat(t, busy)
		for column := range 10 {
			sum := int64(0)
			for i := range cpus {
				sum += rows[fmt.Sprint("cpu", i)][column]
			}
			if sum != rows["cpu"][column] {
				t.Errorf("%s: column %d of the CPUs sums up to %d, not %d", what, column, sum, rows["cpu"][column])
			}
			if last != nil && rows["cpu"][column] < last["cpu"][column] {
				t.Errorf("%s: column %d went from %d to %d", what, column, last["cpu"][column], rows["cpu"][column])
			}
		}
		if rows[fmt.Sprint("cpu", cpus)] != nil {
			t.Errorf("%s: more than %d CPUs", what, cpus)
		}
		last = rows
	}
	total := func(rows map[string][]int64) (sum int64) {
		for _, n := range rows["cpu"] {
			sum += n
		}
		return sum
	}
	check("without a quota", all)
	if got, most := total(last), all*uptime()+2; got > most || got < most-all*ticksPerSecond {
		t.Errorf("%d ticks in all, want about %d", got, most)
	}
	grantCPU(a, 100)
	from := uptime()
	eventually(t, func() bool {
		check("with a quota", 1)
		return last["cpu"][statSteal] >= ticksPerSecond/2
	})
	// One CPU a second, of which a tenth is used and the rest stolen.
	if took := uptime() - from; last["cpu"][statSteal] > took {
		t.Errorf("%d ticks were stolen in %d", last["cpu"][statSteal], took)
	}
	grantCPU(a, account.Unlimited)
	check("without a quota again", all)

	after := procStat(t, quiet)
	if used := after["cpu"][statUser] - before["cpu"][statUser]; used > ticksPerSecond/2 {
		t.Errorf("an agent that sleeps used %d ticks", used)
	}
	if n := after["processes"][0] - before["processes"][0]; n < 1 || n > 4 { // What looks.
		t.Errorf("%d processes were made", n)
	}
	if n := after["ctxt"][0] - before["ctxt"][0]; n < 1 || n > 1000 {
		t.Errorf("tasks of an agent that sleeps were given a CPU %d times", n)
	}
	if n := last["procs_running"][0]; n < 1 || n > 3 {
		t.Errorf("%d processes run", n)
	}

	// The columns of uptime are of the same clock.
	f := strings.Fields(mustRun(t, quiet, "cat /proc/uptime"))
	up, _ := strconv.ParseFloat(f[0], 64)
	idle, _ := strconv.ParseFloat(f[1], 64)
	if now := float64(uptime()) / ticksPerSecond; up > now+0.001 || up < now-1 || idle > up*float64(all) || idle < float64(after["cpu"][statIdle])/ticksPerSecond-0.02 {
		t.Errorf("uptime %q, it is %v, and idle were %d ticks", f, now, after["cpu"][statIdle])
	}
}

// TestLoadavg compares an agent that spins with one that sleeps.
func TestLoadavg(t *testing.T) {
	busy := spawn(t, sh("while :; do :; done"))
	quiet := spawn(t, []string{"sleep", "1000"})
	eventually(t, func() bool {
		theKernel.tickLoads(1 << 20) // As if it had always been so.
		return limited(t, quiet).account.load.Averages() == [3]uint64{}
	})
	for _, c := range []struct {
		s           *spawned
		least, most float64
	}{{busy, 0.9, 1.1}, {quiet, 0, 0.2}} {
		out := mustRun(t, c.s, "cat /proc/loadavg")
		f := strings.Fields(out)
		if len(f) != 5 {
			t.Fatalf("loadavg %q", out)
		}
		for _, text := range f[:3] {
			if avg, err := strconv.ParseFloat(text, 64); err != nil || avg < c.least || avg > c.most {
				t.Errorf("loadavg %q, want %v to %v", out, c.least, c.most)
			}
		}
		running, tasks, _ := strings.Cut(f[3], "/")
		r, err1 := strconv.Atoi(running)
		n, err2 := strconv.Atoi(tasks)
		if last, err := strconv.Atoi(f[4]); err1 != nil || err2 != nil || err != nil || r < 1 || r > n || n < 2 || n > 4 || last < 2 {
			t.Errorf("loadavg %q", out)
		}
	}
	// This uptime asks sysinfo.
	if out := mustRun(t, busy, "uptime"); !strings.Contains(out, "load average: 1.0") && !strings.Contains(out, "load average: 0.9") {
		t.Errorf("uptime says %q", out)
	}
}

// TestSysCPUs reads what programs look for below /sys/devices/system.
func TestSysCPUs(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	grantCPU(limited(t, s), 1000)
	for script, want := range map[string]string{
		"cat offline isolated kernel_max smt/active smt/control":                                           "\n\n1023\n0\nnotsupported\n",
		"cd cpu0/topology; cat physical_package_id die_id core_id":                                         "0\n0\n0\n",
		"cd cpu0/topology; cat core_cpus_list thread_siblings_list core_siblings_list package_cpus_list":   "0\n0\n0\n0\n",
		"cd ../node; cat online possible has_cpu has_memory node0/cpulist node0/cpumap node0/distance":     "0\n0\n0\n0\n0\n1\n10\n",
		"head -1 ../node/node0/meminfo | tr -s ' ' | cut -d' ' -f1-3; ls ../node; ls -d cpu[0-9]*; ls smt": "Node 0 MemTotal:\nhas_cpu\nhas_memory\nhas_normal_memory\nnode0\nonline\npossible\ncpu0\nactive\ncontrol\n",
	} {
		if got := mustRun(t, s, "cd /sys/devices/system/cpu; "+script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	grantCPU(limited(t, s), account.Unlimited)
	n := theKernel.cfg.CPUs - 1
	if got, want := mustRun(t, s, fmt.Sprintf("cat /sys/devices/system/cpu/cpu%d/topology/core_id", n)), fmt.Sprintln(n); got != want {
		t.Errorf("of the last CPU: %q", got)
	}
}

// TestCertainCPUs gives an agent the second CPU only: it is the one that there is.
func TestCertainCPUs(t *testing.T) {
	if theKernel.cfg.CPUs < 2 {
		t.Skip("needs two CPUs")
	}
	s := spawn(t, []string{"sleep", "1000"})
	a := limited(t, s)
	a.authMu.Lock()
	a.cpuParams.CPUs = smp.Of(1)
	a.authMu.Unlock()
	grantCPU(a, account.Unlimited)
	for script, want := range map[string]string{
		"nproc; taskset 2 nproc; taskset 3 nproc":                    "1\n1\n1\n",
		"cd /sys/devices/system/cpu; cat online possible":            "1\n1\n",
		"cd /sys/devices/system/cpu; ls -d cpu[0-9]*":                "cpu1\n",
		"cat /sys/devices/system/cpu/cpu1/topology/core_cpus":        "2\n",
		"grep ^processor /proc/cpuinfo | tr -d '\\t '":               "processor:1\n",
		"grep -o '^cpu[0-9]' /proc/stat":                             "cpu1\n",
		"cat /sys/fs/cgroup/cpuset.cpus.effective":                   "1\n",
		"cat /sys/devices/system/node/node0/cpulist":                 "1\n",
		"test -e /sys/devices/system/cpu/cpu0/topology || echo none": "none\n",
	} {
		if got := mustRun(t, s, script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if _, _, exit := s.execIn(sh("taskset 1 nproc")).output(); exit.Code == 0 {
		t.Error("an agent may run on a CPU that it was not given")
	}
}
