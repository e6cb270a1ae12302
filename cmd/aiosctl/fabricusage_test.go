package main

import (
	"fmt"
	"testing"

	apiv1 "aios.dev/aios/api/v1"
)

func TestRegionUsage(t *testing.T) {
	regions := []*apiv1.Region{
		{Name: "a", Domain: "d", OwnerName: "web", Owner: "a1", Size: 10, Charged: 12, Resident: 3, Mapped: 20, Labels: []string{"draft", "secret"}},
		{Name: "b", Domain: "d", Owner: "a2", Size: 5, Charged: 5, Lineage: "a@1", Labels: []string{"draft"}},
		{Name: "c", Domain: "d", Size: 1, Charged: 1, Lineage: "b@4"},
		{Name: "c2", Domain: "d", Size: 1, Charged: 1, Lineage: "gone@4"},
		{Name: "a", Domain: "other", OwnerName: "web", Size: 2, Charged: 2},
		{Name: "kept", Size: 7},
	}
	for by, want := range map[string][]usageView{
		"label":   {{"draft", 2, 15, 17, 3, 20}, {"secret", 1, 10, 12, 3, 20}, {"", 4, 11, 4, 0, 0}},
		"owner":   {{"web", 2, 12, 14, 3, 20}, {"a2", 1, 5, 5, 0, 0}, {"domain d", 2, 2, 2, 0, 0}, {"", 1, 7, 0, 0, 0}},
		"lineage": {{"a", 4, 18, 20, 3, 20}, {"gone", 1, 1, 1, 0, 0}, {"kept", 1, 7, 0, 0, 0}},
	} {
		if got := regionUsage(regions, by); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("by %s: %+v, want %+v", by, got, want)
		}
	}
	if got := regionUsage(nil, "owner"); len(got) != 0 || got == nil {
		t.Errorf("of none %v", got)
	}
	// One that was forked of a region of its own name, which is gone.
	if got := ancestor(&apiv1.Region{Name: "x", Lineage: "x@1"}, []*apiv1.Region{{Name: "x", Lineage: "x@1"}}); got != "x" {
		t.Error(got)
	}
}
