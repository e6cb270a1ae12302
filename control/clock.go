package control

import "time"

// MethodSteer tells a kernel process how AIOS's clock, by which it stamps what
// happens, differs from the host's from now on: a Steer, no reply of interest.
const MethodSteer = "clock.steer"

// Steer is what is to be added to the host's clock now, and what that becomes bit
// by bit.
type Steer struct {
	Now  time.Duration `json:"now,omitempty"`
	Then time.Duration `json:"then,omitempty"`
}
