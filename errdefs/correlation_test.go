package errdefs

import (
	"context"
	"strings"
	"testing"
)

func TestCorrelation(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		id := NewCorrelation()
		if !ValidCorrelation(id) || seen[id] {
			t.Fatalf("%q is not valid, or not new", id)
		}
		seen[id] = true
	}
	for _, bad := range []string{"", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0", "0123456789abcde\n", strings.Repeat("é", 8)} {
		if ValidCorrelation(bad) || CorrelationFrom(WithCorrelation(context.Background(), bad)) != "" {
			t.Errorf("%q is taken for a correlation ID", bad)
		}
	}
}

func TestCorrelationTravelsInAContext(t *testing.T) {
	ctx, id := EnsureCorrelation(context.Background())
	if id == "" || CorrelationFrom(ctx) != id {
		t.Fatalf("carries %q, want %q", CorrelationFrom(ctx), id)
	}
	if again, same := EnsureCorrelation(ctx); again != ctx || same != id {
		t.Error("a context that has one got another")
	}
}
