package fake

import (
	"testing"

	"aios.dev/aios/platform/platformtest"
)

func TestContract(t *testing.T) { platformtest.Run(t, New()) }
