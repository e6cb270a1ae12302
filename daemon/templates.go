package daemon

import (
	"context"
	"slices"
	"sort"
	"strings"
	"time"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/lifecycle"
)

// A template is an agent of its domain whose record says so. Its kernel process
// makes it one, and keeps it while this daemon is away.

// templatesService serves the API's service Templates.
type templatesService struct {
	apiv1.UnimplementedTemplatesServer
	d *System
}

// removeTimeout is how long the end of a template that did not come to be is waited
// for.
const removeTimeout = 10 * time.Second

// isTemplate reports whether the agent is a template, or becomes one.
func (r *record) isTemplate() bool { return r.spec().GetTemplate() != nil }

// template returns the template of an ID or a name.
func (d *System) template(ref string) (*record, error) {
	r, err := d.find(ref)
	if errdefs.CodeOf(err) == errdefs.AgentNotFound {
		return nil, errdefs.New(errdefs.TemplateNotFound, "no template has that ID or name", errdefs.Resource("%q", ref), errdefs.Fix("`aiosctl template ls` lists the templates"))
	}
	if err == nil && (!r.isTemplate() || r.final()) {
		return nil, errdefs.New(errdefs.TemplateNotFound, "that is an agent", errdefs.Resource("%q", ref),
			errdefs.Fix("make a template of it with `aiosctl template create --agent %s NAME`", ref))
	}
	return r, err
}

// templateDomain returns the domain of the template that an agent of a domain begins
// from.
func (d *System) templateDomain(req *apiv1.SpawnRequest, name string) (*domain, error) {
	t, err := d.template(req.GetFrom())
	if err != nil {
		return nil, err
	}
	if t.domName != name {
		return nil, errdefs.New(errdefs.WrongState, "the template is in domain "+t.domName+", the agent is not", errdefs.Op("spawn agent"),
			errdefs.Resource("%s", t.label()), errdefs.Fix("spawn the agent anew"))
	}
	return t.running()
}

// takeAfter completes a request for an agent that begins from a template, and returns
// the domain that it will be in.
func (d *System) takeAfter(req *apiv1.SpawnRequest) (string, error) {
	t, err := d.template(req.GetFrom())
	if err != nil {
		return "", err
	}
	if n := req.GetDomain(); n != "" && n != t.domName {
		return "", errdefs.New(errdefs.InvalidArgument, "the template is in domain "+t.domName, errdefs.Op("spawn agent"),
			errdefs.Resource("%s", t.label()), errdefs.Fix("leave --domain out"))
	}
	req.Image, req.TimeZone = t.spec().GetImage(), t.spec().GetTimeZone()
	return t.domName, nil
}

// checkTemplate refuses what makes no sense of a template, and of an agent that
// begins from one.
func checkTemplate(req *apiv1.SpawnRequest) error {
	bad := func(detail, fix string) error {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("spawn agent"), errdefs.Fix("%s", fix))
	}
	p := req.GetProcess()
	if req.GetFrom() != "" {
		switch {
		case req.GetTemplate() != nil:
			return bad("a template cannot begin from a template", "begin an agent from it, and make a template of that agent")
		case req.GetIsolated():
			return bad("an agent that begins from a template is in its domain", "create the template with --isolated")
		case p.GetTty():
			return bad("an agent that begins from a template has no terminal", "leave -t out")
		case req.GetImage() != "" || req.GetTimeZone() != "" || p.GetUser() != "" || req.GetOwnClock() != nil || len(req.GetSeccomp()) > 0:
			return bad("image, user, time zone, clock and seccomp profile are the template's", "give them to `aiosctl template create`")
		}
		return nil
	}
	t := req.GetTemplate()
	if t == nil {
		return nil
	}
	if n := time.Duration(t.GetTimeoutNanos()); n != 0 && (n < abi.MinWarmUp || n > abi.MaxWarmUp) {
		return errdefs.New(errdefs.InvalidArgument, "a template cannot have "+n.String()+" to become warm", errdefs.Op("spawn agent"),
			errdefs.Fix("give a time from %v to %v", abi.MinWarmUp, abi.MaxWarmUp))
	}
	if err := checkAhead(t); err != nil {
		return err
	}
	switch {
	case req.GetName() == "":
		return bad("a template needs a name", "say how it is to be called")
	case p.GetTty():
		return bad("a template has no terminal", "leave -t out")
	case req.GetRestart() != nil && req.GetRestart().GetWhen() != restartNo:
		return bad("a template is not started again", "give --restart to the agents that begin from it")
	case len(t.GetOutput()) > maxReady:
		return bad("the text that says that the template is warm is too long", "give a part of it")
	}
	return nil
}

// checkAhead refuses more copies ahead than there can be.
func checkAhead(t *apiv1.TemplatePolicy) error {
	if n := t.GetAhead(); n > abi.MaxAhead {
		return errdefs.Newf(errdefs.InvalidArgument, "a template cannot have %d copies ready; the most is %d", n, abi.MaxAhead)
	}
	return nil
}

// ahead is how many copies of a template are to be ready.
func ahead(t *apiv1.TemplatePolicy) int {
	if t.Ahead == nil {
		return abi.DefaultAhead
	}
	return int(t.GetAhead())
}

// maxReady bounds the text that says that a program is warm, in bytes.
const maxReady = 1 << 10

// warmUp is what the kernel process is told of a template.
func warmUp(t *apiv1.TemplatePolicy) *control.WarmUp {
	if t == nil {
		return nil
	}
	w := &control.WarmUp{Output: t.GetOutput(), Timeout: time.Duration(t.GetTimeoutNanos()), Ahead: ahead(t)}
	if w.Timeout == 0 {
		w.Timeout = abi.DefaultWarmUp
	}
	return w
}

// TemplateCreate implements the RPC.
func (s *templatesService) TemplateCreate(ctx context.Context, req *apiv1.TemplateCreateRequest) (*apiv1.TemplateCreateResponse, error) {
	if (req.GetSpec() == nil) == (req.GetAgent() == "") {
		return nil, errdefs.New(errdefs.InvalidArgument, "a template is made of a program or of an agent", errdefs.Op("template"),
			errdefs.Fix("give a command after --, or --agent"))
	}
	var r *record
	var resp apiv1.TemplateCreateResponse
	var err error
	if req.GetSpec() != nil {
		r, err = s.warm(ctx, req, &resp)
	} else {
		r, err = s.copied(ctx, req, &resp)
	}
	if err != nil {
		return nil, err
	}
	who := actor(ctx)
	s.d.record(audit.Entry{
		Op: "template", Domain: r.domName, Actor: who.Name, Agent: r.id, Target: r.name,
		Reason: strings.TrimSpace(req.GetAgent() + " " + strings.Join(r.spec().GetProcess().GetArgv(), " ")), Correlation: who.Correlation,
	})
	list, err := s.TemplateList(ctx, &apiv1.TemplateListRequest{Template: r.id})
	if err != nil {
		return nil, err
	}
	resp.Template = list.GetTemplates()[0]
	return &resp, nil
}

// warm spawns an agent and waits until it is warm.
func (s *templatesService) warm(ctx context.Context, req *apiv1.TemplateCreateRequest, resp *apiv1.TemplateCreateResponse) (*record, error) {
	spec := cloneSpec(req.GetSpec())
	spec.Name, spec.Remove = req.GetName(), true
	if spec.Template == nil {
		spec.Template = &apiv1.TemplatePolicy{}
	}
	if spec.Process == nil {
		spec.Process = &apiv1.Process{}
	}
	spec.Process.Stdin = true // Nobody writes to it; copies have one of their own.
	r, warnings, err := s.d.spawn(ctx, spec, nil)
	if err != nil {
		return nil, err
	}
	r.hear() // So that it is forgotten as soon as it ends.
	resp.Warnings = warnings
	var warm control.WarmReply
	dom, err := r.running()
	if err == nil {
		err = dom.call(ctx, control.MethodWarm, control.AgentRequest{ID: r.id}, &warm)
	}
	if c := errdefs.CodeOf(err); c == errdefs.AgentNotRunning || c == errdefs.AgentNotFound {
		<-r.settled // It has ended before it was asked about.
		r.mu.Lock()
		if r.notWarm != nil {
			err = r.notWarm
		}
		r.mu.Unlock()
	}
	if err != nil {
		drop, cancel := background(removeTimeout)
		defer cancel()
		if _, rerr := s.d.Remove(drop, &apiv1.RemoveRequest{Agent: r.id, Force: true}); rerr != nil && errdefs.CodeOf(rerr) != errdefs.AgentNotFound {
			s.d.log.Warn("ending a template that did not become one", "agent", r.id, "err", rerr)
		}
		return nil, errdefs.Wrap(err, errdefs.TemplateNotReady, "template", errdefs.Resource("%s", r.name))
	}
	resp.WarmNanos = int64(warm.Took)
	return r, nil
}

// askWhyNotWarm asks the kernel process about a template that has ended, before that
// forgets it.
func (d *System) askWhyNotWarm(dom *domain, r *record) {
	if !r.isTemplate() {
		return
	}
	ctx, cancel := background(removeTimeout)
	defer cancel()
	err := dom.call(ctx, control.MethodWarm, control.AgentRequest{ID: r.id}, nil)
	if errdefs.CodeOf(err) == errdefs.WrongState {
		return // It was a copy of an agent.
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notWarm = err
}

// copied makes a template of a copy of an agent.
func (s *templatesService) copied(ctx context.Context, req *apiv1.TemplateCreateRequest, resp *apiv1.TemplateCreateResponse) (*record, error) {
	if req.GetName() == "" {
		return nil, errdefs.New(errdefs.InvalidArgument, "a template needs a name", errdefs.Op("template"))
	}
	policy := &apiv1.TemplatePolicy{Ahead: req.Ahead}
	if err := checkAhead(policy); err != nil {
		return nil, err
	}
	of, dom, err := s.d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	copies, err := s.d.copiesOf(ctx, of, req.GetName(), 1, func(spec *apiv1.SpawnRequest) {
		spec.Template, spec.Remove = policy, true
	})
	if err != nil {
		return nil, err
	}
	reply, err := s.d.clone(ctx, of, dom, copies, cloning{
		op: lifecycle.Clone, method: control.MethodClone, reason: "a template",
	})
	if err != nil {
		s.d.disown(copies[0])
		return nil, err
	}
	resp.WarmNanos = int64(reply.Ready)
	copies[0].hear()
	return copies[0], nil
}

// TemplateList implements the RPC.
func (s *templatesService) TemplateList(ctx context.Context, req *apiv1.TemplateListRequest) (*apiv1.TemplateListResponse, error) {
	only := ""
	if ref := req.GetTemplate(); ref != "" {
		r, err := s.d.template(ref)
		if err != nil {
			return nil, err
		}
		only = r.id
	}
	all, err := s.d.List(ctx, &apiv1.ListRequest{All: true})
	if err != nil {
		return nil, err
	}
	resp := &apiv1.TemplateListResponse{}
	for _, a := range all.GetAgents() {
		r, err := s.d.find(a.GetId())
		if err != nil || !r.isTemplate() || abi.State(a.GetState()).Final() || only != "" && only != r.id {
			continue
		}
		t := &apiv1.Template{
			Id: r.id, Name: r.name, Domain: r.domName, State: "warming", Image: a.GetImage(), Argv: a.GetArgv(), CreatedUnixNano: a.GetCreatedUnixNano(),
			Processes: a.GetProcesses(), MemoryBytes: a.GetMemoryBytes(), ClonedFrom: r.from, Labels: a.GetLabels(),
		}
		if a.GetState() == string(abi.StateTemplate) {
			t.State, t.AheadWanted = "ready", uint32(ahead(r.spec().GetTemplate()))
			t.Ahead = aheadOf(ctx, r)
		}
		for _, other := range all.GetAgents() {
			if from := other.GetTemplate(); from != "" && (from == r.id || from == r.name) && !abi.State(other.GetState()).Final() {
				t.Agents++
			}
		}
		resp.Templates = append(resp.Templates, t)
	}
	if only != "" && len(resp.Templates) == 0 {
		return nil, errdefs.New(errdefs.TemplateNotFound, "it has just ended", errdefs.Resource("%s", req.GetTemplate()))
	}
	sort.Slice(resp.Templates, func(i, j int) bool { return resp.Templates[i].GetName() < resp.Templates[j].GetName() })
	return resp, nil
}

// aheadOf asks how many copies of a template are ready. One that has just ended has none.
func aheadOf(ctx context.Context, r *record) uint32 {
	dom, err := r.running()
	if err != nil {
		return 0
	}
	var st control.AgentStatus
	if err := dom.call(ctx, control.MethodInspect, control.AgentRequest{ID: r.id}, &st); err != nil {
		return 0
	}
	return st.Ahead
}

// TemplateRemove implements the RPC.
func (s *templatesService) TemplateRemove(ctx context.Context, req *apiv1.TemplateRemoveRequest) (*apiv1.TemplateRemoveResponse, error) {
	r, err := s.d.template(req.GetTemplate())
	if err != nil {
		return nil, err
	}
	_, err = s.d.Remove(ctx, &apiv1.RemoveRequest{Agent: r.id, Force: true})
	return &apiv1.TemplateRemoveResponse{}, err
}

// argvFrom is how the command of an agent that begins from a template is shown.
func argvFrom(spec *apiv1.SpawnRequest) []string {
	args := spec.GetProcess().GetArgv()
	if spec.GetFrom() == "" {
		return args
	}
	return slices.Concat([]string{"--from", spec.GetFrom()}, args)
}

// fromOf is what the audit trail says of where an agent comes from.
func fromOf(spec *apiv1.SpawnRequest) string {
	if spec.GetFrom() == "" {
		return ""
	}
	return "from " + spec.GetFrom() + " "
}

// fromTemplate completes a request to the kernel process for an agent that begins from
// a template, and returns the digest of that one's image.
func (dom *domain) fromTemplate(k control.SpawnRequest, req *apiv1.SpawnRequest) (control.SpawnRequest, string, error) {
	t, err := dom.d.template(req.GetFrom())
	if err != nil {
		return k, "", err
	}
	p := req.GetProcess()
	k.From = t.id
	k.Process = control.Process{Argv: p.GetArgv(), Env: p.GetEnv(), Cwd: p.GetCwd(), Stdin: p.GetStdin()}
	t.mu.Lock()
	defer t.mu.Unlock()
	return k, t.digest, nil
}

// restartsFrom is what an agent is started again from.
func restartsFrom(spec *apiv1.SpawnRequest) string {
	if spec.GetFrom() != "" {
		return "template"
	}
	return "definition"
}
