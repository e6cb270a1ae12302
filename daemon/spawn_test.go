package daemon

import (
	"strings"
	"testing"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

func TestLimitsOf(t *testing.T) {
	l := limitsOf(&apiv1.SpawnRequest{})
	if l.GetProcesses() != defaultTasks || l.GetMemoryBytes() < minMemory {
		t.Errorf("the defaults are %v", l)
	}
	l = limitsOf(&apiv1.SpawnRequest{Limits: &apiv1.Limits{MemoryBytes: 64 << 20}})
	if l.GetProcesses() != defaultTasks || l.GetMemoryBytes() != 64<<20 {
		t.Errorf("with a memory limit: %v", l)
	}
}

func TestCheckSpawnRefuses(t *testing.T) {
	for _, tc := range []struct {
		req  *apiv1.SpawnRequest
		want string
	}{
		{&apiv1.SpawnRequest{Limits: &apiv1.Limits{MemoryBytes: 256}}, "no program runs in 256 bytes"},
		{&apiv1.SpawnRequest{Name: "a b"}, "cannot name an agent"},
		{&apiv1.SpawnRequest{Isolated: true, Domain: "d"}, "a domain of its own"},
		{&apiv1.SpawnRequest{Mounts: []*apiv1.Mount{{Source: "/a", Target: "/x/.."}}}, "a target below /"},
		{&apiv1.SpawnRequest{Process: &apiv1.Process{Env: []string{"=x"}}}, "not NAME=value"},
	} {
		err := checkSpawn(tc.req)
		if errdefs.CodeOf(err) != errdefs.InvalidArgument || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want %q", tc.req, err, tc.want)
		}
	}
	if err := checkSpawn(&apiv1.SpawnRequest{Name: "web", Limits: &apiv1.Limits{MemoryBytes: leastMemory}}); err != nil {
		t.Errorf("a request that makes sense: %v", err)
	}
}

func TestStrictLooksAtDomainsThatRun(t *testing.T) {
	all := []control.Box{{Name: "seccomp", OK: true}, {Name: "cgroup", OK: true}}
	if err := missingBoxes(all); err != nil {
		t.Errorf("every box stands: %v", err)
	}
	all[1] = control.Box{Name: "cgroup", Reason: "no controllers"}
	err := missingBoxes(all)
	if errdefs.CodeOf(err) != errdefs.BoxRefused || !strings.Contains(err.Error(), "cgroup") {
		t.Errorf("without a cgroup: %v", err)
	}
}
