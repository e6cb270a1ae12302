package control

import (
	"time"

	"aios.dev/aios/capability"
)

// MethodCheckpoint saves the domain.
const MethodCheckpoint = "checkpoint" // CheckpointRequest and files, CheckpointReply

// CheckpointRequest saves the domain to the three files that come with it: the
// kernel, the index of its memory, and a pack of pages. A fourth is the index of an
// earlier checkpoint, of which pages are not written again.
type CheckpointRequest struct {
	// Stop leaves everything stopped: the process is to be ended.
	Stop bool `json:"stop,omitempty"`
}

// CheckpointReply describes what was saved.
type CheckpointReply struct {
	State  CheckpointPart `json:"state"`
	Memory CheckpointPart `json:"memory"`
	// Pages is the new pack; it has no bytes when nothing was new.
	Pages CheckpointPart `json:"pages"`
	// Kept are the packs of the earlier checkpoint that this one needs, by their
	// number there: they come before the new one.
	Kept     []int  `json:"kept,omitempty"`
	Platform string `json:"platform"`
	// Features are those of the CPU that agents were shown.
	Features []string `json:"features"`
	// Agents are the IDs of those that are in it.
	Agents []string `json:"agents"`
	// Mounts are the file systems that it needs.
	Mounts []MountRequest `json:"mounts"`
	// Regions are the names of those that are kept in files, which it needs.
	Regions []string `json:"regions,omitempty"`
	// Pause is for how long the domain stood still.
	Pause time.Duration `json:"pause"`
}

// CheckpointPart is one file of a checkpoint.
type CheckpointPart struct {
	Bytes int64 `json:"bytes"`
	// Raw is how much it is when it is not compressed.
	Raw int64 `json:"raw"`
	// Sum is its BLAKE3.
	Sum string `json:"sum"`
}

// RestoreConfig has a kernel process go on with what another one saved. Its numbers
// are of descriptors that the process was started with.
type RestoreConfig struct {
	StateFD  int            `json:"state_fd"`
	MemoryFD int            `json:"memory_fd"`
	PackFDs  []int          `json:"pack_fds"`
	Mounts   []RestoreMount `json:"mounts,omitempty"`
	// Regions are the files of persistent ones.
	Regions []RestoreRegion `json:"regions,omitempty"`
	Logs    []RestoreLog    `json:"logs"`
	// Features are those of the CPU that agents were shown.
	Features []string `json:"features"`
	// Ended are agents that have ended since, and do not come back.
	Ended []string `json:"ended,omitempty"`
	// Revoked were ended after the checkpoint was made.
	Revoked []capability.ID `json:"revoked,omitempty"`
	// Restricted were changed since.
	Restricted []capability.Restriction `json:"restricted,omitempty"`
	// ForceFiles takes files of the host as they are.
	ForceFiles bool `json:"force_files,omitempty"`
}

// RestoreMount is a file system.
type RestoreMount struct {
	MountRequest
	FD int `json:"fd"`
}

// RestoreRegion is the file of a region.
type RestoreRegion struct {
	Name string `json:"name"`
	FD   int    `json:"fd"`
}

// RestoreLog is the log of an agent, and what it is called from now on.
type RestoreLog struct {
	ID string `json:"id"`
	FD int    `json:"fd"`
	// Bytes is what it holds already.
	Bytes int64 `json:"bytes"`
}
