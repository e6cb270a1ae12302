package gdbstub

// Thread is a thread of what is debugged, as it numbers itself.
type Thread struct {
	PID, TID int32
	Name     string
}

// Target is what a client debugs. Its threads stand still when it is handed to
// Serve, and whenever one of its methods is called but for Interrupt and
// Detach. All methods are called by one goroutine.
//
// An error with a code of errdefs that says what is wrong is told to the client
// as such where the protocol has room for it.
type Target interface {
	// Threads are those that there are, the oldest first.
	Threads() []Thread
	// ReadRegisters copies the registers of a thread, and WriteRegisters
	// changes them; those that a client must not change stay as they are.
	ReadRegisters(Thread) (*Registers, error)
	WriteRegisters(Thread, *Registers) error
	// ReadMemory reads what the thread would read, breakpoints left out,
	// whatever its protection. It returns how much it could read.
	ReadMemory(t Thread, addr uint64, p []byte) (int, error)
	// WriteMemory writes, whatever the protection of the memory, all or
	// nothing. Only the process of the thread sees it.
	WriteMemory(t Thread, addr uint64, p []byte) error
	// SetBreakpoint stops threads of the process of t before they execute what
	// is at addr, until ClearBreakpoint. One that is there already, or was not,
	// is no error.
	SetBreakpoint(t Thread, addr uint64) error
	ClearBreakpoint(t Thread, addr uint64) error
	// PassSignals names the signals that do not stop the program.
	PassSignals(signals []int32)
	// StopAtExec says whether the program stops when it executes another one.
	StopAtExec(bool)
	// Signal is the siginfo_t of what the thread was stopped by, or nil.
	Signal(Thread) []byte
	// Auxv is the auxiliary vector of a process.
	Auxv(Thread) ([]byte, error)
	// Executable is the path of the program of a process, inside.
	Executable(Thread) (string, error)
	// Open opens a file for reading, as the program names it.
	Open(path string) (File, error)
	// ReadLink reads a symbolic link.
	ReadLink(path string) (string, error)

	// Resume lets threads go on as planned. Exactly one Stop follows, on Stops,
	// after which all threads stand still again.
	Resume(Plan) error
	// Stops delivers the Stop that follows a Resume.
	Stops() <-chan Stop
	// Interrupt has the Stop come soon.
	Interrupt()
	// Kill ends the program.
	Kill()
	// Detach lets the program go on for itself. Nothing is called after it.
	Detach()
}

// File is a file of the program's that is open.
type File interface {
	ReadAt(p []byte, off int64) (int, error)
	Stat() (FileStat, error)
	Close() error
}

// FileStat is what there is to know of a file.
type FileStat struct {
	Size     int64
	Mode     uint32 // as Linux writes it
	UID, GID uint32
	ModTime  int64 // seconds
}

// Stop is why the threads stand still.
type Stop struct {
	// Thread has stopped by itself; the others were stopped.
	Thread Thread
	// Signal is what it would have got.
	Signal int32
	// Breakpoint says that it was about to execute what a breakpoint is at.
	Breakpoint bool
	// Exec is the program that it executes now, if that is why.
	Exec string
	// Exited says that the program has ended: with Status, or by Signal.
	Exited bool
	Status int32
}

// Motion is what a thread is to do.
type Motion uint8

// Motions.
const (
	Stay Motion = iota // stand still
	Go                 // go on
	Step               // execute one instruction
)

// Action is what a thread, or several, are to do.
type Action struct {
	ID     ID
	Motion Motion
	// Signal is delivered before, 0 for none. A thread that was stopped by one
	// does not get it otherwise.
	Signal int32
	// Start and End, if they differ, have steps go on as long as the next
	// instruction is in between.
	Start, End uint64
}

// Plan is what the threads are to do: each the first Action that names it, and
// if none does, stay.
type Plan []Action

// Of returns what a thread is to do.
func (p Plan) Of(t Thread) Action {
	for _, a := range p {
		if a.ID.matches(t) {
			return a
		}
	}
	return Action{}
}
