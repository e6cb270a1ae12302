package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"
)

func TestSurroundings(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		in.env = append(in.env, "E2E_SECRET=hidden", "E2E_PASSED=handed on", "EDITOR=x")
		equal := func(what, got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		// What a program finds when nothing was asked for.
		env := strings.Split(strings.TrimSpace(in.sh(t, "exec env")), "\n")
		sort.Strings(env)
		for _, e := range env {
			name, _, _ := strings.Cut(e, "=")
			switch name {
			case "HOME", "PATH", "LANG", "PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME":
			default:
				t.Errorf("the environment has %s", e)
			}
		}
		equal("HOME and PATH", in.sh(t, `echo "$HOME $PATH"`), "/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")
		equal("directory", in.sh(t, "pwd"), "/\n")
		equal("identity", in.sh(t, "id -u; id -g; echo $$; umask"), "0\n0\n1\n0022\n")
		if hostHas("python3") {
			equal("python3", in.sh(t, "command -v python3"), "/usr/bin/python3\n")
		}
		// What was asked for.
		equal("environment", in.sh(t, `echo "$A|$E2E_PASSED|$E2E_SECRET"`, "-e", "A=b=c d", "-e", "E2E_PASSED", "-e", "E2E_NOT_SET"), "b=c d|handed on|\n")
		equal("directory", in.sh(t, "pwd", "-w", "/usr/lib"), "/usr/lib\n")
		equal("host name", in.sh(t, "hostname; cat /proc/sys/kernel/hostname", "--hostname", "inner"), "inner\ninner\n")
		equal("host name by default", in.sh(t, "hostname", "--name", "called"), "called\n")
		equal("user", in.sh(t, "id -u; id -g; echo $HOME", "-u", "1234"), "1234\n1234\n/\n")
		equal("user and group", in.sh(t, "id -u; id -g", "-u", "1234:567"), "1234\n567\n")
		equal("user by name", in.sh(t, "id -un; id -u", "-u", "nobody"), "nobody\n65534\n")
		// Another user than root has no power over root's files.
		r := in.agent(t, "-u", "1234", "--", "sh", "-c", "touch /usr/bin/x || echo x > /etc/passwd || kill -9 1 || chown 0 /tmp || echo powerless")
		if !strings.Contains(string(r.stdout), "powerless") && r.status != 137 {
			t.Errorf("user 1234: %s", r)
		}
		if r := in.agent(t, "-u", "1234", "--", "sh", "-c", "cat /proc/self/status | grep Cap"); strings.Contains(string(r.stdout), "CapEff:\t0000000000000000") == false {
			t.Errorf("capabilities of user 1234: %s", r)
		}
	})
}

func TestMounts(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"from-host": []byte("from the host\n")})
		must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
		must(t, os.Symlink("/etc/shadow", filepath.Join(dir, "link")))
		outside := filepath.Join(in.dir, "outside")
		must(t, os.WriteFile(outside, []byte("outside\n"), 0o644))
		must(t, os.Symlink("../outside", filepath.Join(dir, "up")))

		got := in.sh(t, "cat /m/from-host; echo new > /m/made; echo more >> /m/from-host; mkdir /m/sub/d; mv /m/made /m/sub/d/moved; chmod 600 /m/sub/d/moved; ln -s moved /m/sub/d/l", "--mount", dir+":/m:rw")
		if got != "from the host\n" {
			t.Errorf("%q", got)
		}
		for file, want := range map[string]string{"from-host": "from the host\nmore\n", "sub/d/moved": "new\n", "sub/d/l": "new\n"} {
			raw, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil || string(raw) != want {
				t.Errorf("%s on the host: %q, %v", file, raw, err)
			}
		}
		if fi, err := os.Stat(filepath.Join(dir, "sub/d/moved")); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", fi, err)
		}
		for _, script := range []string{"touch /ro/new", "echo x > /ro/from-host", "rm /ro/from-host", "mkdir /ro/d", "mv /ro/from-host /ro/x", "chmod 777 /ro/from-host", "ln -s a /ro/l"} {
			r := in.agent(t, "--mount", dir+":/ro", "--", "sh", "-c", script)
			if r.status == 0 || !strings.Contains(string(r.stderr), "Read-only file system") && !strings.Contains(string(r.stderr), "Permission denied") {
				t.Errorf("%s: %s", script, r)
			}
		}
		// Links lead where they would in the agent, never out of it.
		if r := in.agent(t, "--mount", dir+":/m/deep", "--", "sh", "-c", "cat /m/deep/link /m/deep/up"); r.status == 0 || strings.Contains(string(r.stdout), "outside") || len(r.stdout) > 0 {
			t.Errorf("links: %s", r)
		}
		// What is written on the host shows inside, and the other way round, at once.
		c := in.startAgent(t, "--mount", dir+":/m:rw", "--", "sh", "-c", "echo ready; read x; cat /m/late; echo answer > /m/answer; read x")
		c.stdout.expect(t, "ready\n")
		must(t, os.WriteFile(filepath.Join(dir, "late"), []byte("written late\n"), 0o644))
		c.write("\n")
		c.stdout.expect(t, "written late\n")
		eventually(t, "the answer", patience, func() (bool, string) {
			raw, err := os.ReadFile(filepath.Join(dir, "answer"))
			return string(raw) == "answer\n", fmt.Sprint(string(raw), err)
		})
		c.write("\n")
		c.wait()
		// Also where it may only be read, by who has seen it and by who comes later.
		c = in.startAgent(t, "--mount", dir+":/m", "--", "sh", "-c", "ls /m; read x; ls /m; cat /m/fresh /m/late; read x")
		c.stdout.expect(t, "up\n")
		must(t, os.WriteFile(filepath.Join(dir, "fresh"), []byte("fresh\n"), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "late"), []byte("and longer than before\n"), 0o644))
		must(t, os.Remove(filepath.Join(dir, "answer")))
		const now = "fresh\nfrom-host\nlate\nlink\nsub\nup\nfresh\nand longer than before\n"
		c.write("\n")
		c.stdout.expect(t, now)
		if got := in.sh(t, "ls /m; cat /m/fresh /m/late", "--mount", dir+":/m"); got != now {
			t.Errorf("for who comes later: %q", got)
		}
		c.write("\n")
		c.wait()
		must(t, os.WriteFile(filepath.Join(dir, "late"), []byte("written late\n"), 0o644))
		// A relative source is meant from here.
		r := in.agent(t, "--mount", filepath.Base(dir)+":/m", "--", "cat", "/m/late")
		if string(r.stdout) != "written late\n" {
			t.Errorf("%s", r)
		}
	})
}

// TestAgentsAreApart puts two agents into one domain.
func TestAgentsAreApart(t *testing.T) {
	const server = `
import socket, sys, os, threading
def serve(family, address, name):
    s = socket.socket(family); s.bind(address); s.listen()
    def loop():
        while True:
            c, _ = s.accept(); c.sendall(name); c.close()
    threading.Thread(target=loop, daemon=True).start()
name = sys.argv[1].encode()
serve(socket.AF_INET, ("127.0.0.1", 8080), name)
serve(socket.AF_UNIX, "\0abstract", name)
serve(socket.AF_UNIX, "/tmp/socket", name)
open("/tmp/mine-" + sys.argv[1], "w").close()
print("ready", flush=True)
sys.stdin.readline()`
	const ask = `
import socket
for family, address in (socket.AF_INET, ("127.0.0.1", 8080)), (socket.AF_UNIX, "\0abstract"), (socket.AF_UNIX, "/tmp/socket"):
    s = socket.socket(family); s.settimeout(20); s.connect(address); print(s.recv(100).decode(), end=" ")
print()`
	onOne(t, func(t *testing.T, in *install) {
		need(t, "python3")
		agents := []string{"castor", "pollux"}
		for _, name := range agents {
			c := in.startAgent(t, "--grant", "net:loopback", "--name", name, "--", "python3", "-c", server, name)
			c.stdout.expect(t, "ready\n")
		}
		if d := in.domains(t); len(d) != 1 || d[0].Agents != 2 {
			t.Fatalf("%+v", d)
		}
		for i, name := range agents {
			other := agents[1-i]
			exec := func(argv ...string) string {
				t.Helper()
				r := in.run(t, append([]string{"exec", name, "--"}, argv...)...)
				return string(r.stdout) + string(r.stderr)
			}
			if got := exec("python3", "-c", ask); got != fmt.Sprintf("%[1]s %[1]s %[1]s \n", name) {
				t.Errorf("the servers of %s say %q", name, got)
			}
			if got := exec("hostname"); got != name+"\n" {
				t.Errorf("%q", got)
			}
			if got := exec("sh", "-c", "ls /tmp/mine-*"); got != "/tmp/mine-"+name+"\n" {
				t.Errorf("/tmp: %q", got)
			}
			if got := exec("sh", "-c", "cat /proc/[0-9]*/cmdline"); strings.Contains(got, other) || !strings.Contains(got, name) {
				t.Errorf("processes: %q", got)
			}
			if got := exec("sh", "-c", "ls /proc | grep -c '^[0-9]'"); len(got) > 2 {
				t.Errorf("%s processes", got)
			}
			if got := exec("sh", "-c", "cat /proc/mounts | grep -c "+other); !strings.HasPrefix(got, "0") {
				t.Errorf("mounts name the other: %s", got)
			}
		}
		// IPC: a queue of one is not the other's.
		a := in.sh(t, "python3 -c 'import ctypes; l = ctypes.CDLL(None); print(l.shmget(4711, 4096, 0o1666))'")
		if strings.TrimSpace(a) == "-1" {
			t.Errorf("shmget: %q", a)
		}
		got := in.sh(t, "python3 -c 'import ctypes; l = ctypes.CDLL(None); print(l.shmget(4711, 4096, 0o666))'")
		if strings.TrimSpace(got) != "-1" {
			t.Errorf("another agent's shared memory was found: %q", got)
		}
	})
}

func TestIsolated(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "a", "--isolated", "--", "sleep", "1000")
		in.spawn(t, "--name", "b", "--isolated", "--", "sleep", "1000")
		d := in.domains(t)
		if len(d) != 2 || !d[0].Isolated || d[0].PID == d[1].PID || d[0].Agents != 1 {
			t.Errorf("%+v", d)
		}
		in.ok(t, "kill", "a")
		in.run(t, "wait", "a")
		eventually(t, "the domain ends with its agent", 10*time.Second, func() (bool, string) {
			d := in.domains(t)
			return len(d) == 1, fmt.Sprint(d)
		})
		if r := in.agent(t, "--isolated", "--", "sh", "-c", "exit 3"); r.status != 3 {
			t.Errorf("%s", r)
		}
		if r := in.agent(t, "--isolated", "--", "nosuchprogram"); r.status != 127 {
			t.Errorf("%s", r)
		}
		in.ok(t, "rm", "-f", "b")
		eventually(t, "no domain is left", 10*time.Second, func() (bool, string) {
			d := in.domains(t)
			return len(d) == 0, fmt.Sprint(d)
		})
		if files, _ := filepath.Glob(filepath.Join(in.state, "domains", "only-*")); len(files) != 0 {
			t.Errorf("files of domains that are gone: %v", files)
		}
	})
}
