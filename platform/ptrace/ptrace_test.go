package ptrace

import (
	"testing"

	"aios.dev/aios/platform/platformtest"
)

func TestContract(t *testing.T) { platformtest.RunDriver(t, Driver{}) }
