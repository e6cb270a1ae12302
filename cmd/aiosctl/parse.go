package main

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

func invalid(flag, value, detail, fix string) error {
	return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op(flag), errdefs.Resource("%q", value), errdefs.Fix("%s", fix))
}

// parseMount reads SRC:DST[:ro|rw]; a relative SRC is below dir.
func parseMount(s, dir string) (*apiv1.Mount, error) {
	const form = "write --mount SRC:DST, with :rw at the end to let the agent write"
	parts := strings.Split(s, ":")
	mode := "ro"
	if len(parts) == 3 {
		mode = parts[2]
	}
	switch {
	case len(parts) < 2 || len(parts) > 3 || parts[0] == "":
		return nil, invalid("--mount", s, "a mount has a source and a target", form)
	case mode != "ro" && mode != "rw":
		return nil, invalid("--mount", s, fmt.Sprintf("a mount is ro or rw, not %q", mode), form)
	case !path.IsAbs(parts[1]):
		return nil, invalid("--mount", s, "the target is not an absolute path", form)
	case path.Clean(parts[1]) == "/":
		return nil, invalid("--mount", s, "the target is the agent's root", "import the directory with `aiosctl image import` and use --image")
	}
	src := parts[0]
	if !filepath.IsAbs(src) {
		src = filepath.Join(dir, src)
	}
	return &apiv1.Mount{Source: filepath.Clean(src), Target: path.Clean(parts[1]), Writable: mode == "rw"}, nil
}

// parseEnv turns NAME into NAME=value from the caller's own environment; a
// NAME that is not set there is left out.
func parseEnv(vars []string, getenv func(string) (string, bool)) ([]string, error) {
	var out []string
	for _, v := range vars {
		name, _, given := strings.Cut(v, "=")
		if name == "" || strings.ContainsRune(v, 0) {
			return nil, invalid("--env", v, "the name is empty or a character is NUL", "write --env NAME=value, or --env NAME to pass your own value on")
		}
		if given {
			out = append(out, v)
		} else if value, ok := getenv(name); ok {
			out = append(out, name+"="+value)
		}
	}
	return out, nil
}

// parseSize reads bytes with an optional binary unit: 256M, 1.5G, 4096.
func parseSize(flag, s string) (uint64, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n <= 0 {
		return 0, invalid(flag, s, "not a size", "write a number with a unit, such as 256M or 2G")
	}
	return uint64(n), nil
}

func parseLabels(labels []string) (map[string]string, error) {
	if len(labels) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(labels))
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		if k == "" {
			return nil, invalid("--label", l, "the key is empty", "write --label KEY=VALUE")
		}
		out[k] = v
	}
	return out, nil
}

func checkName(what, name string) error {
	if name == "" || abi.ValidName(name) {
		return nil
	}
	return invalid(what, name, "not a valid name",
		fmt.Sprintf("use 1 to %d letters, digits, '.', '_' and '-', starting with a letter or digit; the form of an agent ID is taken", abi.MaxNameLen))
}

// Signals from 34 on are the program's own; the C library keeps 32 and 33.
const sigRTMin, sigRTMax = 34, 64

// parseSignal reads a signal's name, with or without SIG, in any case, or its
// number; RTMIN+n and RTMAX-n too.
func parseSignal(s string) (syscall.Signal, error) {
	bad := invalid("--signal", s, "no such signal", "use a name such as TERM, or a number from 1 to 64; `kill -l` lists them")
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > sigRTMax {
			return 0, bad
		}
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	n := 0
	switch {
	case name == "RTMIN":
		n = sigRTMin
	case name == "RTMAX":
		n = sigRTMax
	case strings.HasPrefix(name, "RTMIN+"):
		if d, err := strconv.ParseUint(name[len("RTMIN+"):], 10, 8); err == nil {
			n = sigRTMin + int(d)
		}
	case strings.HasPrefix(name, "RTMAX-"):
		if d, err := strconv.ParseUint(name[len("RTMAX-"):], 10, 8); err == nil {
			n = sigRTMax - int(d)
		}
	}
	if n < sigRTMin || n > sigRTMax {
		return 0, bad
	}
	return syscall.Signal(n), nil
}

// signalName is the inverse of parseSignal.
func signalName(n int32) string {
	if name := unix.SignalName(syscall.Signal(n)); name != "" {
		return name
	}
	if n >= sigRTMin && n <= sigRTMax {
		return fmt.Sprintf("SIGRTMIN+%d", n-sigRTMin)
	}
	return fmt.Sprintf("signal %d", n)
}
