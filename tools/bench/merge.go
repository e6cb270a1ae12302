package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	apiv1 "aios.dev/aios/api/v1"
)

// mergedFiles is how many files the copy has changed, and mergedDirs in how many
// directories they are.
const (
	mergedFiles = 1000
	mergedDirs  = 20
)

// writeFiles has a shell make the files anew, of 4 KiB each, with a mark in every one.
func writeFiles(dir, mark string) string {
	return fmt.Sprintf(`mkdir -p %[1]s; cd %[1]s; i=0
block=$(printf '%%4080s' '')
while [ $i -lt %[2]d ]; do
	d=d$((i %% %[3]d)); [ -d $d ] || mkdir $d
	printf '%%s%%s %%d\n' "$block" %[4]s $i >$d/f$i
	i=$((i+1))
done`, dir, mergedFiles, mergedDirs, mark)
}

// merge measures how long it takes to fold a copy back into its original which has
// changed 1,000 files, while the original has changed another. Beside it, git merges
// two such branches on the host, which is a three-way merge of the same files, too;
// and `cp -a` only writes them, and knows of no conflicts.
func (h *harness) merge() error {
	const git, cp = "git", "cp"
	var pause []float64
	contenders := []contender{}
	if h.aios != nil {
		contenders = append(contenders, contender{aios, func(ctx context.Context) (map[string]float64, error) {
			whole, still, err := h.mergeOnce(ctx)
			pause = append(pause, still)
			return map[string]float64{elapsed: whole}, err
		}})
	}
	for _, c := range []struct {
		name    string
		prepare string
		again   string
		argv    []string
	}{
		{git, `set -e; git init -q -b ours .; git config user.name bench; git config user.email bench@localhost
` + writeFiles("files", "base") + `
cd ..; git add .; git commit -qm base; git checkout -qb theirs
` + writeFiles("files", "theirs") + `
cd ..; git commit -qam theirs; git checkout -q ours; echo ours >note; git add note; git commit -qm ours; git tag before`,
			"git reset -q --hard before", []string{"git", "merge", "-q", "--no-edit", "theirs"}},
		{cp, "(" + writeFiles("ours", "base") + "); " + writeFiles("theirs", "theirs"), "true", []string{"cp", "-a", "theirs/.", "ours"}},
	} {
		if _, err := exec.LookPath(c.argv[0]); err != nil {
			h.table.note("%s left out: %v", c.name, err)
			continue
		}
		dir := filepath.Join(h.dir, "merge-"+c.name)
		shell := func(ctx context.Context, script string) error {
			cmd := exec.CommandContext(ctx, "sh", "-c", script)
			cmd.Dir = dir
			_, err := output(ctx, cmd)
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := shell(h.ctx, c.prepare); err != nil {
			h.table.note("%s left out: %v", c.name, err)
			continue
		}
		once := timed(c.name, func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
			cmd.Dir = dir
			_, err := output(ctx, cmd)
			return err
		})
		contenders = append(contenders, contender{c.name, func(ctx context.Context) (map[string]float64, error) {
			if err := shell(ctx, c.again); err != nil {
				return nil, err
			}
			return once.run(ctx)
		}})
	}
	got := h.compare(max(5, h.rounds/4), contenders)[elapsed]
	if own := got[aios]; len(own) > 0 {
		h.table.add(row{Figure: "merge: 1,000 changed files, the request", Unit: "ms", Runs: len(own),
			Values: ours(percentile(own, 50)), P99: ours(percentile(own, 99)), Goal: &goal{Limit: 100}})
		h.table.add(row{Figure: "merge: of it both stand still", Unit: "ms", Runs: len(pause),
			Values: ours(percentile(pause, 50)), P99: ours(percentile(pause, 99))})
	}
	for _, name := range []string{git, cp} {
		if other := got[name]; len(other) > 0 && len(got[aios]) > 0 {
			h.table.note("merge: %s on the host takes %s, p99 %s; %.2f times as long as AIOS", name, number(percentile(other, 50), "ms"),
				number(percentile(other, 99), "ms"), percentile(other, 50)/percentile(got[aios], 50))
		}
	}
	return nil
}

// mergeOnce makes an agent with files, has a copy of it change them, and merges that.
// It returns the milliseconds of the request, and for how many of them both stood still.
func (h *harness) mergeOnce(ctx context.Context) (whole, still float64, err error) {
	const name = "bench-merge"
	spec := h.aios.spec("", "sh", "-c", writeFiles("/work", "base")+"\necho ready; cat")
	spec.Limits = &apiv1.Limits{MemoryBytes: 1 << 30, Processes: 64}
	s, err := h.aios.converse(ctx, spec)
	if err != nil {
		return 0, 0, err
	}
	defer s.close()
	if line, ok, err := s.line(); err != nil || !ok || line != "ready" {
		return 0, 0, fmt.Errorf("it said %q: %v", line, err)
	}
	resp, err := h.aios.Clone(ctx, &apiv1.CloneRequest{Agent: s.id, Name: name})
	if err != nil {
		return 0, 0, err
	}
	id := resp.GetCopies()[0].GetId()
	defer h.aios.Remove(context.WithoutCancel(ctx), &apiv1.RemoveRequest{Agent: id, Force: true}) // It is gone, if all went well.
	if _, err := h.aios.cli(ctx, "exec", id, "sh", "-c", writeFiles("/work", "theirs")); err != nil {
		return 0, 0, err
	}
	if _, err := h.aios.cli(ctx, "exec", s.id, "sh", "-c", "echo ours >/work/note"); err != nil {
		return 0, 0, err
	}
	var merged *apiv1.MergeResponse
	took, err := timed(aios, func(ctx context.Context) error {
		merged, err = h.aios.Merge(ctx, &apiv1.MergeRequest{Agent: id})
		return err
	}).run(ctx)
	if err != nil {
		return 0, 0, err
	}
	if n := merged.GetChangeCount(); !merged.GetMerged() || n != mergedFiles {
		return 0, 0, fmt.Errorf("%d changes were merged, not %d", n, mergedFiles)
	}
	said, err := h.aios.cli(ctx, "exec", s.id, "tail", "-c", "11", "/work/d7/f7")
	if err == nil && strings.TrimSpace(string(said)) != "theirs 7" {
		err = fmt.Errorf("a merged file says %q", said)
	}
	return took[elapsed], float64(merged.GetPauseNanos()) / 1e6, err
}
