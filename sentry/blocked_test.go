package sentry

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	gvsync "gvisor.dev/gvisor/pkg/sync"

	"aios.dev/aios/control"
)

// blockedImage makes the image "blocked" known, once: its programs are
// testdata/blocked.c, testdata/backlog.c and testdata/stops.c.
var blockedImage = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "aios-blocked")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "blocked", func(root string) error {
		for _, d := range []string{"bin", "proc", "sys", "dev", "tmp"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		for _, name := range []string{"blocked", "backlog", "stops"} {
			out, err := exec.Command("gcc", "-O1", "-static", "-pthread", "-o", filepath.Join(root, "bin", name), "testdata/"+name+".c").CombinedOutput()
			if err != nil {
				return fmt.Errorf("gcc: %w: %s", err, out)
			}
		}
		return nil
	})
})

// wasBlocked is what the program says when each of its calls has waited and gone on.
const wasBlocked = "read: 1\npoll: 1\nepoll_wait: 1\nepoll_pwait: 1\nppoll: 1\nselect: 1\npselect: 1\nreadv: 1\nnanosleep: 0\nclock_nanosleep: 0\n" +
	"poll with time: 0\nepoll_wait with time: 0\nepoll_pwait with time: 0\nepoll_pwait2 with time: 0\nsigtimedwait: -11\nsemop: 0\nmsgrcv: 1\nflock: 0\nfcntl: 0\nopen: 1\nfutex: 0\nfutex with time: -110\nsigsuspend: -4\npause: -4\nwaitpid: 7\nalarms: 0\nover\n"

// andAlarm is what it says besides if it set a timer.
var andAlarm = strings.Replace(wasBlocked, "alarms: 0", "alarms: 1", 1)

func needBlocked(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("it needs gcc")
	}
	if err := blockedImage(); err != nil {
		t.Fatal(err)
	}
}

func inBlocked(r *control.SpawnRequest) { r.Root.Base = "blocked" }

// Neither an agent that is copied nor its copy notices it by its calls.
func TestCloneOfWhoWaits(t *testing.T) {
	t.Parallel()
	needBlocked(t)
	s := spawn(t, []string{"/bin/blocked"}, inBlocked)
	s.expect("ready\n")
	c := s.clone(1)[0]
	if e := c.wait(); e.Code != 0 || c.logged() != wasBlocked {
		t.Errorf("the copy says %q, and ended with %+v", c.logged(), e)
	}
	if out, _, e := s.output(); out != wasBlocked || e.Code != 0 {
		t.Errorf("the original says %q, and ended with %+v", out, e)
	}
}

// Connections that wait to be accepted are accepted in each, with what their clients
// have sent.
func TestCloneOfABacklog(t *testing.T) {
	if gvsync.RaceEnabled {
		t.Skip("under the race detector gVisor lets nobody but a task make its sockets")
	}
	needBlocked(t)
	for _, argv := range [][]string{{"/bin/backlog"}, {"/bin/backlog", "6"}} {
		s := spawn(t, argv, inBlocked)
		s.expect("ready\n")
		c := s.clone(1)[0]
		d := c.clone(1)[0]
		for _, x := range []*spawned{d, s, c} {
			x.signal(int32(linux.SIGUSR1))
		}
		for _, x := range []*spawned{c, d} {
			if e := x.wait(); e.Code != 0 || x.logged() != "seen 31\n" {
				t.Errorf("%q: a copy says %q, and ended with %+v", argv, x.logged(), e)
			}
		}
		if out, _, e := s.output(); out != "seen 31\n" || e.Code != 0 {
			t.Errorf("%q: the original says %q, and ended with %+v", argv, out, e)
		}
	}
}

// A copy is not told again that a child of it has stopped, and can wait for a stop if its
// original could; also one that begins paused.
func TestCloneOfStops(t *testing.T) {
	t.Parallel()
	needBlocked(t)
	const says = "heard 0\na ffffffff\nb 137f, then ffffffff\nended 300 and 400\n"
	s := spawn(t, []string{"/bin/stops"}, inBlocked)
	s.expect("ready\n")
	c := s.clone(1)[0]
	paused := c.clone(1, func(r *control.CloneRequest) { r.Pause = true })[0]
	paused.resume()
	for _, x := range []*spawned{paused, s, c} {
		x.signal(int32(linux.SIGUSR1))
	}
	for _, x := range []*spawned{c, paused} {
		if e := x.wait(); e.Code != 0 || x.logged() != says {
			t.Errorf("a copy says %q, and ended with %+v", x.logged(), e)
		}
	}
	if out, _, e := s.output(); out != says || e.Code != 0 {
		t.Errorf("the original says %q, and ended with %+v", out, e)
	}
}

// Every copy of a template goes on in its calls as the first does.
func TestTemplateOfWhoWaits(t *testing.T) {
	t.Parallel()
	needBlocked(t)
	tpl := warm(t, []string{"/bin/blocked", "template"}, inBlocked)
	var all []*spawned
	for range 3 { // Each waits for a second.
		all = append(all, spawn(t, nil, from(tpl)))
	}
	for _, s := range all {
		if out, _, e := s.output(); out != andAlarm || e.Code != 0 {
			t.Errorf("%q, %+v", out, e)
		}
	}
}
