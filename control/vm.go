package control

import "time"

// Methods about the memory of agents.
const (
	MethodVM    = "vm"     // AgentRequest, VMReply
	MethodSetVM = "set-vm" // SetVMRequest, SetVMReply

	MethodHibernate = "hibernate" // HibernateRequest, HibernateReply
	MethodSetSwap   = "set-swap"  // SetSwapRequest with a file, SetSwapReply
	MethodSwapFile  = "swap-file" // SwapFileRequest with the file
)

// VMReply is what is known of an agent's memory, in bytes.
type VMReply struct {
	Used      uint64      `json:"used"`
	Peak      uint64      `json:"peak"`
	Limit     uint64      `json:"limit,omitempty"` // 0: none
	Kernel    uint64      `json:"kernel"`
	OnOOM     string      `json:"on_oom"`
	OOMs      uint64      `json:"ooms"`
	Kills     uint64      `json:"kills"`
	Swap      VMSwap      `json:"swap"`
	Processes []VMProcess `json:"processes"`
}

// VMSwap is what an agent has swapped out.
type VMSwap struct {
	// Pages that are mapped by nobody and still in memory, in bytes.
	Cached uint64 `json:"cached"`
	// Pages that are compressed in memory, that are in the file, and of which
	// there is nothing but zeros; in pages.
	Compressed uint64 `json:"compressed"`
	InFile     uint64 `json:"in_file"`
	Zero       uint64 `json:"zero"`
	// What is taken for them, and how much of the file may be, in bytes.
	Memory    uint64 `json:"memory"`
	File      uint64 `json:"file"`
	FileLimit uint64 `json:"file_limit"`
	// Pages that came back, and that were put away, so far.
	Ins  uint64 `json:"ins"`
	Outs uint64 `json:"outs"`
	// Why nothing of it is swapped out.
	Never string `json:"never,omitempty"`
	// What the agent needed, when its pages were last looked at for their age.
	WorkingSet uint64 `json:"working_set"`
}

// VMProcess is a process and how likely it is to end for want of memory.
type VMProcess struct {
	PID        int32  `json:"pid"`
	Name       string `json:"name"`
	Resident   uint64 `json:"resident"`
	Adjustment int32  `json:"adjustment"`
	Score      int32  `json:"score"`
}

// SetVMRequest changes what is done when an agent runs out of memory.
type SetVMRequest struct {
	ID    string `json:"id"`
	OnOOM string `json:"on_oom"`
	Actor Actor  `json:"actor"`
}

// SetVMReply has the rules before and after.
type SetVMReply struct {
	Was   string `json:"was"`
	OnOOM string `json:"on_oom"`
}

// SetSwapRequest has an agent swap by itself when it comes near its memory limit.
type SetSwapRequest struct {
	ID string `json:"id"`
	// Ask changes nothing; then there is no file.
	Ask bool `json:"ask,omitempty"`
	// Bytes of the file that it may use; 0 ends it.
	Bytes uint64 `json:"bytes"`
	// IfGrant, if it is set, is what its capability for memory must say.
	IfGrant string `json:"if_grant,omitempty"`
	Actor   Actor  `json:"actor"`
}

// SetSwapReply has what it could use before and after.
type SetSwapReply struct {
	Was uint64 `json:"was"`
	Now uint64 `json:"now"`
	// Grant is what its capability for memory said before.
	Grant string `json:"grant"`
}

// SwapFileRequest gives an agent the file that it swaps to.
type SwapFileRequest struct {
	ID string `json:"id"`
}

// HibernateRequest swaps all memory of an idle agent out.
type HibernateRequest struct {
	ID    string `json:"id"`
	Actor Actor  `json:"actor"`
}

// HibernateReply is what came of it, in bytes.
type HibernateReply struct {
	// What the agent had.
	Before uint64 `json:"before"`
	After  uint64 `json:"after"`
	// What was taken, what there is of it compressed in memory and in the file.
	Taken      uint64 `json:"taken"`
	Compressed uint64 `json:"compressed"`
	File       uint64 `json:"file"`
	// For how long the agent stood still, and how long all took.
	Pause time.Duration `json:"pause"`
	Took  time.Duration `json:"took"`
}
