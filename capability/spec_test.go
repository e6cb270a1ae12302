package capability

import (
	"strings"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

func TestParseSpec(t *testing.T) {
	all := abi.ClassFS.All()
	for text, want := range map[string]struct {
		spec      Spec
		canonical string
	}{
		"fs:/data:ro":                       {Spec{Object: Object{abi.ClassFS, "/data"}, Rights: abi.FSRead | abi.FSExec}, ""},
		"fs:/d:read+exec":                   {Spec{Object: Object{abi.ClassFS, "/d"}, Rights: abi.FSRead | abi.FSExec}, "fs:/d:ro"},
		"fs:/work:rw,quota=1G,inodes=10000": {Spec{Object: Object{abi.ClassFS, "/work"}, Rights: all, Limits: Limits{Bytes: 1 << 30, Count: 10000}}, ""},
		"fs:/work:rw,inodes=1,quota=1.5Gi":  {Spec{Object: Object{abi.ClassFS, "/work"}, Rights: all, Limits: Limits{Bytes: 3 << 29, Count: 1}}, "fs:/work:rw,quota=1536M,inodes=1"},
		"fs:/data:ro,at=/x":                 {Spec{Object: Object{abi.ClassFS, "/data"}, Rights: abi.FSRead | abi.FSExec, At: "/x"}, ""},
		"fs:/data:ro,at=/data":              {Spec{Object: Object{abi.ClassFS, "/data"}, Rights: abi.FSRead | abi.FSExec}, "fs:/data:ro"},
		"fs:/:all":                          {Spec{Object: Object{abi.ClassFS, "/"}, Rights: all}, "fs:/:rw"},
		"fs:/a%3ab%2C%25 c:read":            {Spec{Object: Object{abi.ClassFS, "/a:b,% c"}, Rights: abi.FSRead}, "fs:/a%3Ab%2C%25%20c:read"},
		"fs:/ä%ff%E2%80%AE:read":            {Spec{Object: Object{abi.ClassFS, "/ä\xff\u202e"}, Rights: abi.FSRead}, "fs:/ä%FF%E2%80%AE:read"},
		"net:loopback":                      {Spec{Object: Object{abi.ClassNet, "loopback"}, Rights: abi.NetConnect | abi.NetBind}, ""},
		"net:loopback:connect":              {Spec{Object: Object{abi.ClassNet, "loopback"}, Rights: abi.NetConnect}, ""},
		"net:*:bind+connect":                {Spec{Object: Object{abi.ClassNet, "*"}, Rights: abi.NetConnect | abi.NetBind}, "net:*"},
		"mem:self,bytes=256M":               {Spec{Object: Object{abi.ClassMem, "self"}, Rights: abi.MemMap | abi.MemExec, Limits: Limits{Bytes: 256 << 20}}, ""},
		"mem:self,swap=1G,bytes=512M":       {Spec{Object: Object{abi.ClassMem, "self"}, Rights: abi.MemMap | abi.MemExec, Limits: Limits{Bytes: 512 << 20, Swap: 1 << 30}}, "mem:self,bytes=512M,swap=1G"},
		"mem:self:map+exec,bytes=6G":        {Spec{Object: Object{abi.ClassMem, "self"}, Rights: abi.MemMap | abi.MemExec, Limits: Limits{Bytes: 6 << 30}}, "mem:self,bytes=6G"},
		"cpu:self,weight=200,cpu=0.5":       {Spec{Object: Object{abi.ClassCPU, "self"}, Rights: abi.CPURun, Limits: Limits{MilliCPU: 500, Weight: 200}}, "cpu:self,cpu=0.5,weight=200"},
		"cpu:self,cpu=0.5,period=20ms,burst=1.5ms,reserve=0.2,every=40ms,priority=25,idle=1": {Spec{Object: Object{abi.ClassCPU, "self"}, Rights: abi.CPURun, Limits: Limits{
			MilliCPU: 500, Period: 20e6, Burst: 1.5e6, Reserve: 200000, Every: 40e6, Priority: 25, Idle: 1}}, "cpu:self,cpu=0.5,period=20ms,burst=1.5ms,reserve=0.2,every=40ms,priority=25,idle=1"},
		"cpu:2":                          {Spec{Object: Object{abi.ClassCPU, "2"}, Rights: abi.CPURun}, "cpu:2"},
		"cpu:self,cpu=2.050":             {Spec{Object: Object{abi.ClassCPU, "self"}, Rights: abi.CPURun, Limits: Limits{MilliCPU: 2050}}, "cpu:self,cpu=2.05"},
		"proc:self:spawn+exec,count=64":  {Spec{Object: Object{abi.ClassProc, "self"}, Rights: abi.ProcSpawn | abi.ProcExec, Limits: Limits{Count: 64}}, ""},
		"io:self,bps=10M,ops=100":        {Spec{Object: Object{abi.ClassIO, "self"}, Rights: abi.IORead | abi.IOWrite, Limits: Limits{BytesPerSec: 10 << 20, OpsPerSec: 100}}, ""},
		"agent:worker:signal+inspect":    {Spec{Object: Object{abi.ClassAgent, "worker"}, Rights: abi.AgentSignal | abi.AgentInspect}, ""},
		"agent:a0123456789ab:pause":      {Spec{Object: Object{abi.ClassAgent, "a0123456789ab"}, Rights: abi.AgentPause}, ""},
		"sys:namespace":                  {Spec{Object: Object{abi.ClassSys, "namespace"}, Rights: abi.SysUse}, ""},
		"event:agent.*:subscribe":        {Spec{Object: Object{abi.ClassEvent, "agent.*"}, Rights: abi.EventSubscribe}, "event:agent.*"},
		"event:*@self,lease=1m":          {Spec{Object: Object{abi.ClassEvent, "*@self"}, Rights: abi.EventSubscribe, Lease: time.Minute}, "event:*@self,lease=1m0s"},
		"event:agent.exit@worker-1.a":    {Spec{Object: Object{abi.ClassEvent, "agent.exit@worker-1.a"}, Rights: abi.EventSubscribe}, ""},
		"event:agent.exit@a0123456789ab": {Spec{Object: Object{abi.ClassEvent, "agent.exit@a0123456789ab"}, Rights: abi.EventSubscribe}, ""},
		"svc:*,lease=90s,badge=7,sealed": {Spec{Object: Object{abi.ClassSvc, "*"}, Rights: abi.SvcConnect, Lease: 90 * time.Second, Badge: 7, Sealed: true}, "svc:*,lease=1m30s,badge=7,sealed"},
	} {
		got, err := ParseSpec(text)
		if err != nil || got != want.spec {
			t.Errorf("%s: got %+v, %v", text, got, err)
			continue
		}
		if want.canonical == "" {
			want.canonical = text
		}
		if got.String() != want.canonical {
			t.Errorf("%s is written as %s, want %s", text, got, want.canonical)
		}
	}
}

func TestParseSpecRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"":                   "no class",
		"disk:/x":            "no class",
		"fs":                 "object is missing",
		"mem":                "object is missing",
		"net:":               "object is missing",
		"fs:/data":           "must be said",
		"fs:/data:":          "no right",
		"fs:/data:ro+write":  "no right",
		"fs:/data:map":       "no right",
		"fs:data:ro":         "not absolute",
		"fs:/data/../etc:ro": "not clean",
		"fs:/data/:ro":       "not clean",
		"fs:/a:b:ro":         "too many colons",
		"fs:/a%:ro":          "not readable",
		"fs:/a%zz:ro":        "not readable",
		"fs:/a%00:ro":        "zero byte",
		"fs:/" + strings.Repeat("x", 4096) + ":ro": "longer than 4095",
		"fs:/a:ro,at=x":                       "not absolute",
		"fs:/a:ro,at=":                        "not a path",
		"fs:/a:ro,at=/b,at=/c":                "comes twice",
		"fs:/a:rw,bytes=1":                    "no key",
		"fs:/a:rw,":                           "no key",
		"fs:/a:rw,quota=0":                    "is zero",
		"fs:/a:rw,quota=":                     "not a size",
		"fs:/a:rw,quota=-1":                   "not a size",
		"fs:/a:rw,quota=1X":                   "not a size",
		"fs:/a:rw,quota=1MM":                  "not a size",
		"fs:/a:rw,quota=1e9":                  "not a size",
		"fs:/a:rw,quota=9999999999999P":       "too large",
		"fs:/a:rw,quota=18446744073709551616": "too large",
		"fs:/a:rw,quota=5000P":                "more than",
		"fs:/a:rw,inodes=1K":                  "not a whole number",
		"mem:other":                           "always the holder itself",
		"net:eth0":                            "no such network endpoint",
		"cpu:self,cpu=0.0001":                 "not a number of processors",
		"cpu:self,weight=10001":               "more than 10000",
		"cpu:self,weight=0":                   "is zero",
		"net:loopback,at=/x":                  "no key",
		"agent:not a name":                    "not a name",
		"sys:name space":                      "group of system calls",
		"event:a..b":                          "not a topic",
		"event:*.a":                           "not a topic",
		"event:a*":                            "not a topic",
		"event:**":                            "not a topic",
		"event:.":                             "not a topic",
		"event:@self":                         "not a topic",
		"event:*@":                            "no agent",
		"event:*@a@b":                         "no agent",
		"event:*@-x":                          "no agent",
		"event:*@*":                           "every agent is meant",
		"event:a.*:publish":                   "no right",
		"svc:*,lease=0s":                      "not a length of time",
		"svc:*,lease=-1s":                     "not a length of time",
		"svc:*,lease=soon":                    "not a length of time",
		"svc:*,badge=-1":                      "not a whole number",
		"svc:*,sealed=yes":                    "takes no value",
		"svc:*,nonsense":                      "no key",
		"svc:" + strings.Repeat("x", 20<<10):  "longer than 16 KiB",
	} {
		_, err := ParseSpec(text)
		refused(t, err, errdefs.CapabilityInvalid)
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s: got %v, want something about %q", text, err, says)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{
		"1": 1, "1b": 1, "1k": 1024, "1K": 1024, "1kb": 1024, "1 KiB": 1024, "1.5Gi": 3 << 29, "1.5GiB": 3 << 29,
		"0.5k": 512, "1.0009765625": 0, "2t": 2 << 40, "3P": 3 << 50, "0.001k": 1, "1.999999999": 1,
	} {
		got, err := parseSize(text)
		if text == "1.0009765625" {
			if err == nil {
				t.Errorf("%s has too many decimals, yet is %d", text, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestContains(t *testing.T) {
	for _, c := range []struct {
		class       abi.Class
		whole, part string
		want        bool
	}{
		{abi.ClassFS, "/", "/a", true}, {abi.ClassFS, "/a", "/a/b", true}, {abi.ClassFS, "/a", "/ab", false}, {abi.ClassFS, "/a/b", "/a", false},
		{abi.ClassFS, "/", "/", true}, {abi.ClassFS, "/a", "/", false},
		{abi.ClassNet, "*", "loopback", true}, {abi.ClassNet, "loopback", "*", false},
		{abi.ClassAgent, "*", "worker", true}, {abi.ClassAgent, "worker", "other", false},
		{abi.ClassSys, "namespace", "namespace", true}, {abi.ClassSys, "namespace", "time", false},
		{abi.ClassEvent, "*", "a.*", true}, {abi.ClassEvent, "a.*", "a.b", true}, {abi.ClassEvent, "a.*", "a.b.*", true},
		{abi.ClassEvent, "a.*", "a", false}, {abi.ClassEvent, "a.*", "ab.c", false}, {abi.ClassEvent, "a.b", "a.*", false}, {abi.ClassEvent, "a.*", "*", false},
		{abi.ClassEvent, "*", "a.*@x", true}, {abi.ClassEvent, "a.*@x", "a.b@x", true}, {abi.ClassEvent, "a.b", "a.b@x", true}, {abi.ClassEvent, "*@x", "a.b", false},
		{abi.ClassEvent, "*@x", "a.b@y", false}, {abi.ClassEvent, "a.*", "b.*@x", false}, {abi.ClassEvent, "*@x", "*@xy", false},
		{abi.ClassSvc, "*", "db", true}, {abi.ClassSvc, "db", "*", false}, {abi.ClassMem, "self", "self", true},
	} {
		if got := (Object{c.class, c.whole}).Contains(Object{c.class, c.part}); got != c.want {
			t.Errorf("%s:%s contains %s: %v", c.class, c.whole, c.part, got)
		}
	}
	if (Object{abi.ClassMem, self}).Contains(Object{abi.ClassCPU, self}) {
		t.Error("memory contains processors")
	}
}

// FuzzParseSpec: whatever is accepted is written in a form that reads the
// same and is written the same, in printing characters without a space.
func FuzzParseSpec(f *testing.F) {
	for _, text := range []string{
		"fs:/work:rw,quota=1G,inodes=10000", "fs:/a%3Ab:ro,at=/x%2C", "cpu:self,cpu=0.5,weight=200", "event:a.b.*@self:subscribe,lease=1h,badge=9,sealed",
		"mem:self:map,bytes=1.5Gi", "io:self,bps=10M,ops=100", "agent:a0123456789ab:signal", "svc:*", "fs:/\xff:read",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSpec(text)
		if err != nil {
			if errdefs.CodeOf(err) != errdefs.CapabilityInvalid || errdefs.FixOf(err) == "" {
				t.Fatalf("%q: %v (%s)", text, err, errdefs.CodeOf(err))
			}
			return
		}
		canonical := s.String()
		again, err := ParseSpec(canonical)
		if err != nil || again != s {
			t.Fatalf("%q is written %q, which reads as %+v, %v", text, canonical, again, err)
		}
		if again.String() != canonical {
			t.Fatalf("%q is written %q and then %q", text, canonical, again)
		}
		if strings.ContainsAny(canonical, " \t\n\r\x00") {
			t.Fatalf("%q is written %q", text, canonical)
		}
	})
}
