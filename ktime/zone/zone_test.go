package zone

import (
	"errors"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
)

// TestLoad: every zone is one, and those that people name are there.
func TestLoad(t *testing.T) {
	all, err := files()
	if err != nil {
		t.Fatal(err)
	}
	for name := range all {
		data, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := time.LoadLocationFromTZData(name, data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, offset := range map[string]int{"UTC": 0, "Europe/Berlin": 7200, "America/New_York": -14400, "Asia/Kathmandu": 20700} {
		data, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		l, err := time.LoadLocationFromTZData(name, data)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := time.Date(2026, 7, 1, 12, 0, 0, 0, l).Zone(); got != offset {
			t.Errorf("%s is %d seconds ahead, not %d", name, got, offset)
		}
	}
}

func TestUnknown(t *testing.T) {
	for name, fix := range map[string]string{
		"Berlin": "write Europe/Berlin", "europe/berlin": "write Europe/Berlin", "new york": "write America/New_York",
		"": "name one of", "Middle-earth/Shire": "name one of", "../../etc/passwd": "name one of", "Europe/": "name one of",
	} {
		_, err := Load(name)
		if !errors.Is(err, errdefs.InvalidArgument) || !strings.HasPrefix(errdefs.FixOf(err), fix) {
			t.Errorf("%q: %v, fix: %s", name, err, errdefs.FixOf(err))
		}
	}
}
