package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

// beating returns a program that says what time it is, so often: so it can be seen
// when it goes on.
func beating(every time.Duration) []string {
	return []string{"/usr/bin/python3", "-c", fmt.Sprintf(`
import json, time
while True:
	print(time.time_ns(), flush=True)
	time.sleep(%g)`, every.Seconds())}
}

// beat is how often one says it that is alone.
const beat = time.Millisecond

// checkpoint measures how soon a saved program runs again in a process that begins
// with the command, by what the program itself says; beside it, runsc does the same.
// And how long a domain stands still that is saved, and how soon agents run again
// from their checkpoint when their kernel process was killed.
func (h *harness) checkpoint() error {
	r, err := h.pythonRoot()
	if err != nil {
		return err
	}
	var contenders []contender
	if h.aios != nil {
		contenders = append(contenders, contender{aios, h.restoresOwn})
	}
	if p := h.peer(runsc); p != nil {
		contenders = append(contenders, contender{runsc, func(ctx context.Context) (map[string]float64, error) { return p.restores(ctx, r) }})
	}
	got := h.compare(max(8, h.rounds/2), contenders)
	for _, f := range []struct {
		key, label string
		goal       *goal
	}{
		{"command", "restore: python agent, from the start of the command to its next line", &goal{Than: map[string]float64{runsc: 2}}},
		{"request", "restore: python agent, from the request to its next line, the start of its process included", &goal{Limit: 60}},
		{"pause", "checkpoint: it stands still", nil},
		{"saved", "checkpoint: the whole command", nil},
	} {
		h.table.spread(f.label, "ms", got[f.key], f.goal, nil)
	}
	if h.aios == nil {
		return nil
	}
	if err := h.again(); err != nil {
		return err
	}
	for _, n := range []int{1, 20} {
		round := 0
		got := h.compare(max(5, h.rounds/4), []contender{{aios, func(ctx context.Context) (map[string]float64, error) {
			round++ // A domain of its own: its budget makes later restores wait.
			return h.crashSaved(ctx, fmt.Sprintf("saved-%d-%d", n, round), n)
		}}})
		h.table.spread(fmt.Sprintf("crash of a domain of %d python agents: to the last one's next line, from its checkpoint", n), "ms", got[elapsed], nil, &goal{Limit: 500})
	}
	return nil
}

// ballast is what the agent of again has in memory, in MB: nothing that can be
// compressed.
const ballast = 100

// again saves an agent with much memory twice, in the same directory, and measures what
// each time is written and for how long it stands still.
func (h *harness) again() error {
	var written, pause [2][]float64
	for range max(3, h.rounds/8) {
		err := func() error {
			const domain = "bench-again"
			defer h.discardDomain(h.ctx, domain)
			argv := beating(10 * beat)
			argv[2] = fmt.Sprintf("import os\nheld = os.urandom(%d << 20)\n", ballast) + argv[2]
			spec := h.aios.spec(pythonImage, argv...)
			spec.Domain, spec.Remove = domain, false
			got, err := h.aios.Spawn(h.ctx, spec)
			if err != nil {
				return err
			}
			if _, err := h.beatAfter(h.ctx, got.GetId(), 0); err != nil {
				return err
			}
			dir, err := os.MkdirTemp(h.dir, "again-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			known := make(map[string]bool)
			for i := range 2 {
				resp, err := h.aios.DomainCheckpoint(h.ctx, &apiv1.DomainCheckpointRequest{Name: domain, Dir: dir})
				if err != nil {
					return err
				}
				var bytes int64
				for _, p := range resp.GetCheckpoint().GetParts() {
					if !known[p.GetName()] {
						known[p.GetName()] = true
						bytes += p.GetBytes()
					}
				}
				written[i] = append(written[i], float64(bytes)/(1<<20))
				pause[i] = append(pause[i], float64(resp.GetCheckpoint().GetPauseNanos())/1e6)
				time.Sleep(calm)
			}
			return nil
		}()
		if err != nil {
			return err
		}
	}
	for i, which := range []string{"first", "second"} {
		label := fmt.Sprintf("checkpoint of an agent with %d MB, the %s in a directory: ", ballast, which)
		h.table.add(row{Figure: label + "written", Unit: "MiB", Values: ours(median(written[i])), Runs: len(written[i])})
		h.table.add(row{Figure: label + "it stands still", Unit: "ms", Values: ours(median(pause[i])), Runs: len(pause[i])})
	}
	return nil
}

// pythonImage is the image of the root with Python.
const pythonImage = "bench-python-root"

// pythonRoot makes a root with Python, and an image of it.
func (h *harness) pythonRoot() (*root, error) {
	r, err := newRoot(filepath.Join(h.dir, "python"))
	if err != nil {
		return nil, err
	}
	if err := installPython(h, r); err != nil {
		return nil, err
	}
	if h.aios != nil {
		err = h.aios.importRoot(h.ctx, pythonImage, r)
	}
	return r, err
}

// beater starts an agent that beats, and waits until it does.
func (h *harness) beater(ctx context.Context, domain string, every time.Duration) (string, error) {
	spec := h.aios.spec(pythonImage, beating(every)...)
	spec.Domain, spec.Remove = domain, false
	got, err := h.aios.Spawn(ctx, spec)
	if err != nil {
		return "", err
	}
	_, err = h.beatAfter(ctx, got.GetId(), 0)
	return got.GetId(), err
}

// beatAfter waits for the first line of the agent that is from after a time, and returns
// its time.
func (h *harness) beatAfter(ctx context.Context, id string, after int64) (int64, error) {
	return firstBeat(ctx, after, func() (*bufio.Scanner, func(), error) {
		text, err := output(ctx, exec.CommandContext(ctx, filepath.Join(h.bin, "aiosctl"), "--state-dir", h.aios.paths.StateDir, "logs", "--tail", "20000", id))
		return bufio.NewScanner(bytes.NewReader(text)), func() {}, err
	})
}

// firstBeat looks at what was said until there is a line from after a time.
func firstBeat(ctx context.Context, after int64, said func() (*bufio.Scanner, func(), error)) (int64, error) {
	for ctx.Err() == nil {
		lines, done, err := said()
		if err != nil {
			return 0, err
		}
		for lines.Scan() {
			if at, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil && at > after {
				done()
				return at, nil
			}
		}
		done()
		time.Sleep(20 * time.Millisecond)
	}
	return 0, ctx.Err()
}

// discardDomain ends a domain and removes its agents.
func (h *harness) discardDomain(ctx context.Context, domain string) {
	h.aios.DomainStop(ctx, &apiv1.DomainStopRequest{Name: domain, Force: true})
	list, err := h.aios.List(ctx, &apiv1.ListRequest{All: true, Domain: domain})
	for _, a := range list.GetAgents() {
		if err == nil {
			_, err = h.aios.Remove(ctx, &apiv1.RemoveRequest{Agent: a.GetId(), Force: true})
		}
	}
}

// restoresOwn has an agent of AIOS saved and go on, twice: asked for by the command,
// and by a client that is connected.
func (h *harness) restoresOwn(ctx context.Context) (map[string]float64, error) {
	const domain = "bench-saved"
	defer h.discardDomain(ctx, domain)
	id, err := h.beater(ctx, domain, beat)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	began := time.Now()
	ctl := func(args ...string) error {
		args = append([]string{"--state-dir", h.aios.paths.StateDir}, args...)
		_, err := output(ctx, exec.CommandContext(ctx, filepath.Join(h.bin, "aiosctl"), args...))
		return err
	}
	if err := ctl("domain", "hibernate", domain); err != nil {
		return nil, err
	}
	out["saved"] = milliseconds(time.Since(began))
	time.Sleep(calm)
	began = time.Now()
	if err := ctl("domain", "restore", domain); err != nil {
		return nil, err
	}
	at, err := h.beatAfter(ctx, id, began.UnixNano())
	if err != nil {
		return nil, err
	}
	out["command"] = float64(at-began.UnixNano()) / 1e6
	saved, err := h.aios.DomainCheckpoint(ctx, &apiv1.DomainCheckpointRequest{Name: domain, Stop: true})
	if err != nil {
		return nil, err
	}
	out["pause"] = float64(saved.GetCheckpoint().GetPauseNanos()) / 1e6
	time.Sleep(calm)
	began = time.Now()
	if _, err := h.aios.DomainRestore(ctx, &apiv1.DomainRestoreRequest{Name: domain}); err != nil {
		return nil, err
	}
	if at, err = h.beatAfter(ctx, id, began.UnixNano()); err != nil {
		return nil, err
	}
	out["request"] = float64(at-began.UnixNano()) / 1e6
	return out, nil
}

// restores does the same with a peer's commands.
func (p *peer) restores(ctx context.Context, r *root) (map[string]float64, error) {
	bundle, err := p.bundle(box{root: r, argv: beating(beat), group: "-saved"})
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("bench-saved-%d-%d", os.Getpid(), p.serial.Add(1))
	image := filepath.Join(p.h.dir, id)
	if err := os.Mkdir(image, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(image)
	log, err := os.OpenFile(filepath.Join(image, "out"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := func(args ...string) error {
		cmd := exec.CommandContext(ctx, p.path, append(slices.Clone(p.before), args...)...)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%s: %w: %s", args[0], err, said[max(0, len(said)-200):])
		}
		return nil
	}
	defer command("delete", "--force", id)
	defer command("delete", "--force", id+"r")
	next := func(after int64) (int64, error) {
		return firstBeat(ctx, after, func() (*bufio.Scanner, func(), error) {
			f, err := os.Open(log.Name())
			if err != nil {
				return nil, nil, err
			}
			return bufio.NewScanner(f), func() { f.Close() }, nil
		})
	}
	if err := command("run", "--detach", "--bundle", bundle, id); err != nil {
		return nil, err
	}
	if _, err := next(0); err != nil {
		return nil, err
	}
	out := map[string]float64{}
	began := time.Now()
	if err := command("checkpoint", "--image-path", image, id); err != nil {
		return nil, err
	}
	out["saved"] = milliseconds(time.Since(began))
	time.Sleep(calm)
	began = time.Now()
	if err := command("restore", "--detach", "--image-path", image, "--bundle", bundle, id+"r"); err != nil {
		return nil, err
	}
	at, err := next(began.UnixNano())
	if err != nil {
		return nil, err
	}
	out["command"] = float64(at-began.UnixNano()) / 1e6
	return out, nil
}

// crashSaved kills a kernel process with so many agents, which is saved from time to
// time.
func (h *harness) crashSaved(ctx context.Context, domain string, agents int) (map[string]float64, error) {
	defer h.discardDomain(ctx, domain)
	var ids []string
	for range agents {
		id, err := h.beater(ctx, domain, beat*time.Duration(agents))
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	every := int64(time.Hour)
	if _, err := h.aios.DomainCheckpoint(ctx, &apiv1.DomainCheckpointRequest{Name: domain, EveryNanos: &every}); err != nil {
		return nil, err
	}
	domains, err := h.aios.DomainList(ctx, &apiv1.DomainListRequest{})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(domains.GetDomains(), func(d *apiv1.Domain) bool { return d.GetName() == domain })
	if i < 0 {
		return nil, fmt.Errorf("no domain %s", domain)
	}
	time.Sleep(calm)
	if err := syscall.Kill(int(domains.Domains[i].GetPid()), syscall.SIGKILL); err != nil {
		return nil, err
	}
	began := time.Now().UnixNano() // What was said before that is of the old process.
	var last int64
	for _, id := range ids {
		at, err := h.beatAfter(ctx, id, began+int64(time.Millisecond))
		if err != nil {
			return nil, err
		}
		last = max(last, at)
	}
	return map[string]float64{elapsed: float64(last-began) / 1e6}, nil
}
