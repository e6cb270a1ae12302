package drivers

import (
	"errors"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/platform"
)

func TestEveryRefusalHasReasonAndFix(t *testing.T) {
	for _, d := range All() {
		err := d.Probe()
		if err == nil {
			t.Logf("%s: usable", d.Name())
			continue
		}
		t.Logf("%v; fix: %s", err, errdefs.FixOf(err))
		if !errors.Is(err, errdefs.PlatformUnusable) || errdefs.FixOf(err) == "" || !strings.Contains(err.Error(), d.Name()) {
			t.Errorf("%s refuses with %#v: want code %s, its name and a fix", d.Name(), err, errdefs.PlatformUnusable)
		}
	}
}

func TestProbesAgreeWithThemselves(t *testing.T) {
	for _, d := range All() {
		first := d.Probe()
		for range 3 {
			if again := d.Probe(); (again == nil) != (first == nil) {
				t.Errorf("%s: probed %v, then %v", d.Name(), first, again)
			}
		}
	}
}

func TestAutoTakesTheFirstThatWorks(t *testing.T) {
	choice, err := All().Select(platform.Auto)
	if err != nil {
		t.Skipf("this host runs no platform: %v", err)
	}
	for i, d := range All() {
		if d.Name() == choice.Driver.Name() {
			if len(choice.Skipped) != i {
				t.Errorf("chose %s with %d skipped, want %d", d.Name(), len(choice.Skipped), i)
			}
			return
		}
	}
	t.Errorf("chose %s, which is not in the list", choice.Driver.Name())
}
