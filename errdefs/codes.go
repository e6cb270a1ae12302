package errdefs

// Code is the stable name of a kind of failure: UPPER_SNAKE, at most 63
// characters, in the domain "aios". Codes are never reused or renamed.
type Code string

// Error makes a Code usable as the target of errors.Is.
func (c Code) Error() string { return string(c) }

// The codes, by what they speak of.
const (
	// The caller asked for something that makes no sense.
	InvalidArgument Code = "INVALID_ARGUMENT"
	NotFound        Code = "NOT_FOUND"
	AlreadyExists   Code = "ALREADY_EXISTS"
	WrongState      Code = "WRONG_STATE"
	Denied          Code = "PERMISSION_DENIED"
	Unsupported     Code = "UNSUPPORTED"

	// Agents.
	AgentNotFound     Code = "AGENT_NOT_FOUND"
	AgentNameTaken    Code = "AGENT_NAME_TAKEN"
	AgentNotRunning   Code = "AGENT_NOT_RUNNING"
	AgentRunning      Code = "AGENT_RUNNING"
	ProgramNotFound   Code = "PROGRAM_NOT_FOUND"
	ProgramNotRunable Code = "PROGRAM_NOT_EXECUTABLE"
	AgentLimit        Code = "AGENT_LIMIT_REACHED"

	// Domains.
	DomainNotFound Code = "DOMAIN_NOT_FOUND"
	DomainDied     Code = "DOMAIN_DIED"
	DomainBoot     Code = "DOMAIN_BOOT_FAILED"
	BoxRefused     Code = "BOX_REFUSED"

	// Images.
	ImageNotFound Code = "IMAGE_NOT_FOUND"
	ImageInvalid  Code = "IMAGE_INVALID"
	ImageExists   Code = "IMAGE_EXISTS"
	ImageInUse    Code = "IMAGE_IN_USE"

	// The host and the daemon.
	PlatformUnusable  Code = "PLATFORM_UNUSABLE"
	HostFeature       Code = "HOST_FEATURE_MISSING"
	HostIO            Code = "HOST_IO"
	DiskFull          Code = "DISK_FULL"
	DaemonUnreachable Code = "DAEMON_UNREACHABLE"
	ProtocolVersion   Code = "PROTOCOL_VERSION_MISMATCH"
	Protocol          Code = "PROTOCOL_ERROR"
	Timeout           Code = "TIMEOUT"
	Cancelled         Code = "CANCELLED"
	Internal          Code = "INTERNAL"
)

// Blame says whose fault a failure is.
type Blame uint8

// The parties.
const (
	BlameAIOS Blame = iota
	BlameCaller
	BlameHost
	BlameAgent
)

// String names the party.
func (b Blame) String() string {
	return [...]string{"aios", "caller", "host", "agent"}[b]
}

// Exit statuses of a command that fails for a reason of AIOS's own, as shells
// and container runtimes use them.
const (
	ExitFailure       = 125
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// Info is what is known about a Code.
type Info struct {
	Blame   Blame
	Exit    int
	Meaning string
}

var table = map[Code]Info{
	InvalidArgument:   {BlameCaller, ExitFailure, "an argument is malformed or out of range"},
	NotFound:          {BlameCaller, ExitFailure, "the named object does not exist"},
	AlreadyExists:     {BlameCaller, ExitFailure, "an object of that name exists"},
	WrongState:        {BlameCaller, ExitFailure, "the object is not in a state that allows this"},
	Denied:            {BlameCaller, ExitFailure, "the caller may not do this"},
	Unsupported:       {BlameCaller, ExitFailure, "AIOS does not do this"},
	AgentNotFound:     {BlameCaller, ExitFailure, "no agent has that ID or name"},
	AgentNameTaken:    {BlameCaller, ExitFailure, "another agent has that name"},
	AgentNotRunning:   {BlameCaller, ExitFailure, "the agent has ended"},
	AgentRunning:      {BlameCaller, ExitFailure, "the agent has not ended"},
	ProgramNotFound:   {BlameCaller, ExitNotFound, "the program does not exist inside the agent's image"},
	ProgramNotRunable: {BlameCaller, ExitNotExecutable, "the program exists but cannot be executed"},
	AgentLimit:        {BlameCaller, ExitFailure, "the domain holds as many agents as it may"},
	DomainNotFound:    {BlameCaller, ExitFailure, "no domain has that name"},
	DomainDied:        {BlameHost, ExitFailure, "the kernel process of the domain ended and its agents with it"},
	DomainBoot:        {BlameHost, ExitFailure, "the kernel process of the domain could not start"},
	BoxRefused:        {BlameHost, ExitFailure, "the host refused a confinement that --strict demands"},
	ImageNotFound:     {BlameCaller, ExitFailure, "no image has that name"},
	ImageInvalid:      {BlameCaller, ExitFailure, "the image or its source is damaged or not of a known kind"},
	ImageExists:       {BlameCaller, ExitFailure, "an image of that name exists"},
	ImageInUse:        {BlameCaller, ExitFailure, "agents use the image"},
	PlatformUnusable:  {BlameHost, ExitFailure, "the host cannot run the chosen platform"},
	HostFeature:       {BlameHost, ExitFailure, "the host lacks something that is needed"},
	HostIO:            {BlameHost, ExitFailure, "a host system call failed"},
	DiskFull:          {BlameHost, ExitFailure, "the host's disk or quota is full"},
	DaemonUnreachable: {BlameHost, ExitFailure, "no daemon answers on the socket"},
	ProtocolVersion:   {BlameCaller, ExitFailure, "the two sides speak different protocol versions"},
	Protocol:          {BlameCaller, ExitFailure, "the other side broke the protocol"},
	Timeout:           {BlameHost, ExitFailure, "the operation took longer than it may"},
	Cancelled:         {BlameCaller, ExitFailure, "the caller gave up"},
	Internal:          {BlameAIOS, ExitFailure, "AIOS itself is at fault"},
}

// InfoOf returns the row of a code; an unknown code counts as Internal.
func InfoOf(c Code) Info {
	if i, ok := table[c]; ok {
		return i
	}
	return table[Internal]
}

// Codes returns every code, in no particular order.
func Codes() []Code {
	out := make([]Code, 0, len(table))
	for c := range table {
		out = append(out, c)
	}
	return out
}

// ExitOf returns the exit status for err: 0 for nil.
func ExitOf(err error) int {
	if err == nil {
		return 0
	}
	return InfoOf(CodeOf(err)).Exit
}
