package daemon

import (
	"context"
	"fmt"
	"strings"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/lifecycle"
)

// maxLeaving is how many processes are named at most that leave an agent at once.
const maxLeaving = 1024

// Split implements the RPC.
func (d *System) Split(ctx context.Context, req *apiv1.SplitRequest) (*apiv1.SplitResponse, error) {
	switch n := len(req.GetPids()); {
	case n == 0:
		return nil, errdefs.New(errdefs.InvalidArgument, "no process is named", errdefs.Op("split"), errdefs.Fix("name some: --pid 7,8"))
	case n > maxLeaving:
		return nil, errdefs.Newf(errdefs.InvalidArgument, "%d processes are more than %d", n, maxLeaving)
	case req.GetShare() > 99:
		return nil, errdefs.Newf(errdefs.InvalidArgument, "%d percent is no share of a budget", req.GetShare()).
			With(errdefs.Op("split"), errdefs.Fix("give 1 to 99 percent; without --share it is half"))
	}
	how := cloning{
		op: lifecycle.Split, method: control.MethodSplit, pause: req.GetPause(),
		split: &control.Split{PIDs: req.GetPids(), Alone: req.GetAlone(), Share: req.GetShare()},
	}
	if req.GetNarrow() {
		var err error
		if how.only, err = keeping(req.GetKeep()); err != nil {
			return nil, err
		}
	}
	how.reason = leaves(how.split, how.only)
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	copies, err := d.copiesOf(ctx, r, req.GetName(), 1, nil)
	if err != nil {
		return nil, err
	}
	reply, err := d.clone(ctx, r, dom, copies, how)
	if err != nil {
		d.disown(copies[0])
		return nil, err
	}
	return &apiv1.SplitResponse{Agent: copies[0].proto(), PauseNanos: int64(reply.Pause), ReadyNanos: int64(reply.Ready)}, nil
}

// leaves says in a line what leaves an agent.
func leaves(split *control.Split, only *control.Specialize) string {
	var pids []string
	for _, p := range split.PIDs {
		pids = append(pids, fmt.Sprint(p))
	}
	text := "process " + strings.Join(pids, " ")
	if split.Share > 0 {
		text += fmt.Sprintf(", %d%% of the budget", split.Share)
	}
	if only != nil {
		text += ", " + keeps(only)
	}
	return text
}

// split has the bearer need what it takes to end a process of the agent, too.
func (a *asked) split(m *apiv1.SplitRequest) error {
	if err := a.may(token.OpPause, &m.Agent); err != nil {
		return err
	}
	return a.may(token.OpSignal, &m.Agent)
}
