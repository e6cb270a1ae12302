package daemon

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// method is what a method of the API takes of a token.
type method struct {
	// op is the operation that it belongs to.
	op string
	// check examines a request. It puts the IDs of agents and capabilities in
	// the place of the names that it was asked with, so that the handler finds
	// what was examined. nil: the operation, and if it is done to agents, on the
	// one that the field "agent" names.
	check func(*asked, proto.Message) error
	// shown takes out of an answer what the bearer may not see.
	shown func(*asked, proto.Message)
}

// agent says whether the operation is done to agents.
func (m method) agent() bool {
	i := slices.IndexFunc(token.Ops(), func(o token.Op) bool { return o.Name == m.op })
	return i >= 0 && token.Ops()[i].Agent
}

// methods are the methods that bearers of tokens may call. What is not here is
// refused.
var methods = map[string]method{
	apiv1.Control_Version_FullMethodName:      {op: token.OpDaemon},
	apiv1.Control_Doctor_FullMethodName:       {op: token.OpDaemon},
	apiv1.Control_Shutdown_FullMethodName:     {op: token.OpDaemon, check: as((*asked).shutdown)},
	apiv1.Control_ErrorsRecent_FullMethodName: {op: token.OpDaemon},

	apiv1.Control_Spawn_FullMethodName:   {op: token.OpSpawn, check: as((*asked).spawn)},
	apiv1.Control_List_FullMethodName:    {op: token.OpList, check: (*asked).aboutHost, shown: shown((*asked).agents)},
	apiv1.Control_Inspect_FullMethodName: {op: token.OpInspect},
	apiv1.Control_Wait_FullMethodName:    {op: token.OpWait},
	apiv1.Control_Signal_FullMethodName:  {op: token.OpSignal, check: as((*asked).signal)},
	apiv1.Control_Pause_FullMethodName:   {op: token.OpPause},
	apiv1.Control_Resume_FullMethodName:  {op: token.OpPause},
	// What the copies may be called is asked when they get their names.
	apiv1.Control_Clone_FullMethodName:      {op: token.OpPause},
	apiv1.Control_Specialize_FullMethodName: {op: token.OpPause},
	apiv1.Control_Split_FullMethodName:      {op: token.OpPause, check: as((*asked).split)},
	apiv1.Control_Upgrade_FullMethodName:    {op: token.OpExec, check: as((*asked).upgrade)},
	apiv1.Control_Merge_FullMethodName:      {op: token.OpSignal, check: as((*asked).merge)},
	apiv1.Control_Remove_FullMethodName:     {op: token.OpRemove, check: as((*asked).remove)},
	apiv1.Control_Attach_FullMethodName:     {op: token.OpAttach, check: as((*asked).attach)},
	apiv1.Control_Logs_FullMethodName:       {op: token.OpLogs},

	apiv1.Control_ImageImport_FullMethodName:  {op: token.OpImage, check: as((*asked).imageImport)},
	apiv1.Control_ImageList_FullMethodName:    {op: token.OpImage},
	apiv1.Control_ImageInspect_FullMethodName: {op: token.OpImage},
	apiv1.Control_ImageRemove_FullMethodName:  {op: token.OpImage},
	apiv1.Control_DomainList_FullMethodName:   {op: token.OpDomain},
	apiv1.Control_DomainStop_FullMethodName:   {op: token.OpDomain},

	apiv1.Control_DomainCheckpoint_FullMethodName: {op: token.OpDomain, check: (*asked).checkpoints},
	apiv1.Control_DomainRestore_FullMethodName:    {op: token.OpDomain, check: (*asked).checkpoints},

	apiv1.Control_CapList_FullMethodName:      {op: token.OpInspect, check: as((*asked).capList), shown: shown((*asked).capabilities)},
	apiv1.Control_CapGrant_FullMethodName:     {op: token.OpGrant, check: as((*asked).capGrant)},
	apiv1.Control_CapDelegate_FullMethodName:  {op: token.OpGrant, check: as((*asked).capDelegate)},
	apiv1.Control_CapAttenuate_FullMethodName: {op: token.OpGrant, check: aboutCapability},
	apiv1.Control_CapSeal_FullMethodName:      {op: token.OpGrant, check: aboutCapability},
	apiv1.Control_CapRenew_FullMethodName:     {op: token.OpGrant, check: as((*asked).capRenew)},
	apiv1.Control_CapRevoke_FullMethodName:    {op: token.OpRevoke, check: as((*asked).capRevoke), shown: shown((*asked).losers)},
	apiv1.Control_CapExplain_FullMethodName:   {op: token.OpInspect},
	apiv1.Control_Account_FullMethodName:      {op: token.OpInspect},

	apiv1.Kernel_Klog_FullMethodName:       {op: token.OpDaemon},
	apiv1.Kernel_KlogLevels_FullMethodName: {op: token.OpDaemon},
	apiv1.Interrupts_Irqs_FullMethodName:   {op: token.OpDaemon},
	apiv1.Interrupts_IrqSet_FullMethodName: {op: token.OpDomain},
	apiv1.Processors_Cpus_FullMethodName:   {op: token.OpDaemon},

	apiv1.Scheduling_Sched_FullMethodName:      {op: token.OpInspect, check: as((*asked).sched), shown: shown((*asked).scheduled)},
	apiv1.Scheduling_SchedSet_FullMethodName:   {op: token.OpGrant, check: as((*asked).schedSet)},
	apiv1.Scheduling_Hint_FullMethodName:       {op: token.OpInspect, check: as((*asked).hint)},
	apiv1.Scheduling_SchedTrace_FullMethodName: {op: token.OpDebug},

	apiv1.VirtualMemory_VMShow_FullMethodName:      {op: token.OpInspect},
	apiv1.VirtualMemory_VMSet_FullMethodName:       {op: token.OpPause},
	apiv1.VirtualMemory_VMSetSwap_FullMethodName:   {op: token.OpGrant, check: as((*asked).vmSetSwap)},
	apiv1.VirtualMemory_VMHibernate_FullMethodName: {op: token.OpPause},

	apiv1.Control_AuditQuery_FullMethodName:  {op: token.OpAudit},
	apiv1.Control_AuditVerify_FullMethodName: {op: token.OpAudit},

	apiv1.Debug_CrashList_FullMethodName:    {op: token.OpDebug, check: (*asked).aboutHost, shown: shown((*asked).crashes)},
	apiv1.Debug_CrashInspect_FullMethodName: {op: token.OpDebug, check: as((*asked).crashInspect)},
	apiv1.Debug_CrashDump_FullMethodName:    {op: token.OpDebug},
	apiv1.Debug_CrashGet_FullMethodName:     {op: token.OpDebug, check: as((*asked).crashGet)},
	apiv1.Debug_CrashRemove_FullMethodName:  {op: token.OpDebug, check: as((*asked).crashRemove)},
	apiv1.Debug_Gdb_FullMethodName:          {op: token.OpDebug},
	apiv1.Debug_Look_FullMethodName:         {op: token.OpDebug},
	// It shows every agent of a domain.
	apiv1.Debug_CrashBundle_FullMethodName: {op: token.OpDebug, check: operatorOnly},

	apiv1.Events_Watch_FullMethodName:       {op: token.OpEvents, check: as((*asked).watch)},
	apiv1.Events_Acknowledge_FullMethodName: {op: token.OpEvents, check: durable},
	apiv1.Events_Unsubscribe_FullMethodName: {op: token.OpEvents, check: durable},
	apiv1.Events_EventStats_FullMethodName:  {op: token.OpDaemon},
	apiv1.Health_Health_FullMethodName:      {op: token.OpDaemon},

	apiv1.Configuration_ConfigStatus_FullMethodName: {op: token.OpDaemon},
	apiv1.Sinks_SinkList_FullMethodName:             {op: token.OpDaemon},
	apiv1.Alerts_AlertList_FullMethodName:           {op: token.OpDaemon},
	apiv1.Hooks_HookList_FullMethodName:             {op: token.OpDaemon},
	apiv1.Clock_TimeStatus_FullMethodName:           {op: token.OpDaemon},
	apiv1.Clock_AgentClock_FullMethodName:           {op: token.OpInspect, check: as((*asked).agentClock)},
	// Servers may mind being asked often.
	apiv1.Clock_TimeSync_FullMethodName: {op: token.OpDaemon, check: operatorOnly},
	// Whoever silences an alert keeps it from holding agents in bounds.
	apiv1.Alerts_AlertSilence_FullMethodName:   {op: token.OpDaemon, check: operatorOnly},
	apiv1.Alerts_AlertUnsilence_FullMethodName: {op: token.OpDaemon, check: operatorOnly},
	// What the file says may run programs on the host.
	apiv1.Configuration_ConfigReload_FullMethodName: {op: token.OpDaemon, check: operatorOnly},

	// A template is an agent that stands still.
	apiv1.Templates_TemplateCreate_FullMethodName: {op: token.OpSpawn, check: as((*asked).templateCreate)},
	apiv1.Templates_TemplateList_FullMethodName:   {op: token.OpList, check: (*asked).aboutHost, shown: shown((*asked).templates)},
	apiv1.Templates_TemplateRemove_FullMethodName: {op: token.OpRemove, check: as((*asked).templateRemove)},

	// Patterns of agents do not say what of semantic memory is meant.
	apiv1.Memory_MemoryPut_FullMethodName:        {op: token.OpGrant, check: operatorOnly},
	apiv1.Memory_MemoryGet_FullMethodName:        {op: token.OpInspect, check: operatorOnly},
	apiv1.Memory_MemorySearch_FullMethodName:     {op: token.OpInspect, check: operatorOnly},
	apiv1.Memory_MemoryList_FullMethodName:       {op: token.OpInspect, check: operatorOnly},
	apiv1.Memory_MemoryRemove_FullMethodName:     {op: token.OpRevoke, check: operatorOnly},
	apiv1.Memory_MemoryNamespaces_FullMethodName: {op: token.OpInspect, check: operatorOnly},
	apiv1.Memory_MemoryStats_FullMethodName:      {op: token.OpInspect, check: operatorOnly},
	// Patterns of agents do not say which regions are meant.
	apiv1.Fabric_RegionCreate_FullMethodName:   {op: token.OpGrant, check: operatorOnly},
	apiv1.Fabric_RegionList_FullMethodName:     {op: token.OpInspect, check: operatorOnly},
	apiv1.Fabric_RegionShow_FullMethodName:     {op: token.OpInspect, check: operatorOnly},
	apiv1.Fabric_RegionShare_FullMethodName:    {op: token.OpGrant, check: operatorOnly},
	apiv1.Fabric_RegionUnshare_FullMethodName:  {op: token.OpRevoke, check: operatorOnly},
	apiv1.Fabric_RegionRemove_FullMethodName:   {op: token.OpRevoke, check: operatorOnly},
	apiv1.Fabric_RegionSeal_FullMethodName:     {op: token.OpGrant, check: operatorOnly},
	apiv1.Fabric_RegionSnapshot_FullMethodName: {op: token.OpGrant, check: operatorOnly},
	apiv1.Fabric_RegionRollback_FullMethodName: {op: token.OpGrant, check: operatorOnly},
	apiv1.Fabric_RegionFork_FullMethodName:     {op: token.OpGrant, check: operatorOnly},
	apiv1.Fabric_RegionDiff_FullMethodName:     {op: token.OpInspect, check: operatorOnly},
	apiv1.Fabric_RegionDrop_FullMethodName:     {op: token.OpGrant, check: operatorOnly},
	apiv1.Fabric_RegionOpen_FullMethodName:     {op: token.OpGrant, check: operatorOnly},
	apiv1.Fabric_RegionCommit_FullMethodName:   {op: token.OpGrant, check: operatorOnly},

	apiv1.Control_TokenKey_FullMethodName:    {op: token.OpToken},
	apiv1.Control_TokenCheck_FullMethodName:  {op: token.OpToken},
	apiv1.Control_TokenRevoke_FullMethodName: {op: token.OpToken},
	// Whoever issues tokens, or says whose are accepted, can do everything.
	apiv1.Control_TokenIssue_FullMethodName:  {op: token.OpToken, check: operatorOnly},
	apiv1.Control_TokenTrust_FullMethodName:  {op: token.OpToken, check: operatorOnly},
	apiv1.Control_TokenListen_FullMethodName: {op: token.OpToken, check: operatorOnly},
}

// as makes a check of one for a certain message.
func as[M proto.Message](f func(*asked, M) error) func(*asked, proto.Message) error {
	return func(a *asked, m proto.Message) error {
		of, ok := m.(M)
		if !ok {
			return errdefs.Newf(errdefs.Internal, "%s is asked with a %T", a.name, m)
		}
		return f(a, of)
	}
}

func shown[M proto.Message](f func(*asked, M)) func(*asked, proto.Message) {
	return func(a *asked, m proto.Message) { f(a, m.(M)) }
}

func operatorOnly(*asked, proto.Message) error {
	return errdefs.New(errdefs.Denied, "no token extends to this: it would amount to everything", errdefs.Op("token"),
		errdefs.Fix("to give a part of what your token allows, `aiosctl token attenuate` needs no daemon; the rest is the operator's"))
}

// aboutHost is the check of what is about no agent in particular.
func (a *asked) aboutHost(proto.Message) error { return a.b.Allow(a.method.op, nil) }

// aboutAgent is the check of what is about the agent that is named.
func (a *asked) aboutAgent(m proto.Message) error {
	f := m.ProtoReflect().Descriptor().Fields().ByName("agent")
	if f == nil || f.Kind() != protoreflect.StringKind || f.IsList() {
		return errdefs.Newf(errdefs.Internal, "%s names no agent", a.name)
	}
	ref := m.ProtoReflect().Get(f).String()
	if err := a.may(a.method.op, &ref); err != nil {
		return err
	}
	m.ProtoReflect().Set(f, protoreflect.ValueOfString(ref))
	return nil
}

// may says whether an operation on an agent is allowed, and replaces the
// agent's name by its ID. Of agents that the token does not extend to it does
// not tell whether they exist.
func (a *asked) may(op string, ref *string) error {
	r, notFound := a.d.find(*ref)
	if notFound != nil {
		no := &token.Agent{Name: *ref}
		if abi.IsAgentID(*ref) {
			no = &token.Agent{ID: *ref}
		}
		if err := a.b.Allow(op, no); err != nil {
			return err
		}
		return notFound
	}
	a.agent, a.subject = r.id, r.subject()
	if err := a.b.Allow(op, a.subject); err != nil {
		return err
	}
	*ref = r.id
	return nil
}

// subject is what the patterns of tokens are compared with.
func (r *record) subject() *token.Agent {
	return &token.Agent{ID: r.id, Name: r.name, Labels: r.spec().GetLabels(), Tokens: r.tokens}
}

// sees says whether the bearer may do something to an agent, without a trace.
func (a *asked) sees(op, ref string) bool {
	r, err := a.d.find(ref)
	return err == nil && a.b.Allow(op, r.subject()) == nil
}

func (a *asked) shutdown(m *apiv1.ShutdownRequest) error {
	if m.GetStopDomains() {
		if err := a.b.Allow(token.OpDomain, nil); err != nil {
			return err
		}
	}
	return a.aboutHost(m)
}

// spawn examines what an agent is to be, and all that it is to be given. How
// many may live is asked when its place is taken.
func (a *asked) spawn(m *apiv1.SpawnRequest) error {
	if m.GetFrom() != "" { // It gets to know what the template knows.
		if err := a.may(token.OpPause, &m.From); err != nil {
			return err
		}
		a.agent = ""
	}
	a.subject = &token.Agent{Name: m.GetName(), Labels: m.GetLabels(), Tokens: a.b.IDs}
	if err := a.b.AllowSpawn(m.GetName(), m.GetLabels(), func(token.ID) int { return 0 }); err != nil {
		return err
	}
	if err := a.resolve(m.GetGrants()); err != nil {
		return err
	}
	if err := boundMemory(m); err != nil {
		return err
	}
	limits := limitsOf(m)
	if limits.GetDiskBytes() > limits.GetMemoryBytes() {
		return errdefs.New(errdefs.RightsExceed, "with a token, an agent gets no more disk than memory", errdefs.Op("spawn"),
			errdefs.Fix("ask for less disk"))
	}
	given, err := givenBy(m)
	if err != nil {
		return err
	}
	own, err := selfGrants(limits, given)
	if err != nil {
		return err
	}
	all := slices.Concat(own, given)
	if m.GetOwnClock() != nil {
		if err := a.b.AllowGrants(ownClockSpec); err != nil {
			return err
		}
	}
	return a.b.AllowGrants(slices.DeleteFunc(slices.Clone(all), a.byDefault(all))...)
}

// templateCreate takes what the spawn takes, or the copy.
func (a *asked) templateCreate(m *apiv1.TemplateCreateRequest) error {
	if m.GetSpec() != nil {
		m.Spec.Name = m.GetName()
		return a.spawn(m.GetSpec())
	}
	return a.may(token.OpPause, &m.Agent)
}

func (a *asked) templateRemove(m *apiv1.TemplateRemoveRequest) error {
	if err := a.may(token.OpSignal, &m.Template); err != nil {
		return err
	}
	return a.may(token.OpRemove, &m.Template)
}

// resolve puts the IDs of agents in the place of names in grants. One that is
// not found is left for the handler to complain about.
func (a *asked) resolve(grants []string) error {
	specs, err := parseGrants(grants)
	if err != nil {
		return err
	}
	for i, s := range specs {
		if named, err := a.d.namedByID(s.Object); err == nil && named != s.Object {
			s.Object = named
			grants[i] = s.String()
		}
	}
	return nil
}

// byDefault returns what chooses, out of all that an agent asks for, what every
// agent has: memory, processes, CPU time and I/O within the defaults, and to
// hear of itself. Where the token itself speaks of one of the former, that counts
// instead.
func (a *asked) byDefault(all []capability.Spec) func(capability.Spec) bool {
	defaults, err := selfGrants(limitsOf(&apiv1.SpawnRequest{}), nil)
	if err != nil {
		return func(capability.Spec) bool { return false }
	}
	within := make(map[abi.Class]bool)
	for _, def := range defaults {
		class := def.Object.Class
		within[class] = !a.b.mentions(class) && withinDefault(def, all)
	}
	own := ownObject(abi.ClassEvent)
	return func(s capability.Spec) bool {
		if s.Object.Class == abi.ClassEvent {
			return own.Contains(s.Object)
		}
		return within[s.Object.Class]
	}
}

// withinDefault reports whether all that is asked for of a class together is no
// more than the default.
func withinDefault(def capability.Spec, all []capability.Spec) bool {
	var sum capability.Limits
	for _, s := range all {
		if s.Object.Class != def.Object.Class {
			continue
		}
		if !def.Rights.Has(s.Rights) || !def.Object.Contains(s.Object) || s.Limits.Weight != 0 || s.Limits.Priority != 0 || s.Limits.Reserve != 0 || s.Limits.Swap != 0 {
			return false
		}
		for _, k := range []capability.Kind{capability.KindBytes, capability.KindCount, capability.KindMilliCPU,
			capability.KindBytesPerSec, capability.KindOpsPerSec} {
			most, want := def.Limits.Get(k), s.Limits.Get(k)
			if most == 0 {
				continue
			}
			if want == 0 || want > most-sum.Get(k) {
				return false
			}
			sum.Set(k, sum.Get(k)+want)
		}
	}
	return true
}

// mentions reports whether the token's grants speak of a class.
func (b *bearer) mentions(class abi.Class) bool {
	for _, block := range b.token.Blocks() {
		for _, g := range block.Grants {
			if s, err := capability.ParseSpec(g); err == nil && s.Object.Class == class {
				return true
			}
		}
	}
	return false
}

// remove takes more when it is to kill the agent first.
func (a *asked) remove(m *apiv1.RemoveRequest) error {
	if m.GetForce() {
		if err := a.may(token.OpSignal, &m.Agent); err != nil {
			return err
		}
	}
	return a.aboutAgent(m)
}

// signal has the hooks asked whatever the bearer wants: to overrule them is the
// operator's.
func (a *asked) signal(m *apiv1.SignalRequest) error {
	if m.GetForce() {
		return operatorOnly(a, m)
	}
	return a.aboutAgent(m)
}

// attach takes what its first message asks for.
func (a *asked) attach(m *apiv1.AttachRequest) error {
	switch m := m.GetMsg().(type) {
	case *apiv1.AttachRequest_Spawn:
		if m.Spawn == nil {
			break
		}
		if err := a.spawn(m.Spawn); err != nil {
			return err
		}
		return a.b.Allow(token.OpAttach, a.subject)
	case *apiv1.AttachRequest_Exec:
		if m.Exec != nil {
			return a.may(token.OpExec, &m.Exec.Agent)
		}
	case *apiv1.AttachRequest_Target:
		if m.Target != nil {
			return a.may(token.OpAttach, &m.Target.Agent)
		}
	}
	return errdefs.New(errdefs.InvalidArgument, "the first message of an attachment is spawn, exec or target")
}

// checkpoints are files of the host, and what is restored from one has whatever
// authority it says.
func (a *asked) checkpoints(m proto.Message) error {
	if err := a.aboutHost(m); err != nil {
		return err
	}
	return a.b.AllowGrants(capability.Spec{Object: capability.Object{Class: abi.ClassFS, Name: "/"}, Rights: abi.ClassFS.All()})
}

// imageImport reads the host's files with the daemon's authority, wherever the
// links among them lead.
func (a *asked) imageImport(m *apiv1.ImageImportRequest) error {
	if err := a.aboutHost(m); err != nil {
		return err
	}
	return a.b.AllowGrants(capability.Spec{
		Object: capability.Object{Class: abi.ClassFS, Name: "/"}, Rights: abi.FSRead | abi.FSExec,
	})
}

func (a *asked) capList(m *apiv1.CapListRequest) error {
	if m.GetAgent() == "" {
		return a.aboutHost(m)
	}
	return a.aboutAgent(m)
}

func (a *asked) capGrant(m *apiv1.CapGrantRequest) error {
	if err := a.aboutAgent(m); err != nil {
		return err
	}
	if err := a.resolve(m.GetGrants()); err != nil {
		return err
	}
	specs, err := parseGrants(m.GetGrants())
	if err != nil {
		return err
	}
	return a.b.AllowGrants(specs...)
}

// holds examines a capability: it counts as its holder.
func (a *asked) holds(op string, ref *apiv1.CapRef) (control.Cap, error) {
	if ref.GetHandle() != 0 {
		if err := a.may(op, &ref.Agent); err != nil {
			return control.Cap{}, err
		}
	}
	_, c, err := a.d.locate(a.ctx, ref)
	if err != nil {
		return c, err
	}
	holder := c.Agent
	if c.Remote != "" {
		_, holder, _ = strings.Cut(c.Remote, "/")
	}
	if err := a.may(op, &holder); err != nil {
		return c, err
	}
	ref.Id, ref.Agent, ref.Handle = string(c.ID), "", 0
	return c, nil
}

// aboutCapability is the check of what is about the capability that is named.
func aboutCapability(a *asked, m proto.Message) error {
	of, ok := m.(interface{ GetCapability() *apiv1.CapRef })
	if !ok {
		return errdefs.Newf(errdefs.Internal, "%s names no capability", a.name)
	}
	_, err := a.holds(a.method.op, of.GetCapability())
	return err
}

// capDelegate needs both agents, and what comes of it within the grants.
func (a *asked) capDelegate(m *apiv1.CapDelegateRequest) error {
	c, err := a.holds(token.OpGrant, m.GetCapability())
	if err != nil {
		return err
	}
	if err := a.may(token.OpGrant, &m.To); err != nil {
		return err
	}
	spec, err := capability.ParseSpec(c.Spec)
	if err != nil {
		return err
	}
	change, err := changeOf(m.GetChange(), spec.Object.Class)
	if err != nil {
		return err
	}
	if change.Object != nil {
		spec.Object.Name = *change.Object
		spec.Object = spec.Object.HeldBy(c.Agent)
		if named, err := a.d.namedByID(spec.Object); err == nil {
			spec.Object = named
		}
	}
	if change.Rights != nil {
		spec.Rights = *change.Rights
	}
	if change.Limits != nil {
		spec.Limits = *change.Limits
	}
	if change.Badge != nil {
		spec.Badge = *change.Badge
	}
	spec.Sealed = spec.Sealed || change.Sealed
	spec.Lease = c.Lease
	if l := change.Lease; l != nil && *l > 0 && (spec.Lease == 0 || *l < spec.Lease) {
		spec.Lease = *l
	}
	return a.b.AllowGrants(spec)
}

// capRenew gives something anew.
func (a *asked) capRenew(m *apiv1.CapRenewRequest) error {
	c, err := a.holds(token.OpGrant, m.GetCapability())
	if err != nil {
		return err
	}
	spec, err := capability.ParseSpec(c.Spec)
	if err != nil {
		return err
	}
	spec.Lease = time.Duration(m.GetLeaseNano())
	return a.b.AllowGrants(spec)
}

func (a *asked) capRevoke(m *apiv1.CapRevokeRequest) error {
	if m.GetAllOf() != "" {
		return a.may(token.OpRevoke, &m.AllOf)
	}
	_, err := a.holds(token.OpRevoke, m.GetCapability())
	return err
}

// agents leaves those that the token extends to.
func (a *asked) agents(m *apiv1.ListResponse) {
	m.Agents = slices.DeleteFunc(m.GetAgents(), func(g *apiv1.Agent) bool { return !a.sees(token.OpList, g.GetId()) })
}

func (a *asked) templates(m *apiv1.TemplateListResponse) {
	m.Templates = slices.DeleteFunc(m.GetTemplates(), func(t *apiv1.Template) bool { return !a.sees(token.OpList, t.GetId()) })
}

func (a *asked) capabilities(m *apiv1.CapListResponse) {
	m.Capabilities = slices.DeleteFunc(m.GetCapabilities(), func(c *apiv1.Capability) bool {
		holder := c.GetAgent()
		if c.GetRemote() != "" {
			_, holder, _ = strings.Cut(c.GetRemote(), "/")
		}
		return !a.sees(token.OpInspect, holder)
	})
}

// losers leaves out the names of agents that lost something and that the token
// does not extend to.
func (a *asked) losers(m *apiv1.CapRevokeResponse) {
	m.Agents = slices.DeleteFunc(m.GetAgents(), func(name string) bool { return !a.sees(token.OpRevoke, name) })
}
