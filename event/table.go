package event

import eventv1 "aios.dev/aios/event/v1"

// The types. The table says what each is.
const (
	AgentSpawn Type = iota + 1
	AgentExec
	AgentFork
	AgentThread
	AgentExit
	AgentPause
	AgentResume
	AgentClock
	AgentKill
	AgentSignal
	AgentRestart
	AgentLost
	AgentQuarantine
	AgentDebug
	AgentClone
	AgentMerge
	AgentTemplate
	AgentSpecialize
	AgentSplit
	AgentUpgrade
	DomainStart
	DomainStop
	DomainCrash
	DomainRestart
	DomainAdopt
	DomainCheckpoint
	DomainRestore
	FileMount
	FileUnmount
	FileOpen
	FileCreate
	FileWrite
	FileRename
	FileRemove
	NetConnect
	NetListen
	NetAccept
	NetDisconnect
	NetRefused
	NetPacket
	MemoryFaults
	MemoryPressure
	MemoryOOM
	MemoryLimit
	MemoryHibernate
	MemorySwap
	RegionCreate
	RegionRemove
	RegionUnmap
	RegionSeal
	RegionVersion
	RegionRollback
	SemanticWrite
	SemanticDelete
	SemanticRead
	CPUThrottled
	CPUChanged
	CPUParams
	CPUHint
	CPUMissed
	CPUOverrun
	LimitSoft
	LimitHard
	CapabilityGrant
	CapabilityDelegate
	CapabilityAttenuate
	CapabilitySeal
	CapabilityRenew
	CapabilityRevoke
	CapabilityExpire
	CapabilityDeny
	SecurityViolation
	FaultException
	FaultDouble
	FaultTriple
	FaultStorm
	FaultVerdict
	KernelPanic
	KernelLockup
	KernelLog
	KernelDump
	IRQStorm
	IRQThrottle
	DeviceOpen
	AlertFire
	AlertResolve
	HookVetoed
	HookFailed
	HealthDegraded
	HealthRestored
	BreakerOpen
	BreakerClose
	WatchdogExpired
	ConfigChanged
	ClockSynced
	ClockLost
	ClockStepped
	BusLost
	BusSubscribe
	BusUnsubscribe
	SinkFailed
	SinkRestored
	DaemonStart
	DaemonStop

	// typeCount is one more than the last.
	typeCount
)

// table has one row for each type.
var table = [typeCount]TypeInfo{
	AgentSpawn:          {Topic: "agent.spawn", Severity: Info, Payload: (*eventv1.AgentSpawn)(nil), Doc: "An agent was made and its program runs."},
	AgentExec:           {Topic: "agent.exec", Severity: Info, Payload: (*eventv1.AgentExec)(nil), Doc: "A process of an agent runs another program."},
	AgentFork:           {Topic: "agent.fork", Severity: Info, Payload: (*eventv1.AgentFork)(nil), Doc: "A process of an agent made another."},
	AgentThread:         {Topic: "agent.thread", Severity: Debug, OnDemand: true, Payload: (*eventv1.AgentThread)(nil), Doc: "A process of an agent made a thread."},
	AgentExit:           {Topic: "agent.exit", Severity: Info, Payload: (*eventv1.AgentExit)(nil), Doc: "The first process of an agent ended, and the agent with it."},
	AgentPause:          {Topic: "agent.pause", Severity: Notice, Payload: (*eventv1.AgentPause)(nil), Doc: "Every task of an agent was stopped."},
	AgentClock:          {Topic: "agent.clock", Severity: Notice, Payload: (*eventv1.AgentClock)(nil), Doc: "An agent's own clock was set."},
	AgentResume:         {Topic: "agent.resume", Severity: Notice, Payload: (*eventv1.AgentPause)(nil), Doc: "The tasks of a paused agent go on."},
	AgentKill:           {Topic: "agent.kill", Severity: Notice, Payload: (*eventv1.AgentKill)(nil), Doc: "Everything in an agent was told to end at once."},
	AgentSignal:         {Topic: "agent.signal", Severity: Info, Payload: (*eventv1.AgentSignal)(nil), Doc: "A signal was sent to a process of an agent."},
	AgentRestart:        {Topic: "agent.restart", Severity: Notice, Payload: (*eventv1.AgentRestart)(nil), Doc: "An agent that had ended was started again."},
	AgentLost:           {Topic: "agent.lost", Severity: Error, Payload: (*eventv1.AgentLost)(nil), Doc: "An agent ended with its kernel process."},
	AgentQuarantine:     {Topic: "agent.quarantine", Severity: Warning, Payload: (*eventv1.AgentQuarantine)(nil), Doc: "An agent lost all authority and its network; its state is kept."},
	AgentDebug:          {Topic: "agent.debug", Severity: Notice, Payload: (*eventv1.AgentDebug)(nil), Doc: "Somebody began to debug an agent, or ended that."},
	AgentSpecialize:     {Topic: "agent.specialize", Severity: Notice, Payload: (*eventv1.AgentSpecialize)(nil), Doc: "An agent was copied while it ran; the copy has less authority, for good."},
	AgentSplit:          {Topic: "agent.split", Severity: Notice, Payload: (*eventv1.AgentSplit)(nil), Doc: "Some of an agent's processes became an agent of their own."},
	AgentUpgrade:        {Topic: "agent.upgrade", Severity: Notice, Payload: (*eventv1.AgentUpgrade)(nil), Doc: "Another program of another image runs in an agent's place, or was tried and was not well."},
	AgentMerge:          {Topic: "agent.merge", Severity: Notice, Payload: (*eventv1.AgentMerge)(nil), Doc: "A copy of the agent was folded back into it."},
	AgentClone:          {Topic: "agent.clone", Severity: Notice, Payload: (*eventv1.AgentClone)(nil), Doc: "An agent was copied while it ran."},
	AgentTemplate:       {Topic: "agent.template", Severity: Notice, Payload: (*eventv1.AgentTemplate)(nil), Doc: "An agent has become a template, from which others begin."},
	DomainStart:         {Topic: "domain.start", Severity: Info, Payload: (*eventv1.DomainStart)(nil), Doc: "A kernel process runs."},
	DomainStop:          {Topic: "domain.stop", Severity: Info, Payload: (*eventv1.DomainStop)(nil), Doc: "A kernel process ended as it was told to."},
	DomainCrash:         {Topic: "domain.crash", Severity: Critical, Payload: (*eventv1.DomainCrash)(nil), Doc: "A kernel process ended and nobody had told it to."},
	DomainRestart:       {Topic: "domain.restart", Severity: Warning, Payload: (*eventv1.DomainRestart)(nil), Doc: "A kernel process runs in place of one that had crashed."},
	DomainAdopt:         {Topic: "domain.adopt", Severity: Info, Payload: (*eventv1.DomainAdopt)(nil), Doc: "A new daemon found a domain of an earlier one."},
	DomainCheckpoint:    {Topic: "domain.checkpoint", Severity: Info, Payload: (*eventv1.DomainCheckpoint)(nil), Doc: "A domain was saved to a directory."},
	DomainRestore:       {Topic: "domain.restore", Severity: Warning, Payload: (*eventv1.DomainRestore)(nil), Doc: "A domain goes on from a checkpoint; what happened since is lost."},
	FileMount:           {Topic: "file.mount", Severity: Info, Payload: (*eventv1.FileMount)(nil), Doc: "A file system was mounted."},
	FileUnmount:         {Topic: "file.unmount", Severity: Info, Payload: (*eventv1.FileMount)(nil), Doc: "A file system was unmounted."},
	FileOpen:            {Topic: "file.open", Severity: Debug, OnDemand: true, Payload: (*eventv1.FileOpen)(nil), Doc: "A file was opened."},
	FileCreate:          {Topic: "file.create", Severity: Debug, OnDemand: true, Payload: (*eventv1.FileCreate)(nil), Doc: "A file, directory, link or other node was made."},
	FileWrite:           {Topic: "file.write", Severity: Debug, OnDemand: true, Payload: (*eventv1.FileWrite)(nil), Doc: "Bytes were written to a file."},
	FileRename:          {Topic: "file.rename", Severity: Debug, OnDemand: true, Payload: (*eventv1.FileRename)(nil), Doc: "A file has another name."},
	FileRemove:          {Topic: "file.remove", Severity: Debug, OnDemand: true, Payload: (*eventv1.FileRemove)(nil), Doc: "A name of a file is gone."},
	NetConnect:          {Topic: "net.connect", Severity: Info, Payload: (*eventv1.NetConnect)(nil), Doc: "A process connected a socket, or tried to."},
	NetListen:           {Topic: "net.listen", Severity: Info, Payload: (*eventv1.NetListen)(nil), Doc: "A process waits for connections."},
	NetAccept:           {Topic: "net.accept", Severity: Info, Payload: (*eventv1.NetAccept)(nil), Doc: "A process took a connection."},
	NetDisconnect:       {Topic: "net.disconnect", Severity: Info, Payload: (*eventv1.NetDisconnect)(nil), Doc: "A connection is no more."},
	NetRefused:          {Topic: "net.refused", Severity: Notice, Payload: (*eventv1.NetRefused)(nil), Doc: "A connection did not come to be."},
	NetPacket:           {Topic: "net.packet", Severity: Debug, OnDemand: true, Payload: (*eventv1.NetPacket)(nil), Doc: "One packet of many: its headers, never its contents."},
	MemoryFaults:        {Topic: "memory.faults", Severity: Debug, OnDemand: true, Payload: (*eventv1.MemoryFaults)(nil), Doc: "How many page faults an agent took in an interval."},
	MemoryPressure:      {Topic: "memory.pressure", Severity: Warning, Payload: (*eventv1.MemoryPressure)(nil), Doc: "An agent or a domain is short of memory."},
	MemoryOOM:           {Topic: "memory.oom", Severity: Error, Payload: (*eventv1.MemoryOOM)(nil), Doc: "An agent wanted more memory than it may have, and what was done about it."},
	MemoryLimit:         {Topic: "memory.limit", Severity: Info, Payload: (*eventv1.MemoryLimit)(nil), Doc: "How much memory an agent may have changed."},
	MemoryHibernate:     {Topic: "memory.hibernate", Severity: Info, Payload: (*eventv1.MemoryHibernate)(nil), Doc: "The memory of an idle agent was swapped out."},
	MemorySwap:          {Topic: "memory.swap", Severity: Info, Payload: (*eventv1.MemorySwap)(nil), Doc: "An agent came near its memory limit, and what it did not use was swapped out."},
	RegionCreate:        {Topic: "region.create", Severity: Info, Payload: (*eventv1.Region)(nil), Doc: "A region of memory was made."},
	RegionRemove:        {Topic: "region.remove", Severity: Info, Payload: (*eventv1.Region)(nil), Doc: "A region was removed, and its pages with it."},
	RegionUnmap:         {Topic: "region.unmap", Severity: Notice, Payload: (*eventv1.Region)(nil), Doc: "The pages of a region are gone from an agent: its right to them has ended."},
	RegionSeal:          {Topic: "region.seal", Severity: Info, Payload: (*eventv1.Region)(nil), Doc: "The contents of a region do not change any more."},
	RegionVersion:       {Topic: "region.version", Severity: Info, Payload: (*eventv1.Region)(nil), Doc: "A version of a region was made."},
	SemanticWrite:       {Topic: "semantic.write", Severity: Info, Payload: (*eventv1.Semantic)(nil), Doc: "Items were written to semantic memory."},
	SemanticDelete:      {Topic: "semantic.delete", Severity: Info, Payload: (*eventv1.Semantic)(nil), Doc: "Items were removed from semantic memory."},
	SemanticRead:        {Topic: "semantic.read", Severity: Debug, Payload: (*eventv1.Semantic)(nil), Doc: "Semantic memory was searched or read."},
	RegionRollback:      {Topic: "region.rollback", Severity: Notice, Payload: (*eventv1.Region)(nil), Doc: "A region is again what it was in a version."},
	CPUThrottled:        {Topic: "cpu.throttled", Severity: Notice, Payload: (*eventv1.CPUThrottled)(nil), Doc: "An agent used up its quota of CPU and had to wait."},
	CPUChanged:          {Topic: "cpu.changed", Severity: Notice, Payload: (*eventv1.CPUChanged)(nil), Doc: "The host allows a domain other CPUs than before."},
	CPUParams:           {Topic: "cpu.params", Severity: Notice, Payload: (*eventv1.CPUParams)(nil), Doc: "What an agent was given of CPU time was changed."},
	CPUHint:             {Topic: "cpu.hint", Severity: Info, Payload: (*eventv1.CPUHint)(nil), Doc: "An agent is said to do something else than before."},
	CPUMissed:           {Topic: "cpu.missed", Severity: Warning, Payload: (*eventv1.CPUPromise)(nil), Doc: "An agent did not get CPU time that it was promised before its deadline."},
	CPUOverrun:          {Topic: "cpu.overrun", Severity: Info, Payload: (*eventv1.CPUPromise)(nil), Doc: "An agent wanted more CPU time than it was promised, and was held back."},
	LimitSoft:           {Topic: "limit.soft", Severity: Notice, Payload: (*eventv1.Limit)(nil), Doc: "An agent reached a soft limit."},
	LimitHard:           {Topic: "limit.hard", Severity: Warning, Payload: (*eventv1.Limit)(nil), Doc: "An agent was refused what is beyond a hard limit."},
	CapabilityGrant:     {Topic: "capability.grant", Severity: Info, Payload: (*eventv1.Capability)(nil), Doc: "An agent was given a capability."},
	CapabilityDelegate:  {Topic: "capability.delegate", Severity: Info, Payload: (*eventv1.Capability)(nil), Doc: "An agent gave another a capability made from its own."},
	CapabilityAttenuate: {Topic: "capability.attenuate", Severity: Info, Payload: (*eventv1.Capability)(nil), Doc: "A lesser capability was made, or one was narrowed."},
	CapabilitySeal:      {Topic: "capability.seal", Severity: Info, Payload: (*eventv1.Capability)(nil), Doc: "A capability, or an agent, can be given nothing more."},
	CapabilityRenew:     {Topic: "capability.renew", Severity: Info, Payload: (*eventv1.Capability)(nil), Doc: "A lease was made longer."},
	CapabilityRevoke:    {Topic: "capability.revoke", Severity: Notice, Payload: (*eventv1.Capability)(nil), Doc: "A capability was taken back."},
	CapabilityExpire:    {Topic: "capability.expire", Severity: Notice, Payload: (*eventv1.Capability)(nil), Doc: "A lease ended."},
	CapabilityDeny:      {Topic: "capability.deny", Severity: Warning, Payload: (*eventv1.CapabilityDeny)(nil), Doc: "Something was refused for want of a capability."},
	SecurityViolation:   {Topic: "security.violation", Severity: Error, Payload: (*eventv1.SecurityViolation)(nil), Doc: "An agent did what no program does by accident."},
	FaultException:      {Topic: "fault.exception", Severity: Debug, OnDemand: true, Payload: (*eventv1.FaultException)(nil), Doc: "The CPU refused to go on with an instruction of an agent."},
	FaultDouble:         {Topic: "fault.double", Severity: Error, Payload: (*eventv1.FaultException)(nil), Doc: "A fault could not be delivered to the program."},
	FaultTriple:         {Topic: "fault.triple", Severity: Critical, Payload: (*eventv1.FaultException)(nil), Doc: "A domain falls: its kernel process itself cannot go on."},
	FaultStorm:          {Topic: "fault.storm", Severity: Warning, Payload: (*eventv1.FaultStorm)(nil), Doc: "An agent faults faster than is good for anybody."},
	FaultVerdict:        {Topic: "fault.verdict", Severity: Warning, Payload: (*eventv1.FaultVerdict)(nil), Doc: "What was decided about a fault, and who is to blame."},
	KernelPanic:         {Topic: "kernel.panic", Severity: Critical, Payload: (*eventv1.KernelPanic)(nil), Doc: "A goroutine of a kernel process panicked."},
	KernelLockup:        {Topic: "kernel.lockup", Severity: Error, Payload: (*eventv1.KernelLockup)(nil), Doc: "Something held a CPU or a lock for too long."},
	KernelLog:           {Topic: "kernel.log", Severity: Debug, OnDemand: true, Payload: (*eventv1.KernelLog)(nil), Doc: "A line of the kernel log."},
	KernelDump:          {Topic: "kernel.dump", Severity: Notice, Payload: (*eventv1.KernelDump)(nil), Doc: "A core or a crash bundle was written."},
	IRQStorm:            {Topic: "irq.storm", Severity: Warning, Payload: (*eventv1.IRQStorm)(nil), Doc: "A line of interrupts fires faster than it may."},
	IRQThrottle:         {Topic: "irq.throttle", Severity: Notice, Payload: (*eventv1.IRQThrottle)(nil), Doc: "A line of interrupts is handled more slowly, or again as usual."},
	DeviceOpen:          {Topic: "device.open", Severity: Debug, OnDemand: true, Payload: (*eventv1.DeviceOpen)(nil), Doc: "A device was opened."},
	AlertFire:           {Topic: "alert.fire", Severity: Warning, Payload: (*eventv1.Alert)(nil), Doc: "A rule of alerts holds."},
	AlertResolve:        {Topic: "alert.resolve", Severity: Notice, Payload: (*eventv1.Alert)(nil), Doc: "A rule of alerts holds no longer."},
	HookVetoed:          {Topic: "hook.vetoed", Severity: Notice, Payload: (*eventv1.Hook)(nil), Doc: "A hook refused an operation on an agent."},
	HookFailed:          {Topic: "hook.failed", Severity: Warning, Payload: (*eventv1.Hook)(nil), Doc: "A hook could not be run, or not to its end."},
	HealthDegraded:      {Topic: "health.degraded", Severity: Warning, Payload: (*eventv1.Health)(nil), Doc: "A part of AIOS works less well."},
	HealthRestored:      {Topic: "health.restored", Severity: Notice, Payload: (*eventv1.Health)(nil), Doc: "A part of AIOS works again as it should."},
	BreakerOpen:         {Topic: "breaker.open", Severity: Warning, Payload: (*eventv1.Breaker)(nil), Doc: "Calls to something outside are refused at once."},
	BreakerClose:        {Topic: "breaker.close", Severity: Notice, Payload: (*eventv1.Breaker)(nil), Doc: "Calls to something outside are made again."},
	WatchdogExpired:     {Topic: "watchdog.expired", Severity: Error, Payload: (*eventv1.WatchdogExpired)(nil), Doc: "Something that should have reported did not."},
	ConfigChanged:       {Topic: "config.changed", Severity: Notice, Payload: (*eventv1.ConfigChanged)(nil), Doc: "A setting has another value."},
	ClockSynced:         {Topic: "clock.synced", Severity: Notice, Payload: (*eventv1.Clock)(nil), Doc: "Time servers agree, and AIOS's clock follows them."},
	ClockLost:           {Topic: "clock.lost", Severity: Warning, Payload: (*eventv1.Clock)(nil), Doc: "Time servers do not agree or do not answer; AIOS's clock goes on as it went."},
	ClockStepped:        {Topic: "clock.stepped", Severity: Warning, Payload: (*eventv1.Clock)(nil), Doc: "AIOS's clock was set: times before and after do not compare."},
	BusLost:             {Topic: "bus.lost", Severity: Warning, Payload: (*eventv1.BusLost)(nil), Doc: "Events were lost; this says how many."},
	BusSubscribe:        {Topic: "bus.subscribe", Severity: Info, Payload: (*eventv1.BusSubscription)(nil), Doc: "Somebody began to listen."},
	BusUnsubscribe:      {Topic: "bus.unsubscribe", Severity: Info, Payload: (*eventv1.BusSubscription)(nil), Doc: "Somebody ceased to listen."},
	SinkFailed:          {Topic: "sink.failed", Severity: Warning, Payload: (*eventv1.Sink)(nil), Doc: "Events do not reach an outside receiver."},
	SinkRestored:        {Topic: "sink.restored", Severity: Notice, Payload: (*eventv1.Sink)(nil), Doc: "Events reach an outside receiver again."},
	DaemonStart:         {Topic: "daemon.start", Severity: Info, Payload: (*eventv1.DaemonStart)(nil), Doc: "A daemon serves."},
	DaemonStop:          {Topic: "daemon.stop", Severity: Info, Payload: (*eventv1.DaemonStop)(nil), Doc: "A daemon ends."},
}
