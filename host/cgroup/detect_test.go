package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
)

func TestBadInputIsRefusedWithAFix(t *testing.T) {
	for _, tc := range []struct {
		parent, name string
		l            Limits
	}{
		{"..", "x", Limits{}},
		{"aios", "", Limits{}},
		{"aios", "a/b", Limits{}},
		{"aios", "../../etc", Limits{}},
		{"aios", strings.Repeat("x", 65), Limits{}},
		{"aios", "x", Limits{MemoryBytes: -1}},
		{"aios", "x", Limits{MemoryBytes: 4096}},
		{"aios", "x", Limits{PidsMax: -2}},
		{"aios", "x", Limits{CPUMilli: 1}},
		{"aios", "x", Limits{CPUWeight: 10001}},
	} {
		_, err := Create(tc.parent, tc.name, tc.l)
		if !errors.Is(err, errdefs.InvalidArgument) || errdefs.FixOf(err) == "" {
			t.Errorf("%+v: %v, fix %q", tc, err, errdefs.FixOf(err))
		}
	}
}

// mountinfo writes a mountinfo file whose mount points lie in a fresh
// directory, and makes the named files below it.
func fakeHost(t *testing.T, lines string, files map[string]string) mounts {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	info := filepath.Join(dir, "mountinfo")
	if err := os.WriteFile(info, []byte(strings.ReplaceAll(lines, "@", dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := cgroupMounts(info)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDetectTellsVersionsApart(t *testing.T) {
	const (
		v2line  = "30 25 0:26 / @/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
		memline = "31 25 0:27 / @/memory rw shared:9 - cgroup cgroup rw,memory\n"
		pidline = "32 25 0:28 / @/pids rw - cgroup cgroup rw,pids\n"
		junk    = "no separator\n1 2 3 - cgroup\n"
	)
	v1files := map[string]string{"memory/tasks": "", "pids/tasks": ""}
	for _, tc := range []struct {
		name    string
		lines   string
		files   map[string]string
		version Version
		hybrid  bool
		missing string
	}{
		{"nothing", junk, nil, None, false, "memory pids cpu"},
		{"v1", memline + pidline, v1files, V1, false, "cpu"},
		{"hybrid with an empty v2", v2line + memline + pidline,
			map[string]string{"unified/cgroup.controllers": "hugetlb\n", "memory/tasks": "", "pids/tasks": ""}, V1, true, "cpu"},
		{"v2", v2line, map[string]string{"unified/cgroup.controllers": "cpuset cpu io memory pids\n"}, V2, false, ""},
		{"v2 without pids", v2line, map[string]string{"unified/cgroup.controllers": "cpu memory\n"}, V2, false, "pids"},
		{"v1 mount that is gone", memline, nil, V1, false, "memory pids cpu"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i := detect(fakeHost(t, tc.lines, tc.files), true)
			if i.Version != tc.version || i.Hybrid != tc.hybrid || strings.Join(i.Missing, " ") != tc.missing {
				t.Errorf("got %+v", i)
			}
			if tc.missing != "" && i.Reason == "" {
				t.Error("no reason given")
			}
			if tc.missing != "" {
				if err := i.RequireControllers(strings.Fields(tc.missing)...); !errors.Is(err, errdefs.HostFeature) {
					t.Errorf("a missing controller is not refused: %v", err)
				}
			}
			if (i.Require() == nil) != i.Writable {
				t.Errorf("Require says %v of %+v", i.Require(), i)
			}
		})
	}
}

func TestOwnGroupOfV2(t *testing.T) {
	f := filepath.Join(t.TempDir(), "cgroup")
	for content, want := range map[string]string{
		"12:pids:/a\n0::/user.slice/x.scope\n": "/user.slice/x.scope",
		"0::/../../escape\n":                   "/escape",
		"":                                     "/",
	} {
		if err := os.WriteFile(f, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := ownV2Group(f); got != want {
			t.Errorf("%q: got %s, want %s", content, got, want)
		}
	}
}
