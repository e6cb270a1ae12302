package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// answersWithin asserts, generously, that a neighbour answers, and returns how
// long that took at most.
func (in *install) answersWithin(t *testing.T, limit time.Duration, agent string, tries int) time.Duration {
	t.Helper()
	var worst time.Duration
	for range tries {
		began := time.Now()
		r := in.run(t, "exec", agent, "--", "true")
		took := time.Since(began)
		if r.status != 0 {
			t.Fatalf("the neighbour does not answer: %s", r)
		}
		worst = max(worst, took)
	}
	if worst > limit {
		t.Errorf("a neighbour took %v to answer", worst)
	}
	return worst
}

func TestForkBomb(t *testing.T) {
	need(t, "python3", "bash")
	many := 128 // The time until it is reached grows with its square.
	if soak() {
		many = 512 // what it is where nobody says it
	}
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "neighbour", "--", "sh", "-c", counter)
		in.countsOn(t, "neighbour")
		quiet := in.answersWithin(t, patience, "neighbour", 3)
		for _, bomb := range []struct {
			limit int
			args  []string
		}{
			{64, []string{"--pids", "64", "--", "bash", "-c", "b() { b | b & }; while :; do b; done"}},
			// A bomb that never rests.
			{many, []string{"--pids", fmt.Sprint(many), "--", "python3", "-c", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"}},
		} {
			in.spawn(t, append([]string{"--name", "bomb"}, bomb.args...)...)
			most := 0
			eventually(t, "the bomb reaches its limit", 3*time.Minute, func() (bool, string) {
				n := in.inspect(t, "bomb").Processes
				most = max(most, n)
				return n >= bomb.limit*7/8, fmt.Sprint(n)
			})
			worst := in.answersWithin(t, 10*time.Second, "neighbour", 5)
			began := time.Now()
			if r := in.agent(t, "--", "echo", "new"); string(r.stdout) != "new\n" {
				t.Errorf("%s", r)
			}
			fresh := time.Since(began)
			in.countsOn(t, "neighbour")
			for range 3 {
				most = max(most, in.inspect(t, "bomb").Processes)
			}
			if most > bomb.limit {
				t.Errorf("%d processes, the limit is %d", most, bomb.limit)
			}
			began = time.Now()
			in.ok(t, "rm", "-f", "bomb")
			t.Logf("%d processes; exec in a neighbour %v at most (%v before), a new agent %v, rm -f %v", most,
				worst.Round(time.Millisecond), quiet.Round(time.Millisecond), fresh.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		}
		in.countsOn(t, "neighbour")
	})
}

func TestMemoryHog(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		need(t, "python3")
		in.spawn(t, "--name", "neighbour", "--", "sh", "-c", counter)
		for name, program := range map[string]string{
			"slow":     "a = []\nwhile True: a.append(bytearray(b'x') * (1 << 20))",
			"reserved": "import mmap\nm = mmap.mmap(-1, 50 << 20), mmap.mmap(-1, 60 << 20)\nwhile True:\n  for n in m:\n    for i in range(0, len(n), 4096): n[i] = 1",
			"children": "import os, time\nfor _ in range(8):\n  if os.fork() == 0:\n    a = b'x' * (50 << 20)\n    time.sleep(1000)\ntime.sleep(1000)",
		} {
			r := in.agent(t, "--keep", "--name", "hog", "--memory", "100M", "--", "python3", "-c", program)
			if r.status != 137 || !strings.Contains(string(r.stderr), "memory limit") {
				t.Errorf("%s: %s", name, r)
			}
			if a := in.inspect(t, "hog"); a.State != "exited" || !strings.Contains(a.Exit.Reason, "memory limit") {
				t.Errorf("%s: %+v", name, a)
			}
			in.ok(t, "rm", "-f", "hog")
			in.countsOn(t, "neighbour")
		}
		// What can never be there is refused, with an error that programs know.
		for name, program := range map[string]string{
			"private": "try: b'x' * (2 << 30)\nexcept MemoryError: print('refused')",
			"shared":  "import mmap\ntry: mmap.mmap(-1, 1 << 30)\nexcept OSError as e: print('refused' if e.errno == 12 else e)",
		} {
			if r := in.agent(t, "--memory", "200M", "--", "python3", "-c", program); r.status != 0 || string(r.stdout) != "refused\n" {
				t.Errorf("%s: %s", name, r)
			}
		}
		// Files of the agent are bounded too, by an error that programs know.
		r := in.agent(t, "--memory", "100M", "--", "sh", "-c", "head -c 400000000 /dev/zero > /tmp/big; echo status $?; rm /tmp/big; echo works > /tmp/small && cat /tmp/small")
		if !strings.Contains(string(r.stderr), "No space left") && !strings.Contains(string(r.stderr), "memory limit") {
			t.Errorf("a big file: %s", r)
		}
		// Below the limit nothing happens.
		if r := in.agent(t, "--memory", "300M", "--", "python3", "-c", "a = b'x' * (150 << 20); print(len(a))"); r.status != 0 {
			t.Errorf("below the limit: %s", r)
		}
		in.countsOn(t, "neighbour")
		eventually(t, "the memory is given back", 20*time.Second, func() (bool, string) {
			m := in.domains(t)[0].Memory
			return m < 100<<20, fmt.Sprintf("%d MiB", m>>20)
		})
	})
}

// TestGarbage speaks nonsense to both kinds of sockets.
func TestGarbage(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "counter", "--", "sh", "-c", counter)
		daemon, kernel := in.process(t, "serve"), in.process(t, "kernel", "default")
		fds := [2]int{in.openFiles(t, daemon), in.openFiles(t, kernel)}
		const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
		frame := func(length, files uint32, body string) string {
			b := binary.BigEndian.AppendUint32(nil, length)
			b = binary.BigEndian.AppendUint32(b, files)
			return string(b) + body
		}
		full := func(body string) string { return frame(uint32(len(body)), 0, body) }
		hello := full(`{"id":1,"method":"hello","body":{"version":1,"domain":"default"}}`)
		said := []string{
			"", "x", "GET / HTTP/1.1\r\n\r\n", preface[:10], preface, preface + string(noise(6, 4096)), string(noise(7, 100000)),
			preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", preface + "\xff\xff\xff\x00\x00\x00\x00\x00\x01",
			frame(10, 0, ""), frame(1<<31, 0, "{"), frame(4, 1<<31, "null"), full("null"), full("{"), full(`{"id":1}`),
			full(`{"id":1,"method":"list"}`), full(`{"id":1,"method":"hello","body":{"version":99,"domain":"default"}}`),
			full(`{"id":1,"method":"hello","body":{"version":1,"domain":"another"}}`), full(strings.Repeat("[", 1<<20)),
			hello, hello + frame(100, 0, "{"), hello + full(`{"id":2,"method":"nosuch"}`), hello + full(`{"id":2,"method":"spawn","body":17}`),
			hello + full(`{"id":2,"method":"spawn","body":{"id":"../../x","process":{"argv":["true"]}}}`),
			hello + full(`{"id":2,"method":"mount","body":{"key":"x","kind":"erofs"}}`),
			hello + full(`{"id":2,"method":"attach","body":{"id":"a000000000000"}}`),
			hello + full(`{"id":2,"method":"signal","body":{"id":"`+in.inspect(t, "counter").ID+`","signal":-5}}`),
			hello + full(`{"id":2,"method":"exec","body":{"id":"`+in.inspect(t, "counter").ID+`","attach":true,"process":{"argv":["true"]}}}`),
		}
		sockets, _ := filepath.Glob(filepath.Join(in.state, "run", "*"))
		if len(sockets) < 2 {
			t.Fatalf("sockets: %v", sockets)
		}
		// A spare, which does not listen to anybody yet, comes after the domain.
		slices.SortFunc(sockets, func(a, b string) int { return made(t, a).Compare(made(t, b)) })
		sockets = sockets[:2]
		for _, socket := range sockets {
			var open []net.Conn
			for _, s := range said {
				for _, wait := range []bool{false, true} {
					c, err := net.Dial("unix", socket)
					must(t, err)
					c.SetDeadline(time.Now().Add(5 * time.Second))
					c.Write([]byte(s)) // May be cut.
					if wait {
						open = append(open, c) // Half a request, for ever.
					} else {
						c.Close()
					}
				}
			}
			// With files that nobody asked for.
			for range 20 {
				sendFiles(t, socket, frame(2, 8, "{}"))
			}
			in.countsOn(t, "counter")
			in.ok(t, "exec", "counter", "--", "true")
			for _, c := range open {
				c.Close()
			}
		}
		if d, k := in.process(t, "serve"), in.process(t, "kernel", "default"); d != daemon || k != kernel {
			t.Errorf("daemon %d, then %d; kernel %d, then %d", daemon, d, kernel, k)
		}
		eventually(t, "the connections' descriptors are closed", 20*time.Second, func() (bool, string) {
			now := [2]int{in.openFiles(t, daemon), in.openFiles(t, kernel)}
			return now[0] <= fds[0]+spareFiles && now[1] <= fds[1]+spareFiles, fmt.Sprintf("before %v, after %v", fds, now)
		})
	})
}

// spareFiles is how many descriptors more a process may hold by chance; what
// these tests would leak are many times as many.
const spareFiles = 4

// openFiles counts the descriptors of a host process but those of files that
// agents opened: a kernel process keeps programs and libraries open.
func (in *install) openFiles(t testing.TB, pid int) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	must(t, err)
	n := 0
	for _, e := range entries {
		file, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil && (!strings.HasPrefix(file, "/") || strings.HasPrefix(file, in.dir)) {
			n++
		}
	}
	return n
}

// sendFiles sends data and eight descriptors.
func sendFiles(t *testing.T, socket, data string) {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	must(t, err)
	defer c.Close()
	f, err := os.Open("/dev/null")
	must(t, err)
	defer f.Close()
	fds := make([]int, 8)
	for i := range fds {
		fds[i] = int(f.Fd())
	}
	c.WriteMsgUnix([]byte(data), unix.UnixRights(fds...), nil)
}

// TestDiskFull gives the state directory a file system of its own that it fills.
func TestDiskFull(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		if r := in.hostSh(t, "unshare -m true"); r.status != 0 {
			t.Skipf("mount namespaces are not permitted: %s", r)
		}
		const script = `
mkdir -p "$AIOS_STATE_DIR" && mount -t tmpfs -o size=4m,mode=700 tmpfs "$AIOS_STATE_DIR" || exit 77
$run -- echo fits || exit 1
$ctl spawn --platform $platform --name survivor -- sh -c 'while :; do echo tick; sleep 0.05; done' >/dev/null || exit 2
cat /dev/zero > "$AIOS_STATE_DIR/fill" 2>/dev/null
$run --keep -- echo does not fit; echo "status $?"
$ctl spawn --isolated --platform $platform -- true; echo "status $?"
$ctl image import x /usr/share/misc; echo "status $?"
$ctl ps -q | wc -l
$ctl exec survivor -- echo lives
rm "$AIOS_STATE_DIR/fill"
$run -- echo fits again || exit 3
sleep 0.2
$ctl logs --tail 1 survivor
$ctl rm -f survivor
$ctl ps -a
ls "$AIOS_STATE_DIR/agents"
$ctl daemon stop --domains`
		r := in.hostSh(t, "export platform="+in.platform+"; unshare -m bash -c '"+strings.ReplaceAll(script, "'", `'\''`)+"'")
		if r.status == 77 {
			t.Skipf("mounting is not permitted: %s", r)
		}
		lines := strings.Split(string(r.stdout), "\n")
		want := []string{"fits", "status 125", "status 125", "status 125", "1", "lives", "fits again", "tick"}
		for i, w := range want {
			if i >= len(lines) || lines[i] != w {
				t.Fatalf("line %d is not %q: %s", i, w, r)
			}
		}
		if rest := strings.Join(lines[len(want):], "\n"); !strings.HasPrefix(rest, "ID ") || strings.Count(rest, "\n") != 1 {
			t.Errorf("left: %q", rest)
		}
		if n := strings.Count(string(r.stderr), "no space left on device"); n < 3 || !strings.Contains(string(r.stderr), "fix: free space") {
			t.Errorf("the errors do not say what to do: %s", r.stderr)
		}
	})
}

// made is when a file was made that nobody writes to.
func made(t *testing.T, path string) time.Time {
	t.Helper()
	st, err := os.Stat(path)
	must(t, err)
	return st.ModTime()
}
