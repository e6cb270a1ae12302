package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// prints runs a program as an agent, fails the test unless it succeeds, and
// checks that each of want is in what it printed.
func (in *install) prints(t *testing.T, argv []string, want ...string) string {
	t.Helper()
	r := in.agent(t, append([]string{"--profile", "service", "-q", "--"}, argv...)...)
	if r.status != 0 {
		t.Errorf("%s: %s", argv[0], r)
		return ""
	}
	for _, w := range want {
		if !strings.Contains(string(r.stdout), w) {
			t.Errorf("%s: %q is missing: %s", argv[0], w, r)
		}
	}
	return string(r.stdout)
}

const pythonAtWork = `
import multiprocessing, os, sqlite3, subprocess, sys, tempfile, threading, asyncio, signal, json, mmap, select, socket

# Threads with a lock and a queue.
import queue
q, total, lock = queue.Queue(), 0, threading.Lock()
def work():
    global total
    while (n := q.get()) is not None:
        with lock: total += n
threads = [threading.Thread(target=work) for _ in range(8)]
for th in threads: th.start()
for n in range(2000): q.put(n)
for _ in threads: q.put(None)
for th in threads: th.join()
print("threads", total)

# Subprocesses: pipes, status, environment, a pipeline, a time-out.
out = subprocess.run(["sh", "-c", "cat; echo $X; exit 3"], input=b"in-", capture_output=True, env={"X": "env", "PATH": os.environ["PATH"]})
print("subprocess", out.stdout, out.returncode)
p1 = subprocess.Popen(["seq", "10000"], stdout=subprocess.PIPE)
p2 = subprocess.Popen(["wc", "-l"], stdin=p1.stdout, stdout=subprocess.PIPE)
p1.stdout.close()
print("pipeline", p2.communicate()[0].strip())
try: subprocess.run(["sleep", "100"], timeout=0.2)
except subprocess.TimeoutExpired: print("timeout ok")

# Processes with shared memory, semaphores and pipes.
def square(n): return n * n
if __name__ == "__main__":
    with multiprocessing.Pool(4) as pool: print("pool", sum(pool.map(square, range(200))))
    v = multiprocessing.Value("i", 0)
    def add():
        for _ in range(500):
            with v.get_lock(): v.value += 1
    ps = [multiprocessing.Process(target=add) for _ in range(4)]
    for p in ps: p.start()
    for p in ps: p.join()
    print("shared", v.value)

# A database on a file, with locks and a journal.
db = os.path.join(tempfile.mkdtemp(), "db")
c = sqlite3.connect(db)
c.execute("pragma journal_mode=wal")
c.execute("create table t (a integer primary key, b text)")
with c: c.executemany("insert into t(b) values (?)", ((str(i),) for i in range(5000)))
print("sqlite", c.execute("select count(*), sum(a - 1) from t").fetchone(), c.execute("pragma integrity_check").fetchone())

async def main():
    p = await asyncio.create_subprocess_exec("echo", "from asyncio", stdout=subprocess.PIPE)
    out, _ = await p.communicate()
    async def handle(r, w):
        w.write(await r.readline()); await w.drain(); w.close()
    s = await asyncio.start_server(handle, "127.0.0.1", 0)
    async def ask(i):
        r, w = await asyncio.open_connection(*s.sockets[0].getsockname())
        w.write(b"%d\n" % i); return int(await r.readline())
    return out, sum(await asyncio.gather(*(ask(i) for i in range(50))))
print("asyncio", asyncio.run(main()))
`

func TestPython(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"work.py": []byte(pythonAtWork)})
		r := in.agent(t, "--grant", "net:loopback", "--mount", dir+":/src", "--", "python3", "/src/work.py")
		want := []string{
			"threads 1999000", "subprocess b'in-env\\n' 3", "pipeline b'10000'", "timeout ok", "pool 2646700", "shared 2000",
			"sqlite (5000, 12497500) ('ok',)", "asyncio (b'from asyncio\\n', 1225)",
		}
		if got := strings.TrimSpace(string(r.stdout)); got != strings.Join(want, "\n") || r.status != 0 {
			t.Errorf("%s", r)
		}
	})
}

func TestNode(t *testing.T) {
	need(t, "node")
	const script = `
const http = require('http'), { execFileSync, spawn } = require('child_process'), fs = require('fs'), { Worker } = require('worker_threads');
console.log('child', execFileSync('sh', ['-c', 'echo out']).toString().trim());
fs.writeFileSync('/tmp/f', 'x'.repeat(1 << 20)); console.log('file', fs.statSync('/tmp/f').size);
const w = new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true });
w.on('message', m => console.log('worker', m));
w.on('exit', () => {
  const s = http.createServer((q, r) => r.end('served ' + q.url)).listen(8080, () => {
    http.get('http://127.0.0.1:8080/page', r => r.on('data', d => console.log(d.toString())).on('end', () => s.close()));
  });
});`
	onEach(t, func(t *testing.T, in *install) {
		in.prints(t, []string{"node", "-e", script}, "child out\n", "file 1048576\n", "worker 42\n", "served /page\n")
	})
}

func TestGit(t *testing.T) {
	need(t, "git")
	const script = `set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
mkdir /tmp/repo && cd /tmp/repo && git init -q -b main .
for i in $(seq 200); do echo $i > f$i; done
git add . && git commit -q -m first
git mv f1 moved && echo changed > f2 && git commit -q -a -m second
git checkout -q -b side HEAD~1 && echo side > f3 && git commit -q -a -m third && git checkout -q main && git merge -q -m merged side
cd /tmp && git clone -q repo copy && git clone -q --no-local repo packed
cd packed && git log --format=%s && cat moved f2 f3 && git fsck --strict && git gc -q && git status --short | wc -l`
	onEach(t, func(t *testing.T, in *install) {
		got := in.sh(t, script)
		if got != "merged\nthird\nsecond\nfirst\n1\nchanged\nside\n0\n" && got != "merged\nsecond\nthird\nfirst\n1\nchanged\nside\n0\n" {
			t.Errorf("%q", got)
		}
	})
}

func TestCompiler(t *testing.T) {
	need(t, "gcc")
	const program = `
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static long sum; static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static void *run(void *p) { for (long i = 0; i < 20000; i++) { pthread_mutex_lock(&m); sum += i; pthread_mutex_unlock(&m); } return p; }
int main(void) { pthread_t t[4]; for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, run, 0); for (int i = 0; i < 4; i++) pthread_join(t[i], 0); printf("sum %ld\n", sum); return 42; }
`
	onEach(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"p.c": []byte(program)})
		r := in.agent(t, "--mount", dir+":/src:rw", "-w", "/src", "--", "sh", "-c", "gcc -O2 -pthread -o p p.c && gcc -static -pthread -o s p.c && ./s; ./p")
		if r.status != 42 || string(r.stdout) != "sum 799960000\nsum 799960000\n" {
			t.Errorf("%s", r)
		}
		if fi, err := os.Stat(filepath.Join(dir, "p")); err != nil || fi.Mode()&0o111 == 0 {
			t.Errorf("what was compiled does not show on the host: %v %v", fi, err)
		}
	})
}

func TestRedis(t *testing.T) {
	need(t, "redis-server", "redis-cli", "redis-benchmark")
	const script = `set -e
redis-server --port 6379 --dir /tmp --appendonly yes --save '' --logfile /tmp/log --daemonize no & server=$!
for i in $(seq 200); do redis-cli ping >/dev/null 2>&1 && break; sleep 0.05; done
redis-cli set k v; redis-cli get k
redis-benchmark -q -n 2000 -c 20 -P 4 -t set,get,incr,lpush >/tmp/bench 2>&1 && tr '\r' '\n' < /tmp/bench | grep -c 'requests per second'
redis-cli get counter:__rand_int__ >/dev/null
redis-cli --eval /dev/null >/dev/null 2>&1 || true
redis-cli bgrewriteaof >/dev/null
redis-cli shutdown || true
wait $server && echo stopped
redis-server --port 6380 --dir /tmp --appendonly yes --save '' --logfile /tmp/log2 & server=$!
for i in $(seq 200); do redis-cli -p 6380 get k 2>/dev/null | grep -q v && break; sleep 0.05; done
redis-cli -p 6380 get k; kill $server; wait $server && echo stopped again`
	onEach(t, func(t *testing.T, in *install) {
		got := in.sh(t, script, "--grant", "net:loopback")
		if got != "OK\nv\n4\nstopped\nv\nstopped again\n" {
			t.Errorf("%q", got)
		}
	})
}

func TestNginx(t *testing.T) {
	need(t, "nginx", "python3")
	const config = `
daemon off; worker_processes 2; error_log /tmp/error.log; pid /tmp/nginx.pid;
events { worker_connections 128; }
http { access_log /tmp/access.log; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 127.0.0.1:8080; root /tmp/www; sendfile on; } }`
	const script = `set -e
mkdir /tmp/www && echo hello > /tmp/www/index.html && head -c 3000000 /dev/zero > /tmp/www/big
nginx -c /src/nginx.conf 2>/tmp/start & server=$!
python3 - <<'END'
import concurrent.futures, time, urllib.request
get = lambda path: urllib.request.urlopen("http://127.0.0.1:8080/" + path, timeout=20).read()
for _ in range(200):
    try: get(""); break
    except OSError: time.sleep(0.05)
print(get(""), len(get("big")))
with concurrent.futures.ThreadPoolExecutor(8) as pool: print(sum(len(x) for x in pool.map(get, ["index.html"] * 100)))
END
if command -v curl >/dev/null; then curl -s http://127.0.0.1:8080/ | grep -q hello; fi
kill -QUIT $server; wait $server; grep -c 'GET /index.html' /tmp/access.log`
	onEach(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"nginx.conf": []byte(config)})
		got := in.sh(t, script, "--grant", "net:loopback", "--mount", dir+":/src")
		if got != "b'hello\\n' 3000000\n600\n100\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestStress runs stress-ng's stressors, which check what they compute.
func TestStress(t *testing.T) {
	need(t, "stress-ng")
	onEach(t, func(t *testing.T, in *install) {
		for _, s := range [][]string{
			{"--cpu", "2", "--cpu-method", "all"}, {"--vm", "2", "--vm-bytes", "64M"}, {"--fork", "2"}, {"--pipe", "2"}, {"--futex", "2"},
		} {
			r := in.agent(t, append([]string{"--", "stress-ng", "--timeout", "1", "--metrics", "--verify", "--temp-path", "/tmp"}, s...)...)
			all := string(r.stdout) + string(r.stderr)
			if r.status != 0 || !strings.Contains(all, "successful run completed") {
				t.Errorf("%v: %s", s, r)
				continue
			}
			for _, line := range strings.Split(all, "\n") {
				if f := strings.Fields(line); len(f) > 8 && f[3] == strings.TrimPrefix(s[0], "--") && !strings.Contains(f[4], ".") {
					t.Logf("%s: %s operations, %s a second", f[3], f[4], f[8])
				}
			}
		}
	})
}

// TestStressInClasses runs stress-ng's stressors of the scheduler in agents of
// each class at once, beside each other.
func TestStressInClasses(t *testing.T) {
	need(t, "stress-ng")
	onEach(t, func(t *testing.T, in *install) {
		// One after the other, and longer where the host is slow: a stressor whose time
		// is up before it was started fails.
		stress := func(cpu string, seconds int) (result, bool) {
			r := in.agent(t, "--cpu", cpu, "--", "stress-ng", "--timeout", fmt.Sprint(seconds), "--verify", "--temp-path", "/tmp",
				"--cpu", "1", "--switch", "1", "--mutex", "1", "--schedpolicy", "1", "--yield", "1", "--nanosleep", "1")
			return r, r.status == 0 && strings.Contains(string(r.stdout)+string(r.stderr), "successful run completed")
		}
		for _, cpu := range []string{"weight=200", "class=idle,weight=50", "deadline=10ms/50ms", "quota=0.5,period=20ms", "cpus=0"} {
			r, good := stress(cpu, 2)
			for seconds := 6; !good && seconds < 60; seconds *= 3 {
				t.Logf("%s: %s", cpu, r)
				r, good = stress(cpu, seconds)
			}
			if !good {
				t.Errorf("%s: %s", cpu, r)
			}
		}
	})
}

// TestUtilities runs what scripts use.
func TestUtilities(t *testing.T) {
	const script = `set -e; cd /tmp
mkdir tree && for i in $(seq 50); do mkdir tree/d$i; echo $i > tree/d$i/f; done
tar cf t.tar tree && rm -r tree && tar xf t.tar && find tree -type f | wc -l
gzip -c t.tar | gunzip | cmp - t.tar && echo equal
ls tree | sort -V | tail -n 1; grep -rl 37 tree; cat tree/*/f | awk '{s += $1} END {print s}'; sed 's/3/x/g' tree/d33/f
mkfifo p; (echo through > p &) ; cat p; ln -s tree/d1/f l; readlink -f l; echo 'a b' | xargs -n 1 echo | wc -l
dd if=/dev/zero of=sparse bs=1 seek=1000000 count=1 2>/dev/null; stat -c %s sparse; touch -d 2001-02-03 old; date -r old +%Y
timeout 0.2 sleep 100 || echo timeout $?; (exec 9>lock; flock 9; flock -n lock true || echo locked)
nproc >/dev/null; df / >/dev/null; free >/dev/null; ps ax >/dev/null; top -b -n 1 >/dev/null; id -u`
	onEach(t, func(t *testing.T, in *install) {
		want := "50\nequal\nd50\ntree/d37/f\n1275\nxx\nthrough\n/tmp/tree/d1/f\n2\n1000001\n2001\ntimeout 124\nlocked\n0\n"
		if got := in.sh(t, script); got != want {
			t.Errorf("%q\nwant %q", got, want)
		}
	})
}

const systemV = `
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
class Buf(ctypes.Structure): _fields_ = [("num", ctypes.c_ushort), ("op", ctypes.c_short), ("flg", ctypes.c_short)]
def ok(n):
    assert n >= 0, os.strerror(ctypes.get_errno())
    return n
def op(n): ok(c.semop(sem, ctypes.byref(Buf(0, n, 0)), 1))
GETPID, GETVAL, SETVAL, RMID = 11, 12, 16, 0
sem = ok(c.semget(0, 1, 0o600))
ok(c.semctl(sem, 0, SETVAL, 1))
op(-1)
if (child := os.fork()) == 0:
    op(-1) # Waits.
    os._exit(7)
op(1)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "value", c.semctl(sem, 0, GETVAL), "last", c.semctl(sem, 0, GETPID) > 0)
ok(c.semctl(sem, 0, RMID))
shm = ok(c.shmget(0, 8192, 0o600))
c.shmat.restype = ctypes.c_void_p
at = c.shmat(shm, None, 0)
if (child := os.fork()) == 0:
    ctypes.memmove(at, b"shared", 6)
    os._exit(0)
os.waitpid(child, 0)
print(ctypes.string_at(at, 6))
ok(c.shmctl(shm, RMID, None))
q = ok(c.msgget(0, 0o600))
class Msg(ctypes.Structure): _fields_ = [("type", ctypes.c_long), ("text", ctypes.c_char * 8)]
ok(c.msgsnd(q, ctypes.byref(Msg(3, b"queued")), 8, 0))
m = Msg()
ok(c.msgrcv(q, ctypes.byref(m), 8, 3, 0))
print(m.text)
ok(c.msgctl(q, RMID, None))
`

// TestSystemV uses semaphores, shared memory and message queues of System V.
func TestSystemV(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		in.prints(t, []string{"python3", "-c", systemV}, "child 7 value 0 last", "b'shared'", "b'queued'")
	})
}
