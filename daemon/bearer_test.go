package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// TestMethodTable has every method of the service be decided about: one that is
// new fails here until it is.
func TestMethodTable(t *testing.T) {
	seen := 0
	for _, file := range []protoreflect.FileDescriptor{apiv1.File_api_v1_control_proto, apiv1.File_api_v1_debug_proto, apiv1.File_api_v1_events_proto, apiv1.File_api_v1_kernel_proto, apiv1.File_api_v1_health_proto,
		apiv1.File_api_v1_config_proto, apiv1.File_api_v1_sinks_proto, apiv1.File_api_v1_hooks_proto, apiv1.File_api_v1_irq_proto, apiv1.File_api_v1_alerts_proto,
		apiv1.File_api_v1_cpus_proto, apiv1.File_api_v1_sched_proto, apiv1.File_api_v1_time_proto, apiv1.File_api_v1_fabric_proto, apiv1.File_api_v1_templates_proto, apiv1.File_api_v1_memory_proto, apiv1.File_api_v1_vm_proto} {
		service := file.Services().Get(0)
		for i := range service.Methods().Len() {
			m := service.Methods().Get(i)
			full := fmt.Sprintf("/%s/%s", service.FullName(), m.Name())
			rule, ok := methods[full]
			if !ok {
				t.Errorf("%s is not in the table of methods: say which operation it belongs to, and what else it takes", full)
				continue
			}
			seen++
			if !slices.ContainsFunc(token.Ops(), func(o token.Op) bool { return o.Name == rule.op }) {
				t.Errorf("%s belongs to %q, which is no operation", full, rule.op)
			}
			if rule.check == nil && rule.agent() {
				if f := m.Input().Fields().ByName("agent"); f == nil {
					t.Errorf("%s is about an agent, and %s has no field of that name", full, m.Input().Name())
				}
			}
			// What names an agent must be looked at.
			for _, field := range []protoreflect.Name{"agent", "capability", "to", "all_of"} {
				if m.Input().Fields().ByName(field) != nil && !rule.agent() && rule.op != token.OpAudit && rule.op != token.OpDaemon {
					t.Errorf("%s has a field %s, and %s is about no agent", full, field, rule.op)
				}
				if field != "agent" && m.Input().Fields().ByName(field) != nil && rule.check == nil && rule.op != token.OpAudit && rule.op != token.OpDaemon {
					t.Errorf("%s has a field %s, which nobody examines", full, field)
				}
			}
		}
	}
	if seen != len(methods) {
		t.Errorf("the table has %d methods, the services %d of them", len(methods), seen)
	}
}

func TestUnknownMethodsAreRefused(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	taken := methods[apiv1.Control_Version_FullMethodName]
	delete(methods, apiv1.Control_Version_FullMethodName)
	defer func() { methods[apiv1.Control_Version_FullMethodName] = taken }()
	_, err := b.bearing(t, b.issue(t, nil).Text()).Version(soon(t), &apiv1.VersionRequest{})
	if errdefs.CodeOf(err) != errdefs.Denied || b.last() != nil {
		t.Errorf("%v; the handler got %v", err, b.last())
	}
}

// TestOperations asks for everything with tokens of one operation each.
func TestOperations(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	mine := b.agent(t, "mine", nil)
	b.agent(t, "other", nil)
	attach := func(m *apiv1.AttachRequest) func(apiv1.ControlClient, context.Context) error {
		return func(c apiv1.ControlClient, ctx context.Context) error {
			s, err := c.Attach(ctx)
			if err != nil {
				return err
			}
			if err := s.Send(m); err != nil {
				return err
			}
			_, err = s.Recv()
			return err
		}
	}
	unary := func(f func(apiv1.ControlClient, context.Context) (proto.Message, error)) func(apiv1.ControlClient, context.Context) error {
		return func(c apiv1.ControlClient, ctx context.Context) error { _, err := f(c, ctx); return err }
	}
	spawn := &apiv1.SpawnRequest{Name: "mine2", Process: &apiv1.Process{Argv: []string{"x"}}}
	for name, tc := range map[string]struct {
		ops  string // that are needed, all of them
		call func(apiv1.ControlClient, context.Context) error
		get  string // the agent of the request that reached the handler
	}{
		"Version": {"daemon", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Version(x, &apiv1.VersionRequest{})
		}), ""},
		"Doctor": {"daemon", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Doctor(x, &apiv1.DoctorRequest{})
		}), ""},
		"Shutdown": {"daemon", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Shutdown(x, &apiv1.ShutdownRequest{})
		}), ""},
		"Shutdown all": {"daemon domain", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Shutdown(x, &apiv1.ShutdownRequest{StopDomains: true})
		}), ""},
		"Spawn": {"spawn", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) { return c.Spawn(x, spawn) }), ""},
		"run":   {"spawn attach", attach(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Spawn{Spawn: spawn}}), ""},
		"exec":  {"exec", attach(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Exec{Exec: &apiv1.ExecRequest{Agent: "mine"}}}), "id"},
		"Inspect": {"inspect", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Inspect(x, &apiv1.InspectRequest{Agent: "mine"})
		}), "id"},
		"Account": {"inspect", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Account(x, &apiv1.AccountRequest{Agent: "mine"})
		}), "id"},
		"CapExplain": {"inspect", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.CapExplain(x, &apiv1.CapExplainRequest{Agent: "mine"})
		}), "id"},
		"CapList": {"inspect", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.CapList(x, &apiv1.CapListRequest{Agent: "mine"})
		}), "id"},
		"Signal": {"signal", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Signal(x, &apiv1.SignalRequest{Agent: "mine"})
		}), "id"},
		"Pause": {"pause", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Pause(x, &apiv1.PauseRequest{Agent: "mine"})
		}), "id"},
		"Resume": {"pause", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Resume(x, &apiv1.ResumeRequest{Agent: mine.id})
		}), "id"},
		"Remove": {"remove", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Remove(x, &apiv1.RemoveRequest{Agent: "mine"})
		}), "id"},
		"Remove -f": {"remove signal", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.Remove(x, &apiv1.RemoveRequest{Agent: "mine", Force: true})
		}), "id"},
		"Logs": {"logs", func(c apiv1.ControlClient, x context.Context) error {
			s, err := c.Logs(x, &apiv1.LogsRequest{Agent: "mine"})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}, "id"},
		"AuditQuery": {"audit", func(c apiv1.ControlClient, x context.Context) error {
			s, err := c.AuditQuery(x, &apiv1.AuditQueryRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}, ""},
		"AuditVerify": {"audit", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.AuditVerify(x, &apiv1.AuditVerifyRequest{})
		}), ""},
		"ImageList": {"image", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.ImageList(x, &apiv1.ImageListRequest{})
		}), ""},
		"ImageRemove": {"image", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.ImageRemove(x, &apiv1.ImageRemoveRequest{})
		}), ""},
		"DomainStop": {"domain", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.DomainStop(x, &apiv1.DomainStopRequest{})
		}), ""},
		"TokenKey": {"token", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.TokenKey(x, &apiv1.TokenKeyRequest{})
		}), ""},
		"CapGrant": {"grant", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.CapGrant(x, &apiv1.CapGrantRequest{Agent: "mine"})
		}), "id"},
		"CapRevoke": {"revoke", unary(func(c apiv1.ControlClient, x context.Context) (proto.Message, error) {
			return c.CapRevoke(x, &apiv1.CapRevokeRequest{AllOf: "mine"})
		}), ""},
	} {
		needed := strings.Fields(tc.ops)
		for _, op := range token.Ops() {
			// All that is needed but one, and another operation.
			for i := range needed {
				with := append(slices.Delete(slices.Clone(needed), i, i+1), op.Name)
				if slices.Contains(needed, op.Name) && !(len(needed) == 1 && op.Name == needed[0]) {
					continue
				}
				allowed := len(needed) == 1 && op.Name == needed[0]
				tok := b.issue(t, func(c *token.Claims) { c.Ops, c.Agents = with, []string{"name:mine*"} })
				want := errdefs.Denied
				if allowed {
					want = errdefs.WrongState
				}
				if err := tc.call(b.bearing(t, tok.Text()), soon(t)); errdefs.CodeOf(err) != want {
					t.Errorf("%s with %v: %v, want %s", name, with, err, want)
				}
			}
		}
		tok := b.issue(t, func(c *token.Claims) { c.Ops, c.Agents = needed, []string{"name:mine*"} })
		if err := tc.call(b.bearing(t, tok.Text()), soon(t)); errdefs.CodeOf(err) != errdefs.WrongState {
			t.Errorf("%s with what it takes: %v", name, err)
			continue
		}
		if tc.get != "" {
			m := b.last()
			if a, ok := m.(*apiv1.AttachRequest); ok {
				m = a.GetExec()
			}
			if got := m.(interface{ GetAgent() string }).GetAgent(); got != mine.id {
				t.Errorf("%s: the handler is asked about %q, not about the agent that was examined", name, got)
			}
		}
		if !slices.Contains([]string{"Version", "Doctor", "Shutdown", "Shutdown all", "AuditQuery", "AuditVerify", "ImageList", "ImageRemove", "DomainStop", "TokenKey"}, name) {
			tok := b.issue(t, func(c *token.Claims) { c.Ops, c.Agents = needed, []string{"name:other"} })
			if err := tc.call(b.bearing(t, tok.Text()), soon(t)); errdefs.CodeOf(err) != errdefs.Denied {
				t.Errorf("%s with a token for another agent: %v", name, err)
			}
		}
	}
}

func TestOnlyTheOperatorIssues(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	c := b.bearing(t, b.issue(t, nil).Text())
	for name, err := range map[string]error{
		"issue":  second(c.TokenIssue(soon(t), &apiv1.TokenIssueRequest{Subject: "x", LifetimeNano: 1e12, Operations: []string{"*"}, Agents: []string{"*"}})),
		"trust":  second(c.TokenTrust(soon(t), &apiv1.TokenTrustRequest{})),
		"listen": second(c.TokenListen(soon(t), &apiv1.TokenListenRequest{Address: "off"})),
	} {
		if errdefs.CodeOf(err) != errdefs.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b.last() != nil {
		t.Errorf("the handler got %v", b.last())
	}
}

func second[T any](_ T, err error) error { return err }

// TestStrangersLearnNothing compares the answers about agents that exist and
// that do not.
func TestStrangersLearnNothing(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	r := b.agent(t, "secret", nil)
	c := b.bearing(t, b.issue(t, func(c *token.Claims) { c.Agents = []string{"own", "name:mine-*"} }).Text())
	ask := func(ref string) string {
		_, err := c.Inspect(soon(t), &apiv1.InspectRequest{Agent: ref})
		e, ok := err.(*errdefs.Error)
		if !ok {
			t.Fatalf("%s: %v", ref, err)
		}
		return fmt.Sprint(e.Code, e.Op, e.Resource, e.Detail, e.Fix)
	}
	if a, b := ask("secret"), ask("nothing"); a != b {
		t.Errorf("of an agent that exists: %s\nof one that does not: %s", a, b)
	}
	if a, b := ask(r.id), ask("a00000000000f"); a != b {
		t.Errorf("of an ID that exists: %s\nof one that does not: %s", a, b)
	}
	if got := ask("mine-nothing"); !strings.Contains(got, string(errdefs.AgentNotFound)) {
		t.Errorf("of one that the token extends to: %s", got)
	}
}

func TestListsHaveWhatTheTokenExtendsTo(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	tok := b.issue(t, func(c *token.Claims) { c.Agents = []string{"own", "label:team=red"} })
	narrow, err := token.Attenuate(tok, token.Restriction{Agents: []string{"own"}})
	if err != nil {
		t.Fatal(err)
	}
	b.agent(t, "other", nil)
	b.agent(t, "red", func(r *record) { r.spec().Labels = map[string]string{"team": "red"} })
	b.agent(t, "own", func(r *record) { r.tokens = []token.ID{tok.ID()} })
	b.agent(t, "child", func(r *record) { r.tokens = []token.ID{tok.ID(), narrow.ID()} })
	for want, text := range map[string]string{"child own red": tok.Text(), "child": narrow.Text()} {
		resp, err := b.bearing(t, text).List(soon(t), &apiv1.ListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, g := range resp.GetAgents() {
			names = append(names, g.GetName())
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("listed are %q, want %q", got, want)
		}
	}
}

// TestSpawnsAreHeldToTheGrants asks for agents with more than the token gives.
func TestSpawnsAreHeldToTheGrants(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	worker := b.agent(t, "worker", nil)
	plain := b.issue(t, func(c *token.Claims) {
		c.Grants = []capability.Spec{grant(t, "fs:/data:ro"), grant(t, "fs:/work:rw,quota=1G"), grant(t, "agent:"+worker.id+":signal")}
	})
	small := b.issue(t, func(c *token.Claims) { c.Grants = []capability.Spec{grant(t, "mem:self,bytes=256M")} })
	swaps := b.issue(t, func(c *token.Claims) { c.Grants = []capability.Spec{grant(t, "mem:self,bytes=256M,swap=1G")} })
	huge := limitsOf(&apiv1.SpawnRequest{}).GetMemoryBytes() + 1
	for name, tc := range map[string]struct {
		tok token.Token
		req *apiv1.SpawnRequest
		ok  bool
	}{
		"nothing":          {plain, &apiv1.SpawnRequest{}, true},
		"a directory":      {plain, &apiv1.SpawnRequest{Grants: []string{"fs:/data/in:ro"}}, true},
		"to write there":   {plain, &apiv1.SpawnRequest{Grants: []string{"fs:/data/in:rw"}}, false},
		"beside it":        {plain, &apiv1.SpawnRequest{Grants: []string{"fs:/database:ro"}}, false},
		"all of it":        {plain, &apiv1.SpawnRequest{Grants: []string{"fs:/:ro"}}, false},
		"a mount":          {plain, &apiv1.SpawnRequest{Mounts: []*apiv1.Mount{{Source: "/data", Target: "/x"}}}, true},
		"a way out":        {plain, &apiv1.SpawnRequest{Mounts: []*apiv1.Mount{{Source: "/data/../etc", Target: "/x"}}}, false},
		"a mount to write": {plain, &apiv1.SpawnRequest{Mounts: []*apiv1.Mount{{Source: "/data", Target: "/x", Writable: true}}}, false},
		"half a quota":     {plain, &apiv1.SpawnRequest{Grants: []string{"fs:/work:rw,quota=512M"}}, true},
		"two quotas": {plain, &apiv1.SpawnRequest{
			Grants: []string{"fs:/work/a:rw,quota=600M", "fs:/work/b:rw,quota=600M"}}, false},
		"no quota":            {plain, &apiv1.SpawnRequest{Grants: []string{"fs:/work:rw"}}, false},
		"the network":         {plain, &apiv1.SpawnRequest{Grants: []string{"net:loopback"}}, false},
		"an agent, by name":   {plain, &apiv1.SpawnRequest{Grants: []string{"agent:worker:signal"}}, true},
		"more of it":          {plain, &apiv1.SpawnRequest{Grants: []string{"agent:worker:signal+inspect"}}, false},
		"all agents":          {plain, &apiv1.SpawnRequest{Grants: []string{"agent:*:signal"}}, false},
		"less memory":         {plain, &apiv1.SpawnRequest{Limits: &apiv1.Limits{MemoryBytes: 64 << 20}}, true},
		"less, as a grant":    {plain, &apiv1.SpawnRequest{Grants: []string{"mem:self,bytes=64M"}}, true},
		"more memory":         {plain, &apiv1.SpawnRequest{Limits: &apiv1.Limits{MemoryBytes: huge, DiskBytes: 1 << 20}}, false},
		"more disk":           {plain, &apiv1.SpawnRequest{Limits: &apiv1.Limits{DiskBytes: huge}}, false},
		"unlimited memory":    {plain, &apiv1.SpawnRequest{Grants: []string{"mem:self"}}, false},
		"more, bit by bit":    {plain, &apiv1.SpawnRequest{Grants: []string{fmt.Sprintf("mem:self,bytes=%d", huge/2+1), fmt.Sprintf("mem:self:map,bytes=%d", huge/2+1)}}, false},
		"swap":                {plain, &apiv1.SpawnRequest{Limits: &apiv1.Limits{SwapBytes: 1 << 30}}, false},
		"swap, as a grant":    {plain, &apiv1.SpawnRequest{Grants: []string{"mem:self,bytes=64M,swap=1G"}}, false},
		"unlimited, bounded":  {plain, &apiv1.SpawnRequest{Grants: []string{"mem:self"}, Limits: &apiv1.Limits{MemoryBytes: 64 << 20}}, true},
		"the token's swap":    {swaps, &apiv1.SpawnRequest{Limits: &apiv1.Limits{MemoryBytes: 256 << 20, SwapBytes: 1 << 30}}, true},
		"less swap":           {swaps, &apiv1.SpawnRequest{Limits: &apiv1.Limits{MemoryBytes: 256 << 20}}, true},
		"more swap":           {swaps, &apiv1.SpawnRequest{Limits: &apiv1.Limits{MemoryBytes: 256 << 20, SwapBytes: 2 << 30}}, false},
		"more processes":      {plain, &apiv1.SpawnRequest{Limits: &apiv1.Limits{Processes: defaultTasks + 1}}, false},
		"to debug":            {plain, &apiv1.SpawnRequest{Grants: []string{"proc:self:spawn+debug,count=5"}}, false},
		"half a CPU":          {plain, &apiv1.SpawnRequest{Limits: &apiv1.Limits{MilliCpu: 500}}, true},
		"a weight":            {plain, &apiv1.SpawnRequest{Grants: []string{"cpu:self,weight=10000"}}, false},
		"the token's memory":  {small, &apiv1.SpawnRequest{Limits: &apiv1.Limits{MemoryBytes: 256 << 20}}, true},
		"more than that":      {small, &apiv1.SpawnRequest{Limits: &apiv1.Limits{MemoryBytes: 257 << 20}}, false},
		"the default instead": {small, &apiv1.SpawnRequest{}, false},
	} {
		before := b.last()
		_, err := b.bearing(t, tc.tok.Text()).Spawn(soon(t), tc.req)
		want := errdefs.RightsExceed
		if tc.ok {
			want = errdefs.WrongState
		}
		if errdefs.CodeOf(err) != want || (b.last() != before) != tc.ok {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	// The name stands for the agent that was examined.
	if _, err := b.bearing(t, plain.Text()).Spawn(soon(t), &apiv1.SpawnRequest{Grants: []string{"agent:worker:signal"}}); errdefs.CodeOf(err) != errdefs.WrongState {
		t.Fatal(err)
	}
	if got := b.last().(*apiv1.SpawnRequest).GetGrants()[0]; got != "agent:"+worker.id+":signal" {
		t.Errorf("the handler is asked for %s", got)
	}
	// A grant to an agent that runs has no default.
	_, err := b.bearing(t, plain.Text()).CapGrant(soon(t), &apiv1.CapGrantRequest{Agent: "worker", Grants: []string{"mem:self,bytes=1M"}})
	if errdefs.CodeOf(err) != errdefs.RightsExceed {
		t.Errorf("memory for an agent that runs: %v", err)
	}
	_, err = b.bearing(t, plain.Text()).ImageImport(soon(t), &apiv1.ImageImportRequest{Name: "x", Source: "/data"})
	if err == nil {
		s, _ := b.bearing(t, plain.Text()).ImageImport(soon(t), &apiv1.ImageImportRequest{Name: "x", Source: "/data"})
		_, err = s.Recv()
	}
	if errdefs.CodeOf(err) != errdefs.RightsExceed {
		t.Errorf("an import, which follows links: %v", err)
	}
}

func TestNoMoreAgentsAtOnce(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	tok := b.issue(t, func(c *token.Claims) { c.Agents, c.MaxAgents = []string{"own"}, 3 })
	who, err := b.d.bearerOf(tok.Text())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var got []*record
	for range 20 {
		wg.Go(func() {
			r := newRecord(string(abi.NewAgentID()), &apiv1.SpawnRequest{}, "dom", time.Unix(1, 0))
			r.tokens = who.IDs
			err := b.d.reserve(who, r)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				got = append(got, r)
			} else if errdefs.CodeOf(err) != errdefs.AgentLimit {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(got) != 3 {
		t.Fatalf("%d agents were let in", len(got))
	}
	got[0].finish(abi.StateExited, &apiv1.Exit{}, time.Unix(2, 0))
	r := newRecord(string(abi.NewAgentID()), &apiv1.SpawnRequest{}, "dom", time.Unix(1, 0))
	r.tokens = who.IDs
	if err := b.d.reserve(who, r); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

func TestAgentsRememberTheirToken(t *testing.T) {
	dir := shortDir(t)
	d := newSystem(t, dir, ktime.Real)
	ids := []token.ID{{1}, {2}}
	r := saved(t, d, "dom", nil)
	r.tokens = ids
	if err := d.save(r); err != nil {
		t.Fatal(err)
	}
	if got := newSystem(t, dir, ktime.Real).loadRecords()[r.id]; got == nil || !slices.Equal(got.tokens, ids) {
		t.Errorf("%+v", got)
	}
}
