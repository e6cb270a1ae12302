package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"aios.dev/aios/errdefs"
)

// errorsBench is a bench on which nobody can be asked.
func errorsBench(t *testing.T) *bench {
	b := newBench(t)
	b.app.dial = nil
	return b
}

func TestErrorsListsEveryCodeOnce(t *testing.T) {
	b := errorsBench(t)
	if got := b.run("errors"); got != 0 {
		t.Fatalf("status %d; %s", got, b.errOut.String())
	}
	for _, c := range errdefs.Codes() {
		if n := strings.Count(b.out.String(), "  "+string(c)+"  "); n != 1 {
			t.Errorf("%s is listed %d times", c, n)
		}
	}
	for _, c := range errdefs.Categories() {
		if !strings.Contains("\n"+b.out.String(), "\n"+string(c)+"\n") {
			t.Errorf("no heading for %s", c)
		}
	}
}

func TestErrorsExplains(t *testing.T) {
	b := errorsBench(t)
	for _, typed := range []string{"RATE_LIMITED", "rate_limited", "Rate-Limited"} {
		if got := b.run("errors", typed); got != 0 {
			t.Fatalf("%s: status %d; %s", typed, got, b.errOut.String())
		}
	}
	golden(t, "errors-explain", b.out.Bytes())
	for _, c := range errdefs.Codes() {
		if got := b.run("errors", string(c)); got != 0 {
			t.Fatalf("%s: status %d; %s", c, got, b.errOut.String())
		}
		for line := range strings.Lines(b.out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > errorWidth {
				t.Errorf("%s: a line of %d characters: %s", c, n, line)
			}
		}
	}
	if b.run("errors", "token_revoked", "internal"); !strings.Contains(b.out.String(), "TOKEN_INVALID instead") || !strings.Contains(b.out.String(), "\n\nINTERNAL: ") {
		t.Errorf("two codes: %s", b.out.String())
	}
}

func TestErrorsOfMistakes(t *testing.T) {
	b := errorsBench(t)
	for typed, want := range map[string]string{
		"RATE_LIMITTED": "did you mean RATE_LIMITED?",
		"cap_denied":    "`aiosctl errors` lists them all",
		"\x1b[2J":       `"\x1b[2J"`,
	} {
		if got := b.run("errors", typed); got != errdefs.ExitFailure || !strings.Contains(b.errOut.String(), want) {
			t.Errorf("%q: status %d, %s", typed, got, b.errOut.String())
		}
	}
}

func TestErrorsJSON(t *testing.T) {
	b := errorsBench(t)
	if got := b.run("errors", "-o", "json"); got != 0 {
		t.Fatalf("status %d; %s", got, b.errOut.String())
	}
	var all []codeView
	if err := json.Unmarshal(b.out.Bytes(), &all); err != nil || len(all) != len(errdefs.Codes()) {
		t.Fatalf("%d codes, %v", len(all), err)
	}
	for _, v := range all {
		if v.Errno == "" || strings.HasPrefix(v.GRPC, "Code(") || v.Why == "" || len(v.Told) == 0 {
			t.Errorf("%+v", v)
		}
	}
	b.run("errors", "-o", "json", "host-io")
	golden(t, "errors-json", b.out.Bytes())
}

func TestErrorsCompletes(t *testing.T) {
	b := errorsBench(t)
	if b.run("__complete", "errors", "token_i"); !strings.HasPrefix(b.out.String(), "TOKEN_INVALID\n:") {
		t.Errorf("%s", b.out.String())
	}
}
