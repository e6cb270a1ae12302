package daemon

import (
	"slices"
	"testing"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/host/cgroup"
)

func TestGroupFollowsWhatIsPromised(t *testing.T) {
	const host = 16 << 30
	most := float64(host) * groupMemoryShare
	for name, test := range map[string]struct {
		p    control.Promised
		want cgroup.Limits
	}{
		"nobody": {control.Promised{}, cgroup.Limits{MemoryBytes: ownMemory, PidsMax: groupPidsMax}},
		"two": {
			control.Promised{Agents: 2, MemoryBytes: 1 << 30, Tasks: 100, MilliCPU: 1500},
			cgroup.Limits{MemoryBytes: 1<<30 + ownMemory + 2*agentMemory, PidsMax: groupPidsMax, CPUMilli: 1500 + ownCPU},
		},
		"more than there is": {
			control.Promised{Agents: 2, MemoryBytes: host, Tasks: 1 << 20, CPUUnlimited: true},
			cgroup.Limits{MemoryBytes: int64(most), PidsMax: groupPidsMax},
		},
		"one without limits": {
			control.Promised{Agents: 2, MemoryBytes: 1 << 20, Tasks: 1, MilliCPU: 100, MemoryUnlimited: true, TasksUnlimited: true, CPUUnlimited: true},
			cgroup.Limits{MemoryBytes: int64(most), PidsMax: groupPidsMax},
		},
	} {
		if got := groupLimits(test.p, host); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestGroupStaysAboveUse(t *testing.T) {
	l := cgroup.Limits{MemoryBytes: 1 << 30, PidsMax: 5000, CPUMilli: 1500}
	if got := aboveUse(l, cgroup.Stats{MemoryBytes: 100 << 20, Pids: 100}); got != l {
		t.Errorf("%+v, want %+v", got, l)
	}
	got := aboveUse(l, cgroup.Stats{MemoryBytes: 4 << 30, Pids: 4000})
	if want := (cgroup.Limits{MemoryBytes: 5<<30 + ownMemory, PidsMax: 5000, CPUMilli: 1500}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := aboveUse(cgroup.Limits{}, cgroup.Stats{MemoryBytes: 1, Pids: 1}); got != (cgroup.Limits{}) {
		t.Errorf("limits out of nowhere: %+v", got)
	}
}

func TestSelfGrants(t *testing.T) {
	specs := func(texts ...string) []string { return texts }
	for name, test := range map[string]struct {
		given []string
		milli uint64
		want  []string
		fails bool
	}{
		"nothing asked": {nil, 0, specs("mem:self,bytes=1G", "proc:self:spawn+exec+signal,count=7", "cpu:self", "io:self", "event:*@self"), false},
		"a limit":       {nil, 500, specs("mem:self,bytes=1G", "proc:self:spawn+exec+signal,count=7", "cpu:self,cpu=0.5", "io:self", "event:*@self"), false},
		"granted":       {specs("mem:self:map,bytes=5M", "proc:self:spawn"), 0, specs("cpu:self", "io:self", "event:*@self"), false},
		"no processes":  {specs("proc:self:exec"), 0, specs("mem:self,bytes=1G", "cpu:self", "io:self", "event:*@self"), false},
		"debug is no processes": {specs("proc:self:debug"), 0,
			specs("mem:self,bytes=1G", "proc:self:spawn+exec+signal,count=7", "cpu:self", "io:self", "event:*@self"), false},
		"events":           {specs("event:agent.*", "event:net.*@self"), 0, specs("mem:self,bytes=1G", "proc:self:spawn+exec+signal,count=7", "cpu:self", "io:self"), false},
		"events of others": {specs("event:agent.*", "event:*@web"), 0, specs("mem:self,bytes=1G", "proc:self:spawn+exec+signal,count=7", "cpu:self", "io:self", "event:*@self"), false},
		"both":             {specs("cpu:self,cpu=1"), 500, nil, true},
	} {
		given, err := parseGrants(test.given)
		if err != nil {
			t.Fatal(err)
		}
		got, err := selfGrants(&apiv1.Limits{MemoryBytes: 1 << 30, Processes: 7, MilliCpu: test.milli}, given)
		var texts []string
		for _, s := range got {
			texts = append(texts, s.String())
		}
		if (err != nil) != test.fails || !slices.Equal(texts, test.want) {
			t.Errorf("%s: %q, %v, want %q", name, texts, err, test.want)
		}
	}
}

// TestBoundMemory: limits that are asked for bound what is granted beside them.
func TestBoundMemory(t *testing.T) {
	for name, test := range map[string]struct {
		given        []string
		memory, swap uint64
		want         []string
		fails        bool
	}{
		"nothing asked":    {[]string{"mem:self:map"}, 0, 0, []string{"mem:self:map"}, false},
		"nothing granted":  {[]string{"net:loopback"}, 64 << 20, 1 << 30, []string{"net:loopback"}, false},
		"without bytes":    {[]string{"net:loopback", "mem:self:map"}, 64 << 20, 0, []string{"net:loopback", "mem:self:map,bytes=64M"}, false},
		"with more":        {[]string{"mem:self,bytes=1G,count=9"}, 64 << 20, 0, []string{"mem:self,bytes=64M,count=9"}, false},
		"with less":        {[]string{"mem:self,bytes=16M"}, 64 << 20, 0, []string{"mem:self,bytes=16M"}, false},
		"two that fit":     {[]string{"mem:self,bytes=16M", "mem:self:map,bytes=48M"}, 64 << 20, 0, []string{"mem:self,bytes=16M", "mem:self:map,bytes=48M"}, false},
		"two that do not":  {[]string{"mem:self,bytes=17M", "mem:self:map,bytes=48M"}, 64 << 20, 0, nil, true},
		"one has no limit": {[]string{"mem:self,bytes=17M", "mem:self:map"}, 64 << 20, 0, nil, true},
		"swap":             {[]string{"mem:self:map,bytes=17M"}, 0, 1 << 30, []string{"mem:self:map,bytes=17M,swap=1G"}, false},
		"the same swap":    {[]string{"mem:self:map,bytes=17M,swap=1G"}, 0, 1 << 30, []string{"mem:self:map,bytes=17M,swap=1G"}, false},
		"other swap":       {[]string{"mem:self:map,bytes=17M,swap=2G"}, 0, 1 << 30, nil, true},
	} {
		req := &apiv1.SpawnRequest{Grants: slices.Clone(test.given), Limits: &apiv1.Limits{MemoryBytes: test.memory, SwapBytes: test.swap}}
		err := boundMemory(req)
		if (err != nil) != test.fails || err == nil && !slices.Equal(req.Grants, test.want) {
			t.Errorf("%s: %q, %v", name, req.Grants, err)
		}
		if err == nil && boundMemory(req) != nil {
			t.Errorf("%s: not a second time", name)
		}
	}
}
