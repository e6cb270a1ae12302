package aios

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// SignalCloned is SIGAIOSCLONE, the signal that NotifyCopy asks for.
const SignalCloned = syscall.Signal(44)

// Job is what a copy of a template is to do.
type Job struct {
	Args []string          `json:"args"`
	Env  map[string]string `json:"env"`
	Cwd  string            `json:"cwd"`
	// Template is the name of the template; "" if the agent began from none.
	Template string `json:"-"`
}

// Ready says that the program is warm. While a template is made, it returns in its
// copies only, each of which gets its own job. In an agent that began from no
// template it does nothing, and the job is what os.Args says.
func Ready() (Job, error) {
	if err := order("template", "ready"); err != nil {
		return Job{}, err
	}
	text, err := read("template")
	if err != nil {
		return Job{}, err
	}
	name, from := strings.CutPrefix(strings.TrimSpace(text), "from ")
	if !from {
		return Job{Args: os.Args[1:], Env: map[string]string{}}, nil
	}
	if text, err = read("job"); err != nil {
		return Job{}, err
	}
	j := Job{Template: name}
	return j, json.Unmarshal([]byte(text), &j)
}

// Apply puts the job where programs look for it: os.Args, the environment and the
// working directory.
func (j Job) Apply() error {
	os.Args = append(os.Args[:1:1], j.Args...)
	for k, v := range j.Env {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	if j.Cwd == "" {
		return nil
	}
	return os.Chdir(j.Cwd)
}

// Copies returns how often this agent and what it is a copy of were copied, and the
// ID of what it is a copy of, or "".
func Copies() (n uint64, from string, err error) {
	text, err := read("clones")
	if err != nil {
		return 0, "", err
	}
	if _, err := fmt.Sscan(text, &n, &from); err != nil {
		return 0, "", fmt.Errorf("%q: %w", text, err)
	}
	if from == "-" {
		from = ""
	}
	return n, from, nil
}

// NotifyCopy has every copy of this process get SignalCloned, on c as signal.Notify
// says.
func NotifyCopy(c chan<- os.Signal) error {
	signal.Notify(c, SignalCloned)
	return order("clones", "signal")
}
