package lifecycle

import (
	"strings"
	"testing"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
)

// compile reads hooks as a daemon does.
func compile(t *testing.T, text string) (hooks []Hook, err error) {
	t.Helper()
	doc, err := config.Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Hooks []Config `yaml:"hooks"`
	}
	if err := doc.Decode(&c); err != nil {
		return nil, err
	}
	for i := range c.Hooks {
		h, key, err := c.Hooks[i].Compile()
		if err != nil {
			at := "hooks[0]"
			if key != "" {
				at += "." + key
			}
			return nil, doc.Fail(at, err)
		}
		hooks = append(hooks, h)
	}
	return hooks, nil
}

func TestCompile(t *testing.T) {
	hooks, err := compile(t, `hooks:
  - {name: policy, on: [spawn, exec], agents: [web-*, db], before: true, command: [/bin/true]}
  - {name: all, on: [exit], after: true, command: [/bin/true, x], order: -3, timeout: 2s, on_failure: go-on}
`)
	if err != nil || len(hooks) != 2 || hooks[0].OnFailure != Refuse || hooks[1].OnFailure != GoOn || hooks[1].Order != -3 || hooks[1].Chooses != nil {
		t.Fatalf("%+v, %v", hooks, err)
	}
	for name, want := range map[string]bool{"web-1": true, "web-": true, "db": true, "db2": false, "my-web-1": false, "": false} {
		if got := hooks[0].Chooses(&Operation{Agent: Agent{ID: "db", Name: name}}); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	every, err := compile(t, "hooks: [{name: a, on: [spawn], agents: ['*'], before: true, command: [/bin/true]}]")
	if err != nil || every[0].Chooses != nil {
		t.Errorf("%+v, %v", every, err)
	}
}

func TestCompileRefuses(t *testing.T) {
	const rest = ", before: true, command: [/bin/true]"
	for text, want := range map[string]string{
		"on: [spawn]" + rest:                                       `f:1:9: hooks[0].name: "" is no name`,
		"name: 'a b', on: [spawn]" + rest:                          `f:1:16: hooks[0].name: "a b" is no name`,
		"name: a" + rest:                                           "hooks[0].on: it is not said of which",
		"name: a, on: [divide]" + rest:                             `f:1:24: hooks[0].on[0]: "divide" is no operation`,
		"name: a, on: [spawn, spawn]" + rest:                       "hooks[0].on[1]: spawn is there already",
		"name: a, on: [spawn], command: [/bin/true]":               "hooks[0]: it is not said when it runs",
		"name: a, on: [exit]" + rest:                               "hooks[0].before: what it hears of has happened",
		"name: a, on: [spawn], agents: ['a/b']" + rest:             `hooks[0].agents[0]: "a/b" is no pattern`,
		"name: a, on: [spawn], agents: ['[a]']" + rest:             `hooks[0].agents[0]: "[a]" is no pattern`,
		"name: a, on: [spawn], order: 10000000" + rest:             "hooks[0].order: ",
		"name: a, on: [spawn], order: soon" + rest:                 "hooks[0].order: ",
		"name: a, on: [spawn], on_failure: maybe" + rest:           `hooks[0].on_failure: "maybe" is no policy`,
		"name: a, on: [spawn], timeout: 1h" + rest:                 "hooks[0].timeout: no program is given",
		"name: a, on: [spawn], before: true, command: [true]":      "hooks[0].command: it is no program",
		"name: a, on: [spawn], before: true":                       "hooks[0].command: it is no program",
		"name: a, on: [spawn], before: true, comand: [/bin/false]": `there is no key "comand"`,
	} {
		_, err := compile(t, "hooks: [{"+text+"}]")
		if errdefs.CodeOf(err) != errdefs.ConfigInvalid || !strings.Contains(err.Error(), want) || errdefs.FixOf(err) == "" {
			t.Errorf("%s: %v", text, err)
		}
	}
	c := Config{}
	if c.SetDefaults(); c.Timeout != 10*time.Second || c.OnFailure != "refuse" {
		t.Errorf("%+v", c)
	}
}
