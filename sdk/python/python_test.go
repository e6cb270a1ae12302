package python

import (
	"encoding/json"
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
