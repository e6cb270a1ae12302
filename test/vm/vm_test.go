package main

import (
	"bytes"
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// console is a run in which everything went wrong in its own way, with the
// line ends of a serial port and a kernel message in between.
const console = "booting\r\n\r\nAIOS-VM begin good\r\n--- PASS: TestA (0.00s)\r\n    --- PASS: TestA/b (0.00s)\r\n[    1.0] noise\r\nPASS\r\n\r\nAIOS-VM end good 0\r\n" +
	"\r\nAIOS-VM begin bad\r\n--- FAIL: TestA (0.00s)\r\n\r\nAIOS-VM end bad 1\r\n" +
	"\r\nAIOS-VM begin lazy\r\n--- PASS: TestA (0.00s)\r\n--- SKIP: TestB (0.00s)\r\n\r\nAIOS-VM end lazy 0\r\n" +
	"\r\nAIOS-VM begin empty\r\nPASS\r\n\r\nAIOS-VM end empty 0\r\n" +
	"\r\nAIOS-VM begin hung\r\n--- PASS: TestA (0.00s)\r\n"

func TestConsoleIsUnderstood(t *testing.T) {
	got := make(map[string]result)
	if err := follow(strings.NewReader(console), io.Discard, got); err != nil {
		t.Fatal(err)
	}
	want := map[string]result{
		"good":  {ended: true, passed: 2},
		"bad":   {ended: true, status: 1},
		"lazy":  {ended: true, passed: 1, skipped: 1},
		"empty": {ended: true},
		"hung":  {passed: 1},
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if err := judge([]suite{{name: "good"}}, got); err != nil {
		t.Errorf("good: %v", err)
	}
	for _, name := range []string{"bad", "lazy", "empty", "hung", "absent"} {
		if err := judge([]suite{{name: "good"}, {name: name}}, got); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCPUFollowsTheVersion(t *testing.T) {
	for version, smp := range map[string]string{
		"QEMU emulator version 7.2.22 (Debian 1:7.2)": "1",
		"QEMU emulator version 10.0.2 (Debian)":       "2",
	} {
		args, err := cpuArgs(version)
		if err != nil || args[len(args)-1] != smp {
			t.Errorf("%s: %v, %v", version, args, err)
		}
	}
	if _, err := cpuArgs("something else"); err == nil {
		t.Error("a version that is none was accepted")
	}
}

// TestArchive lets another program read the archive.
func TestArchive(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("no cpio here to read with")
	}
	var b bytes.Buffer
	a := &archive{w: &b}
	a.add("d", os.ModeDir|0o755, nil)
	a.add("d/odd", 0o644, []byte("seven b"))
	a.add("d/even", 0o755, []byte("eight by"))
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(cpio, "-i", "--quiet")
	cmd.Dir, cmd.Stdin = dir, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]string{"d/odd": "seven b", "d/even": "eight by"} {
		if got, err := os.ReadFile(dir + "/" + name); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
	if info, err := os.Stat(dir + "/d/even"); err != nil || info.Mode() != 0o755 {
		t.Errorf("d/even: %v, %v", info, err)
	}
}
