package host

import (
	"testing"

	"aios.dev/aios/sentry/smp"
)

func TestCPUs(t *testing.T) {
	top, allowed, err := CPUs()
	if err != nil || allowed.Empty() || !allowed.Minus(top.ToHost(top.Online())).Empty() {
		t.Errorf("%+v, allowed %v, %v", top, allowed, err)
	}
	const cpu = "sys/devices/system/cpu/"
	files := map[string]string{cpu + "online": "0-2", cpu + "cpu1/cpu_capacity": "512"}
	for _, n := range []string{"0", "1", "2"} {
		dir := cpu + "cpu" + n
		files[dir+"/topology/core_cpus_list"] = n
		files[dir+"/topology/physical_package_id"] = "0"
		if n != "1" {
			files[dir+"/cpu_capacity"] = "1024"
		}
		files[dir+"/cache/index0/level"], files[dir+"/cache/index0/type"] = "3", "Unified"
		files[dir+"/cache/index0/size"], files[dir+"/cache/index0/shared_cpu_list"] = "4096K", "0-2"
	}
	top = smp.Read(fake(t, files).sys(), smp.Set{})
	check(t, describeCPUs(top, smp.First(3)), OK, "3 CPUs: 3 cores, 1 package, 1 NUMA node, 1 x L3 of 4 MiB, some faster than others")
	if f := describeCPUs(top, smp.Of(1)); f.What[len(f.What)-len("; domains may use 1"):] != "; domains may use 1" {
		t.Errorf("%+v", f)
	}
	check(t, describeCPUs(smp.Read(fake(t, nil).sys(), smp.Of(0)), smp.Of(0)), OK, "1 CPU: 1 core, 1 package, 1 NUMA node; what is not told is assumed")
}
