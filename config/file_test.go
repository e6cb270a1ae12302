package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
)

// made is a configuration with every kind of value.
type made struct {
	Version int           `yaml:"version"`
	Quiet   bool          `yaml:"quiet"`
	Share   float64       `yaml:"share"`
	Every   time.Duration `yaml:"every"`
	Keep    Size          `yaml:"keep" config:"restart"`
	Topics  []string      `yaml:"topics"`
	Door    *madeDoor     `yaml:"door"`
	Doors   []madeDoor    `yaml:"doors"`
	madeAll `yaml:",inline"`
	hidden  string
}

type madeAll struct {
	Label string `yaml:"label"`
}

type madeDoor struct {
	Name   string        `yaml:"name"`
	URL    string        `yaml:"url" config:"secret"`
	Tries  int           `yaml:"tries"`
	Within time.Duration `yaml:"within"`
}

func (m *madeDoor) SetDefaults() { m.Tries = 3 }

func read(text string) (made, *Document, error) {
	var m made
	d, err := Parse("f.yaml", []byte(text))
	if err == nil {
		err = d.Decode(&m)
	}
	return m, d, err
}

func TestDecode(t *testing.T) {
	m, d, err := read(`
version: 1
quiet: true
share: 0.5
every: 7d
keep: 64M
label: 007
topics: [a.*, "b"]
door: {name: one, tries: 9}
doors:
  - name: two
    url: https://x # with a remark
    within: 1m30s
  - name: "null"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := made{
		Version: 1, Quiet: true, Share: 0.5, Every: 7 * 24 * time.Hour, Keep: 64 << 20, Topics: []string{"a.*", "b"},
		Door:  &madeDoor{Name: "one", Tries: 9},
		Doors: []madeDoor{{Name: "two", URL: "https://x", Tries: 3, Within: 90 * time.Second}, {Name: "null", Tries: 3}},
	}
	want.Label = "007"
	if !reflect.DeepEqual(m, want) {
		t.Errorf("%+v\nnot\n%+v", m, want)
	}
	if !d.Has("doors[1].name") || d.Has("doors[1].url") || d.Has("hidden") {
		t.Error("Has does not know what the file has")
	}
	for _, empty := range []string{"", "# nothing\n", "---\n", "~"} {
		if m, _, err := read(empty); err != nil || !reflect.DeepEqual(m, made{}) {
			t.Errorf("%q: %+v, %v", empty, m, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct{ text, where, what, fix string }{
		{"version: 1\nversoin: 2", "f.yaml:2:1", `no key "versoin"`, "write version"},
		{"door: {nmae: x}", "f.yaml:1:8", `door: there is no key "nmae"`, "write name"},
		{"nothing: 1", "f.yaml:1:1", `no key "nothing"`, "keys here are version, quiet, share, every, keep, topics, door, doors, label"},
		{"Hidden: 1", "f.yaml:1:1", `no key "Hidden"`, ""},
		{"version: 1\nquiet: false\nversion: 1", "f.yaml:3:1", "there already, in line 1", "keep one"},
		{"quiet: yes", "f.yaml:1:8", `"yes" is not true or false`, "true or false"},
		{"version: 1.5", "f.yaml:1:10", "whole number", "whole number"},
		{"version: 99999999999999999999", "f.yaml:1:10", "whole number", ""},
		{"share: .nan", "f.yaml:1:8", "a number", "0.5"},
		{"every: 5", "f.yaml:1:8", "a duration", "10s"},
		{"every: -5s", "f.yaml:1:8", "a duration", "10s"},
		{"every: 1e300d", "f.yaml:1:8", "a duration", "10s"},
		{"keep: much", "f.yaml:1:7", `"much" is no size`, "256M"},
		{"keep: [1]", "f.yaml:1:7", "a list, not one value", ""},
		{"topics: a", "f.yaml:1:9", "topics: it is a single value, not a list", "dash"},
		{"topics: [a, [b]]", "f.yaml:1:13", "topics[1]: it is a list, not a text", ""},
		{"door: x", "f.yaml:1:7", "door: it is a single value, not a section", "name, url, tries, within"},
		{"doors: {name: x}", "f.yaml:1:8", "it is a section, not a list", ""},
		{"doors:\n  - name: a\n    within: soon", "f.yaml:3:13", "doors[0].within", "10s"},
		{"label:", "f.yaml:1:7", "no value", "leave the key out"},
		{"label: null", "f.yaml:1:8", "no value", ""},
		{"label: &a x", "f.yaml:1:8", "anchors", "write the value out"},
		{"topics: &t [a]\ndoors: *t", "f.yaml:1:9", "anchors", ""},
		{"label: !secret x", "f.yaml:1:8", "tags such as !secret", "leave the tag out"},
		{"? [a]\n: b", "f.yaml:1:3", "a key is a list", ""},
		{"- a", "f.yaml:1:1", "a list, not a section", ""},
		{"word", "f.yaml:1:1", "a single value, not a section", ""},
		{"version: 1\n---\nversion: 1", "f.yaml:2:1", "second document", "keep one"},
		{"a: [", "f.yaml:1", "not YAML", "indentation"},
		{"\tversion: 1", "f.yaml", "not YAML", ""},
		{"a: \"\xff\"", "f.yaml", "not YAML", ""},
	} {
		_, _, err := read(tc.text)
		if errdefs.CodeOf(err) != errdefs.ConfigInvalid {
			t.Errorf("%q: %v", tc.text, err)
			continue
		}
		if text := err.Error(); !strings.HasPrefix(text, tc.where+": ") || !strings.Contains(text, tc.what) || !strings.Contains(errdefs.FixOf(err), tc.fix) || errdefs.FixOf(err) == "" {
			t.Errorf("%q: %v; fix: %s", tc.text, err, errdefs.FixOf(err))
		}
	}
	if _, err := Parse("f", []byte(strings.Repeat("#", MaxFile+1))); errdefs.CodeOf(err) != errdefs.ConfigInvalid {
		t.Errorf("a huge file: %v", err)
	}
}

func TestFailNamesThePlace(t *testing.T) {
	_, d, err := read("doors:\n  - name: a\n")
	if err != nil {
		t.Fatal(err)
	}
	cause := errdefs.New(errdefs.InvalidArgument, "no good", errdefs.Fix("mend it"))
	for key, where := range map[string]string{"doors[0].name": "f.yaml:2:11: ", "doors[0].url": "f.yaml:2:5: ", "doors[7]": "f.yaml:2:3: ", "else": "f.yaml: "} {
		if err := d.Fail(key, cause); err.Error() != where+key+": no good" || errdefs.FixOf(err) != "mend it" || errdefs.CodeOf(err) != errdefs.ConfigInvalid {
			t.Errorf("%s: %v", key, err)
		}
	}
	if d.Fail("doors", nil) != nil {
		t.Error("no error fails")
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	if _, err := ReadFile(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(errdefs.FixOf(err), "--config") {
		t.Errorf("no file: %v", err)
	}
	if _, err := ReadFile(dir); errdefs.CodeOf(err) != errdefs.ConfigInvalid {
		t.Errorf("a directory: %v", err)
	}
	if err := os.WriteFile(path, []byte("version: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(path, 0o620); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); errdefs.CodeOf(err) != errdefs.ConfigInvalid || !strings.Contains(errdefs.FixOf(err), "chmod go-w") {
		t.Errorf("a file that a group writes: %v", err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 64123, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(path); errdefs.CodeOf(err) != errdefs.ConfigInvalid || !strings.Contains(errdefs.FixOf(err), "chown") {
			t.Errorf("a file of another user: %v", err)
		}
	}
}

func TestDiff(t *testing.T) {
	before := made{Every: time.Hour, Keep: 1 << 30, Topics: []string{"a"}, Doors: []madeDoor{{Name: "one", URL: "u"}, {Name: "two", Tries: 1}}}
	after := made{Every: 48 * time.Hour, Keep: 1 << 30, Topics: []string{"a", "b"}, Door: &madeDoor{}, Doors: []madeDoor{{Name: "two", Tries: 2}, {Name: "one", URL: "v"}}}
	after.Label = "x"
	want := []Change{
		{Key: "door", After: "{}"},
		{Key: "doors.one.url", Before: Hidden, After: Hidden},
		{Key: "doors.two.tries", Before: "1", After: "2"},
		{Key: "every", Before: "1h", After: "2d"},
		{Key: "label", After: "x"},
		{Key: "topics", Before: "[a]", After: "[a b]"},
	}
	if got := Diff(&before, &after); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got := Diff(&after, &after); got != nil {
		t.Errorf("the same is different: %+v", got)
	}
	got := Diff(&made{}, &made{Keep: 4096, hidden: "x"})
	if !reflect.DeepEqual(got, []Change{{Key: "keep", After: "4K", Restart: true}}) {
		t.Errorf("%+v", got)
	}
}

func TestDurationsAndSizesReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, 1<<62).Draw(t, "d"))
		if rapid.Bool().Draw(t, "round") {
			d = d.Truncate(time.Minute)
		}
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Fatalf("%v is written %s and read %v, %v", d, FormatDuration(d), got, err)
		}
		// A number with a fraction would lose bits beyond 2^53.
		s := Size(rapid.Uint64Range(0, 1<<53).Draw(t, "s"))
		text, _ := s.MarshalText()
		var back Size
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Fatalf("%d is written %s and read %d, %v", s, text, back, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("version: 1\ndoors: [{name: a, url: b}]\nkeep: 1G\nevery: 5m\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("{{{{[[[["))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m made
		d, err := Parse("f", data)
		if err == nil {
			err = d.Decode(&m)
		}
		if err != nil && (errdefs.CodeOf(err) != errdefs.ConfigInvalid || errdefs.FixOf(err) == "") {
			t.Errorf("%v, fix %q", err, errdefs.FixOf(err))
		}
		if m.Every < 0 {
			t.Error("a negative duration")
		}
		Diff(&made{}, &m)
	})
}
