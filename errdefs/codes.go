package errdefs

// Code is the stable name of a kind of failure: UPPER_SNAKE, at most 63
// characters, in the domain "aios". Codes are never reused or renamed.
type Code string

// Error makes a Code usable as the target of errors.Is.
func (c Code) Error() string { return string(c) }

// Codes of requests that make no sense, whatever they ask for.
const (
	InvalidArgument Code = "INVALID_ARGUMENT"
	NotFound        Code = "NOT_FOUND"
	AlreadyExists   Code = "ALREADY_EXISTS"
	WrongState      Code = "WRONG_STATE"
	MergeConflict   Code = "MERGE_CONFLICT"
	Unsupported     Code = "UNSUPPORTED"
	Timeout         Code = "TIMEOUT"
	Cancelled       Code = "CANCELLED"
)

// Codes of agents.
const (
	AgentNotFound     Code = "AGENT_NOT_FOUND"
	AgentNameTaken    Code = "AGENT_NAME_TAKEN"
	AgentNotRunning   Code = "AGENT_NOT_RUNNING"
	AgentRunning      Code = "AGENT_RUNNING"
	ProgramNotFound   Code = "PROGRAM_NOT_FOUND"
	ProgramNotRunable Code = "PROGRAM_NOT_EXECUTABLE"
	AgentLimit        Code = "AGENT_LIMIT_REACHED"
	TemplateNotFound  Code = "TEMPLATE_NOT_FOUND"
	TemplateNotReady  Code = "TEMPLATE_NOT_READY"
	AgentSealed       Code = "AGENT_SEALED"
	UpgradeFailed     Code = "UPGRADE_FAILED"
)

// Codes of domains.
const (
	DomainNotFound Code = "DOMAIN_NOT_FOUND"
	DomainDied     Code = "DOMAIN_DIED"
	DomainBoot     Code = "DOMAIN_BOOT_FAILED"

	CheckpointRefused  Code = "CHECKPOINT_REFUSED"
	CheckpointDamaged  Code = "CHECKPOINT_DAMAGED"
	CheckpointMismatch Code = "CHECKPOINT_MISMATCH"
	CheckpointFile     Code = "CHECKPOINT_FILE_CHANGED"
)

// Codes of images.
const (
	ImageNotFound Code = "IMAGE_NOT_FOUND"
	ImageInvalid  Code = "IMAGE_INVALID"
	ImageExists   Code = "IMAGE_EXISTS"
	ImageInUse    Code = "IMAGE_IN_USE"
)

// Codes of capabilities.
const (
	CapabilityDenied   Code = "CAPABILITY_DENIED"
	CapabilityRevoked  Code = "CAPABILITY_REVOKED"
	CapabilitySealed   Code = "CAPABILITY_SEALED"
	CapabilityNotFound Code = "CAPABILITY_NOT_FOUND"
	CapabilityInvalid  Code = "CAPABILITY_INVALID"
	CapabilityLimit    Code = "CAPABILITY_LIMIT_REACHED"
	CapabilityDepth    Code = "CAPABILITY_DEPTH_REACHED"
	RightsExceed       Code = "RIGHTS_EXCEED"
	BudgetExhausted    Code = "BUDGET_EXHAUSTED"
	LeaseExpired       Code = "LEASE_EXPIRED"
)

// Codes of the fabric.
const (
	LabelDenied  Code = "LABEL_DENIED"
	RegionSealed Code = "REGION_SEALED"
	RegionBroken Code = "REGION_BROKEN"

	// These are of semantic memory.
	VersionConflict Code = "VERSION_CONFLICT"
	ServiceDown     Code = "SERVICE_DOWN"
)

// Codes of security: who may ask, what a program may call, what was recorded.
const (
	Denied           Code = "PERMISSION_DENIED"
	SyscallDenied    Code = "SYSCALL_DENIED"
	SeccompInvalid   Code = "SECCOMP_INVALID"
	BoxRefused       Code = "BOX_REFUSED"
	Sealed           Code = "SEALED"
	TokenInvalid     Code = "TOKEN_INVALID"
	TokenExpired     Code = "TOKEN_EXPIRED"
	TokenRevoked     Code = "TOKEN_REVOKED"
	AudienceMismatch Code = "AUDIENCE_MISMATCH"
	AuditBroken      Code = "AUDIT_BROKEN"
	AuditGap         Code = "AUDIT_GAP"
)

// Codes of what an agent may use up.
const (
	MemoryLimit   Code = "MEMORY_LIMIT"
	ProcessLimit  Code = "PROCESS_LIMIT"
	FileLimit     Code = "FILE_LIMIT"
	CPULimit      Code = "CPU_LIMIT"
	QuotaExceeded Code = "QUOTA_EXCEEDED"
	RateLimited   Code = "RATE_LIMITED"
	SwapFull      Code = "SWAP_FULL"
	SwapDamaged   Code = "SWAP_DAMAGED"
)

// Codes of the host, the daemon and what is between the processes.
const (
	PlatformUnusable  Code = "PLATFORM_UNUSABLE"
	HostFeature       Code = "HOST_FEATURE_MISSING"
	HostIO            Code = "HOST_IO"
	DiskFull          Code = "DISK_FULL"
	NetworkFailed     Code = "NETWORK_FAILED"
	DaemonUnreachable Code = "DAEMON_UNREACHABLE"
	BreakerOpen       Code = "BREAKER_OPEN"
	SinkFailed        Code = "SINK_FAILED"
	SinkRefused       Code = "SINK_REFUSED"
	HookVeto          Code = "HOOK_VETO"
	HookFailed        Code = "HOOK_FAILED"
	TimeServer        Code = "TIME_SERVER_FAILED"
	TimeUnsure        Code = "TIME_UNSURE"
	ProtocolVersion   Code = "PROTOCOL_VERSION_MISMATCH"
	Protocol          Code = "PROTOCOL_ERROR"
	ProfileNotFound   Code = "PROFILE_NOT_FOUND"
	ProfileInvalid    Code = "PROFILE_INVALID"
	ConfigInvalid     Code = "CONFIG_INVALID"
	Internal          Code = "INTERNAL"
)
