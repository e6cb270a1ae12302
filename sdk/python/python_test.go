package python

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"reflect"
	"testing"

	"aios.dev/aios/abi"
)

func python(t *testing.T) string {
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 here")
	}
	return path
}

func TestPython(t *testing.T) {
	if out, err := exec.Command(python(t), "-B", "test_aios.py").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRightsAreThoseOfTheKernel(t *testing.T) {
	out, err := exec.Command(python(t), "-B", "-c", "import json, aios; print(json.dumps(aios.RIGHTS))").Output()
	if err != nil {
		t.Fatal(err)
	}
	got, want := make(map[string][]string), make(map[string][]string)
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	for _, c := range abi.Classes() {
		want[c.Name] = c.Rights
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the module knows %v, the kernel %v", got, want)
	}
}

func TestCallsOfRegionsAreThoseOfTheKernel(t *testing.T) {
	out, err := exec.Command(python(t), "-B", "-c", "import aiosregion as r; print(r._JOIN, r._WAIT, r._CAS, r._ARG.size, r._WIDE)").Output()
	want := fmt.Sprintln(abi.RegionRequest(abi.RegionJoin), abi.RegionRequest(abi.RegionWait), abi.RegionRequest(abi.RegionCas), abi.RegionArgSize, abi.RegionWide)
	if err != nil || string(out) != want {
		t.Errorf("the module has %q (%v), the kernel %q", out, err, want)
	}
}
