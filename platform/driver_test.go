package platform

import (
	"errors"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
)

// candidate is a driver of which only the name and the probe matter.
type candidate struct {
	Driver
	name string
	err  error
}

func (c candidate) Name() string { return c.name }
func (c candidate) Probe() error { return c.err }

func TestSelect(t *testing.T) {
	bad := candidate{name: "fast", err: Unusable("fast", "no hardware", "buy some", nil)}
	good := candidate{name: "slow"}
	worse := candidate{name: "slower"}
	ds := Drivers{bad, good, worse}

	choice, err := ds.Select(Auto)
	if err != nil || choice.Driver.Name() != "slow" || len(choice.Skipped) != 1 || choice.Skipped[0] != bad.err {
		t.Errorf("auto chose %+v, %v", choice, err)
	}
	if choice, err := ds.Select("slower"); err != nil || choice.Driver.Name() != "slower" || choice.Skipped != nil {
		t.Errorf("by name: %+v, %v", choice, err)
	}
	if _, err := ds.Select("fast"); !errors.Is(err, errdefs.PlatformUnusable) || errdefs.FixOf(err) != "buy some" {
		t.Errorf("an unusable platform by name: %v", err)
	}
	_, err = ds.Select("quick")
	if !errors.Is(err, errdefs.InvalidArgument) || !strings.Contains(errdefs.FixOf(err), "fast, slow, slower") {
		t.Errorf("an unknown platform: %v, fix %q", err, errdefs.FixOf(err))
	}
	_, err = Drivers{bad}.Select(Auto)
	if !errors.Is(err, errdefs.PlatformUnusable) || !strings.Contains(err.Error(), "no hardware") || !strings.Contains(errdefs.FixOf(err), "fast: buy some") {
		t.Errorf("nothing usable: %v, fix %q", err, errdefs.FixOf(err))
	}
}
