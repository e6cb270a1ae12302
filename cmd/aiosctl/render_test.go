package main

import (
	"strings"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

func TestRendering(t *testing.T) {
	for name, line := range map[string]string{
		"ps":                 "ps",
		"ps-all":             "ps -a",
		"ps-wide":            "ps -a -o wide --no-trunc",
		"ps-json":            "ps -a -o json",
		"ps-quiet":           "ps -q",
		"inspect":            "inspect web",
		"inspect-json":       "inspect -o json web",
		"image-ls":           "image ls",
		"image-ls-json":      "image ls -o json",
		"image-inspect":      "image inspect alpine",
		"domain-ls":          "domain ls",
		"domain-ls-wide":     "domain ls -o wide",
		"domain-ls-json":     "domain ls -o json",
		"doctor":             "doctor",
		"doctor-json":        "doctor -o json",
		"logs":               "logs web",
		"logs-timestamps":    "logs --timestamps web",
		"image-import":       "image import --replace alpine /x",
		"daemon-status-json": "daemon status -o json",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if got := b.run(strings.Fields(line)...); got != 0 {
				t.Fatalf("status %d; %s", got, b.errOut.String())
			}
			text := b.out.String()
			if b.errOut.Len() > 0 {
				text += "--- standard error\n" + b.errOut.String()
			}
			text = strings.ReplaceAll(text, b.app.stateDir, "STATE")
			if strings.ContainsRune(text, 0x1b) && !strings.HasSuffix(name, "-json") {
				t.Error("an escape sequence came through")
			}
			golden(t, name, []byte(text))
		})
	}
}

func TestDoctorOnAUselessHost(t *testing.T) {
	b := newBench(t)
	b.exit = new(apiv1.Exit) // Makes the recorder say so.
	if got := b.run("doctor"); got != 1 || !strings.Contains(b.out.String(), "agents cannot run") {
		t.Errorf("status %d, %s", got, b.out.String())
	}
}

func TestSignalNames(t *testing.T) {
	for s, want := range map[string]int32{"KILL": 9, "sigterm": 15, "9": 9, "Int": 2, "RTMIN": 34, "SIGRTMIN+3": 37, "rtmax-1": 63, "RTMAX": 64, "64": 64} {
		if got, err := parseSignal(s); err != nil || int32(got) != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0", "-1", "65", "RTMIN+31", "RTMAX-31", "RTMIN+x", "SIG", "RTMIN-1"} {
		if got, err := parseSignal(s); err == nil {
			t.Errorf("%q passes as signal %d", s, got)
		}
	}
	for n := int32(1); n <= sigRTMax; n++ {
		if n == 32 || n == 33 {
			continue
		}
		if got, err := parseSignal(signalName(n)); err != nil || int32(got) != n {
			t.Errorf("signal %d is %s, which reads as %d, %v", n, signalName(n), got, err)
		}
	}
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", 11 * time.Minute: "11m",
		90 * time.Minute: "1h30m", 11 * time.Hour: "11h", 49 * time.Hour: "2d",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestShellQuoting(t *testing.T) {
	for w, want := range map[string]string{"": "''", "a-b/c=1": "a-b/c=1", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "*": "'*'"} {
		if got := shellQuote(w); got != want {
			t.Errorf("%q: %s, want %s", w, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"web", "wbe", 1}, {"kitten", "sitting", 3}, {"same", "same", 0}, {"a", "b", 1}} {
		if got := distance(tc.a, tc.b); got != tc.want || distance(tc.b, tc.a) != tc.want {
			t.Errorf("%q and %q: %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}
