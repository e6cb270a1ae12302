package daemon

import (
	"testing"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
)

// TestChangeOf reads changes as clients send them, who may leave out anything.
func TestChangeOf(t *testing.T) {
	rights := "read"
	for name, test := range map[string]struct {
		change *apiv1.CapChange
		class  abi.Class
		ok     bool
		want   func(capability.Change) bool
	}{
		"no change": {nil, abi.ClassFS, true, func(ch capability.Change) bool { return ch == capability.Change{} }},
		"empty":     {&apiv1.CapChange{}, abi.ClassFS, true, func(ch capability.Change) bool { return ch == capability.Change{} }},
		"rights": {&apiv1.CapChange{Rights: &rights}, abi.ClassFS, true,
			func(ch capability.Change) bool {
				return ch.Rights != nil && *ch.Rights == abi.FSRead && ch.Limits == nil
			}},
		"limits": {&apiv1.CapChange{Limits: []string{"quota=1M", "inodes=7"}}, abi.ClassFS, true,
			func(ch capability.Change) bool {
				return ch.Rights == nil && ch.Limits != nil && *ch.Limits == capability.Limits{Bytes: 1 << 20, Count: 7}
			}},
		"two limits in one":           {&apiv1.CapChange{Limits: []string{"quota=1M,inodes=7"}}, abi.ClassFS, false, nil},
		"a limit of another class":    {&apiv1.CapChange{Limits: []string{"quota=1M"}}, abi.ClassProc, false, nil},
		"the rights of another class": {&apiv1.CapChange{Rights: &rights}, abi.ClassProc, false, nil},
	} {
		got, err := changeOf(test.change, test.class)
		if (err == nil) != test.ok || test.ok && !test.want(got) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
