package daemon

import (
	"context"
	"strings"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/lifecycle"
)

// Specialize implements the RPC.
func (d *System) Specialize(ctx context.Context, req *apiv1.SpecializeRequest) (*apiv1.SpecializeResponse, error) {
	only, err := keeping(req.GetKeep())
	if err != nil {
		return nil, err
	}
	only.CPU = req.GetCpu()
	if only.CPU != "" {
		spec, err := capability.ParseSpec(only.CPU)
		if err != nil {
			return nil, err
		}
		only.CPU = spec.String()
	}
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	copies, err := d.copiesOf(ctx, r, req.GetName(), 1, nil)
	if err != nil {
		return nil, err
	}
	c := copies[0]
	c.mu.Lock()
	c.special = true
	c.mu.Unlock()
	reply, err := d.clone(ctx, r, dom, copies, cloning{
		op: lifecycle.Specialize, method: control.MethodSpecialize, reason: keeps(only), pause: req.GetPause(), only: only,
	})
	if err != nil {
		d.disown(c)
		return nil, err
	}
	return &apiv1.SpecializeResponse{Copy: c.proto(), PauseNanos: int64(reply.Pause), ReadyNanos: int64(reply.Ready)}, nil
}

// keeping is that of the rest of its authority a copy is to have these grants, as
// they are written everywhere else.
func keeping(keep []string) (*control.Specialize, error) {
	only := &control.Specialize{}
	specs, err := parseGrants(keep)
	for i := range specs {
		only.Keep = append(only.Keep, specs[i].String())
	}
	return only, err
}

// keeps says in a line what a specialised copy has.
func keeps(only *control.Specialize) string {
	text := "keeps nothing but what every agent is made of"
	if len(only.Keep) > 0 {
		text = "keeps " + strings.Join(only.Keep, " ")
	}
	if only.CPU != "" {
		text += ", CPU time " + only.CPU
	}
	return text
}
