package errdefs

import (
	"maps"
	"syscall"
	"time"
)

// Numbers of google.rpc.Code.
const (
	grpcCancelled          = 1
	grpcInvalidArgument    = 3
	grpcDeadlineExceeded   = 4
	grpcNotFound           = 5
	grpcAlreadyExists      = 6
	grpcPermissionDenied   = 7
	grpcResourceExhausted  = 8
	grpcFailedPrecondition = 9
	grpcAborted            = 10
	grpcUnimplemented      = 12
	grpcInternal           = 13
	grpcUnavailable        = 14
	grpcDataLoss           = 15
	grpcUnauthenticated    = 16
)

var (
	never       = Retry{}
	atOnce      = Retry{When: AtOnce, Limit: 3}
	afterChange = Retry{When: AfterChange}
)

func after(delay time.Duration, limit int) Retry {
	return Retry{When: AfterDelay, Delay: delay, Limit: limit}
}

// table has one row for every Code, and nothing else says what a Code means.
var table = func() map[Code]Info {
	all := make(map[Code]Info)
	for _, rows := range []map[Code]Info{requestRows, agentRows, authorityRows, limitRows, hostRows} {
		maps.Copy(all, rows)
	}
	return all
}()

var requestRows = map[Code]Info{
	InvalidArgument: {CategoryRequest, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.EINVAL, grpcInvalidArgument, ExitFailure,
		"an argument is malformed or out of range",
		"What was asked for cannot be understood, whatever the state of the system. Nothing was done.",
		"Correct the argument that the message names."},
	NotFound: {CategoryRequest, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.ENOENT, grpcNotFound, ExitFailure,
		"the named object does not exist",
		"The object never existed, has another name, or was removed in the meantime.",
		"Check the name."},
	AlreadyExists: {CategoryRequest, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.EEXIST, grpcAlreadyExists, ExitFailure,
		"an object of that name exists",
		"Names are unique, and AIOS never replaces an object that was not named for replacement.",
		"Choose another name, or remove the old object first."},
	WrongState: {CategoryRequest, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.EBUSY, grpcFailedPrecondition, ExitFailure,
		"the object is not in a state that allows this",
		"The request makes sense, but not now: an agent is paused, a daemon is shutting down, a domain is still starting.",
		"Look at the object's state and bring it into one that allows the request."},
	MergeConflict: {CategoryRequest, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.EBUSY, grpcAborted, ExitFailure,
		"the copy and its original have changed the same",
		"A merge takes what only one of them has changed since the copy was made. What both have changed is a conflict, unless they have come to the same; then nothing is merged.",
		"Look at the list, and say whose side is taken: `aiosctl merge --ours` or `--theirs`."},
	Unsupported: {CategoryRequest, Notice, BlameCaller, never, Expose, "", 0, syscall.EOPNOTSUPP, grpcUnimplemented, ExitFailure,
		"AIOS does not do this",
		"The request is valid elsewhere, but this version of AIOS has no implementation of it.",
		"Do without it, or see the documentation for the nearest thing that is supported."},
	Timeout: {CategoryRequest, Warning, BlameHost, after(100*time.Millisecond, 5), Expose, "", TellLog | TellOperator, syscall.ETIMEDOUT, grpcDeadlineExceeded, ExitFailure,
		"the operation took longer than it may",
		"A time limit ended an operation that had not finished. What it had begun may or may not have taken effect.",
		"Look at the load of the host; then try again, or allow more time."},
	Cancelled: {CategoryRequest, Notice, BlameCaller, never, Expose, "", 0, syscall.ECANCELED, grpcCancelled, ExitFailure,
		"the caller gave up",
		"The client closed the connection or was interrupted before the answer came.",
		"Nothing is wrong; ask again if the answer is still wanted."},
}

var agentRows = map[Code]Info{
	AgentNotFound: {CategoryAgent, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.ESRCH, grpcNotFound, ExitFailure,
		"no agent has that ID or name",
		"Agents are found by full ID, by name, or by a prefix of the ID that no other agent shares. Agents that were removed are forgotten.",
		"List the agents with `aiosctl ps -a`."},
	AgentNameTaken: {CategoryAgent, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.EEXIST, grpcAlreadyExists, ExitFailure,
		"another agent has that name",
		"A name stands for one agent until that agent is removed, even after it has ended.",
		"Choose another name, or remove the other agent with `aiosctl rm`."},
	AgentNotRunning: {CategoryAgent, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.ESRCH, grpcFailedPrecondition, ExitFailure,
		"the agent has ended",
		"Its processes are gone; only its record and its logs are kept.",
		"Spawn a new agent."},
	AgentRunning: {CategoryAgent, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.EBUSY, grpcFailedPrecondition, ExitFailure,
		"the agent has not ended",
		"Records of running agents cannot be removed.",
		"End it with `aiosctl kill`, or wait for it with `aiosctl wait`."},
	ProgramNotFound: {CategoryAgent, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.ENOENT, grpcNotFound, ExitNotFound,
		"the program does not exist inside the agent's image",
		"Programs are looked up in the agent's own files, along its own PATH, not on the host.",
		"Check the path, the image and the mounts that the agent was given."},
	ProgramNotRunable: {CategoryAgent, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.EACCES, grpcFailedPrecondition, ExitNotExecutable,
		"the program exists but cannot be executed",
		"It is not executable, is built for another machine, or names an interpreter that does not exist.",
		"Check its mode and its first line."},
	AgentLimit: {CategoryAgent, Warning, BlameCaller, afterChange, Expose, "", TellLog | TellOperator, syscall.EAGAIN, grpcResourceExhausted, ExitFailure,
		"the domain holds as many agents as it may",
		"Every domain has an upper number of agents, so that one cannot starve the host.",
		"Remove agents that have ended their work, or use another domain."},
	DomainNotFound: {CategoryDomain, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.ENOENT, grpcNotFound, ExitFailure,
		"no domain has that name",
		"A domain exists from its first agent until it is stopped or dies.",
		"List the domains with `aiosctl domain ls`."},
	CheckpointRefused: {CategoryDomain, Warning, BlameCaller, afterChange, Expose, "", TellOperator, syscall.EBUSY, grpcFailedPrecondition, ExitFailure,
		"the domain cannot be saved as it is",
		"Something in the domain cannot be part of a checkpoint: the message names the agent and what it is. The domain goes on as if nothing had been asked.",
		"Close or end what the message names, and try again."},
	CheckpointDamaged: {CategoryDomain, Failure, BlameHost, never, Expose, "", TellLog | TellOperator, syscall.EIO, grpcDataLoss, ExitFailure,
		"the checkpoint is damaged",
		"A part of the checkpoint is missing or is not what was written: the message names it. Nothing was restored.",
		"Use another checkpoint, or a copy of this one."},
	CheckpointMismatch: {CategoryDomain, Warning, BlameCaller, never, Expose, "", TellOperator, syscall.EINVAL, grpcFailedPrecondition, ExitFailure,
		"the checkpoint was not made for this host or this AIOS",
		"A checkpoint is restored by the version of AIOS that made it, on a host whose CPUs have every feature that its agents were shown, with the files that they use. The message names what is missing.",
		"Restore it where it was made, or where the message no longer holds."},
	CheckpointFile: {CategoryDomain, Warning, BlameCaller, never, Expose, "", TellOperator, syscall.EBUSY, grpcFailedPrecondition, ExitFailure,
		"a file that an agent has open has changed meanwhile",
		"A file in a directory of the host that was granted to an agent of the checkpoint was open then, and is another now or has other contents. Nothing was restored.",
		"Put the file back as it was, or take it as it is with `aiosctl domain restore --force-files`."},
	DomainDied: {CategoryDomain, Critical, BlameHost, atOnce, Expose, "", TellLog | TellOperator | TellAudit, syscall.EIO, grpcAborted, ExitFailure,
		"the kernel process of the domain ended and its agents with it",
		"The host killed it (out of memory is the usual reason), or it failed. Agents of other domains did not notice. The next agent starts a new kernel process.",
		"Look at the domain's log for its last words; spawn the agents again."},
	DomainBoot: {CategoryDomain, Failure, BlameHost, after(200*time.Millisecond, 3), Expose, "", TellLog | TellOperator, syscall.EIO, grpcInternal, ExitFailure,
		"the kernel process of the domain could not start",
		"The program was started on the host, but ended or fell silent before its kernel was ready.",
		"See `aiosctl doctor` for what the host lacks, and the domain's log."},
	TemplateNotFound: {CategoryAgent, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.ENOENT, grpcNotFound, ExitFailure,
		"no template has that name",
		"A template lives in one domain and is gone when that ends, unless that goes on from a checkpoint. An agent that is to be started again from it stays ended then.",
		"List the templates with `aiosctl template ls`; make it anew with `aiosctl template create`."},
	UpgradeFailed: {CategoryAgent, Notice, BlameAgent, afterChange, Expose, "", 0, syscall.ECANCELED, grpcFailedPrecondition, ExitFailure,
		"the new program was not well, and the agent is what it was",
		"An upgrade starts the program of the new image while the old one stands still. The new one ended, or its health check did not succeed in time; the old one goes on where it was.",
		"Read what the new program wrote to the agent's log, and mend the image; docs/upgrade.md says what is checked."},
	TemplateNotReady: {CategoryAgent, Notice, BlameAgent, afterChange, Expose, "", 0, syscall.ECANCELED, grpcFailedPrecondition, ExitFailure,
		"the program did not become warm",
		"A template is an agent that is stopped when it says that it is warm, or waits for its input. This one ended before, or took too long.",
		"Read what it wrote; docs/templates.md says how a program says that it is warm."},

	ImageNotFound: {CategoryImage, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.ENOENT, grpcNotFound, ExitFailure,
		"no image has that name",
		"Images are found by name; AIOS does not fetch them by itself.",
		"List the images with `aiosctl image ls`; import one with `aiosctl image import`."},
	ImageInvalid: {CategoryImage, Notice, BlameCaller, afterChange, Expose, "", TellLog, syscall.EINVAL, grpcInvalidArgument, ExitFailure,
		"the image or its source is damaged or not of a known kind",
		"Images come from other people and are checked whole before an agent may use them; this one failed a check.",
		"Obtain the image again, or build it anew."},
	ImageExists: {CategoryImage, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.EEXIST, grpcAlreadyExists, ExitFailure,
		"an image of that name exists",
		"An image never changes under its name while it exists.",
		"Choose another name, or remove the image with `aiosctl image rm`."},
	ImageInUse: {CategoryImage, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.EBUSY, grpcFailedPrecondition, ExitFailure,
		"agents use the image",
		"The image is the root of running agents, or of records of agents that name it.",
		"End and remove these agents first."},
}

var hostRows = map[Code]Info{
	PlatformUnusable: {CategoryPlatform, Failure, BlameHost, afterChange, Redact, "", TellLog | TellOperator, syscall.ENODEV, grpcFailedPrecondition, ExitFailure,
		"the host cannot run the chosen platform",
		"A platform needs something of the host's processor or kernel that was tried and did not work.",
		"See `aiosctl doctor`; choose another platform, or let AIOS choose."},
	HostFeature: {CategoryPlatform, Failure, BlameHost, afterChange, Redact, "", TellLog | TellOperator, syscall.ENOSYS, grpcFailedPrecondition, ExitFailure,
		"the host lacks something that is needed",
		"A kernel feature, a right or a file of the host is missing, and there is no safe way around it.",
		"See `aiosctl doctor` for what is missing and how to provide it."},
	HostIO: {CategoryIO, Failure, BlameHost, after(50*time.Millisecond, 3), Redact, "", TellLog | TellOperator, syscall.EIO, grpcInternal, ExitFailure,
		"a host system call failed",
		"The host refused or failed an operation on a file, a socket or a process that AIOS needs.",
		"The message names the call and what it was made on: check it on the host."},
	DiskFull: {CategoryFilesystem, Failure, BlameHost, afterChange, Redact, "", TellLog | TellOperator, syscall.ENOSPC, grpcResourceExhausted, ExitFailure,
		"the host's disk or quota is full",
		"Images, logs and what agents write are kept on the host's disk.",
		"Free space, remove images and ended agents, or move the state directory."},
	NetworkFailed: {CategoryNetwork, Failure, BlameHost, afterChange, Redact, "", TellLog | TellOperator, syscall.ENETDOWN, grpcInternal, ExitFailure,
		"the network of an agent could not be made",
		"The agent's own network stack could not be built or configured.",
		"Look at the domain's log."},
	BreakerOpen: {CategoryService, Notice, BlameHost, after(time.Second, 3), Expose, "", 0, syscall.EAGAIN, grpcUnavailable, ExitFailure,
		"a dependency failed again and again, and is left alone for a while",
		"After a row of failures its circuit breaker is open: calls are refused at once instead of failing slowly. One call is let through from time to time, and if it succeeds the breaker closes.",
		"Mend what the latest failure names; the next call after the pause tries again by itself."},
	SinkFailed: {CategoryService, Notice, BlameHost, after(200*time.Millisecond, 3), Expose, "", TellLog | TellOperator, syscall.EHOSTUNREACH, grpcUnavailable, ExitFailure,
		"an outside receiver does not take events",
		"A sink sends events to a receiver that is down, cannot be reached, or does not let AIOS in. They wait in the journal, and are sent when it takes them.",
		"Look at `aiosctl sink ls`; mend the receiver or what the configuration says of it."},
	SinkRefused: {CategoryService, Notice, BlameHost, afterChange, Expose, "", TellLog | TellOperator, syscall.EREMOTEIO, grpcFailedPrecondition, ExitFailure,
		"an outside receiver does not want an event",
		"The receiver of a sink answered that it will never take this event, for example because it is too large. It is asked again, or the event is passed over, as the configuration says.",
		"Have the receiver take it, narrow what the sink sends, or set refused: skip."},
	HookVeto: {CategoryService, Notice, BlameCaller, afterChange, Expose, "", TellAudit, syscall.EPERM, grpcPermissionDenied, ExitFailure,
		"a hook refused the operation",
		"The daemon's configuration names programs that are asked before something is done to an agent. One of them said no, for the reason that the message has; nothing was done.",
		"Do what the reason says, or ask who configured the hook; `aiosctl hook ls` lists hooks."},
	HookFailed: {CategoryService, Warning, BlameHost, after(time.Second, 3), Redact, "", TellLog | TellOperator | TellAudit, syscall.EAGAIN, grpcUnavailable, ExitFailure,
		"a hook that has to be asked does not answer",
		"A hook with on_failure: refuse did not end in its time, could not be run or was killed, so nobody knows whether it would refuse. Nothing was done.",
		"See `aiosctl hook ls` and the daemon's log for why; mend the hook, or give it on_failure: go-on."},
	TimeServer: {CategoryService, Notice, BlameHost, after(time.Second, 3), Expose, "", TellLog | TellOperator, syscall.EHOSTUNREACH, grpcUnavailable, ExitFailure,
		"a time server does not tell the time",
		"A server that the configuration names does not answer, or what it says cannot be used: it is itself not synchronised, too far away, or does not want to be asked.",
		"Look at `aiosctl time`; mend the server, or name another."},
	TimeUnsure: {CategoryService, Notice, BlameHost, after(time.Second, 3), Expose, "", TellLog | TellOperator, syscall.EAGAIN, grpcUnavailable, ExitFailure,
		"what time it is cannot be found out",
		"No time server answers, or no majority of them agrees, or they say that the host's clock is further off than is believed. AIOS's clock goes on as it went.",
		"Look at `aiosctl time`; name at least three independent servers."},
	DaemonUnreachable: {CategoryService, Notice, BlameHost, after(100*time.Millisecond, 5), Expose, "", 0, syscall.ECONNREFUSED, grpcUnavailable, ExitFailure,
		"no daemon answers on the socket",
		"The daemon is not running, is starting, or went away in the middle of a call. Agents go on running without it.",
		"Try again: that starts a daemon. See `aiosctl daemon status`."},
	ProtocolVersion: {CategoryIPC, Failure, BlameCaller, afterChange, Expose, "", TellLog | TellOperator, syscall.EPROTONOSUPPORT, grpcFailedPrecondition, ExitFailure,
		"the two sides speak different protocol versions",
		"Client, daemon and kernel process were built from different releases that do not understand each other.",
		"Install the same release everywhere and restart the daemon with `aiosctl daemon stop`."},
	Protocol: {CategoryIPC, Failure, BlameCaller, never, Expose, "", TellLog | TellOperator, syscall.EPROTO, grpcInvalidArgument, ExitFailure,
		"the other side broke the protocol",
		"A message was malformed, out of order or too large. What the other side sends is untrusted, so the connection is not used any further.",
		"Use the client of the same release; if that is so, report it."},
	ProfileNotFound: {CategoryConfig, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.ENOENT, grpcNotFound, ExitFailure,
		"no profile has that name",
		"A profile is a file that bundles grants; it is either built in or kept in the configuration.",
		"Check the name; use --grant to give single capabilities."},
	ProfileInvalid: {CategoryConfig, Notice, BlameCaller, afterChange, Expose, "", 0, syscall.EINVAL, grpcInvalidArgument, ExitFailure,
		"the profile does not parse",
		"A line of the profile is not a grant, a limit or a comment. A profile is taken whole or not at all.",
		"Correct the line that the message names."},
	ConfigInvalid: {CategoryConfig, Failure, BlameCaller, afterChange, Expose, "", TellLog | TellOperator, syscall.EINVAL, grpcInvalidArgument, ExitFailure,
		"the configuration makes no sense",
		"A setting, an environment variable or a state directory cannot be used as it is.",
		"Correct what the message names."},
	Internal: {CategoryInternal, Critical, BlameAIOS, never, Redact, "", TellLog | TellOperator, syscall.EIO, grpcInternal, ExitFailure,
		"AIOS itself is at fault",
		"Something happened that AIOS did not foresee. No request should be able to cause it.",
		"Report it with the log and the correlation ID."},
}
