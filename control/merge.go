package control

import "time"

// MergeRequest folds a copy back into the agent that it is a copy of.
type MergeRequest struct {
	ID string `json:"id"` // of the copy
	// Into, if it is not empty, is the ID of that agent.
	Into string `json:"into,omitempty"`
	// DryRun changes nothing.
	DryRun bool `json:"dry_run,omitempty"`
	// Conflicts says whose side is taken where both have changed the same: "ours",
	// which is the agent that is merged into, or "theirs". Else nothing is merged.
	Conflicts string `json:"conflicts,omitempty"`
	// Regions are forks that the copy owns and that are folded back, too.
	Regions []string `json:"regions,omitempty"`
	Actor   Actor    `json:"actor"`
}

// MergeReply tells what was done, or would be.
type MergeReply struct {
	Into   string `json:"into"`
	Merged bool   `json:"merged"` // and the copy has ended
	// The first of the changes and of the conflicts, by path, and how many there are.
	Changes       []MergeChange   `json:"changes"`
	Conflicts     []MergeConflict `json:"conflicts"`
	ChangeCount   int             `json:"change_count"`
	ConflictCount int             `json:"conflict_count"`
	// Pause is for how long both agents stood still.
	Pause time.Duration `json:"pause"`
}

// MergeChange is a file of the agent that is changed. A directory that is made or
// deleted stands for all that is in it.
type MergeChange struct {
	Path   string `json:"path"`
	Change string `json:"change"` // "added", "modified", "deleted", "attributes"
	Bytes  uint64 `json:"bytes,omitempty"`
}

// MergeConflict is a path at which both have changed what was there.
type MergeConflict struct {
	Path string `json:"path"`
	Kind string `json:"kind"`
}
