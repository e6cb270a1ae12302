package daemon

import (
	"os"
	"testing"
)

func TestMemoryOfAProcess(t *testing.T) {
	share, err := pss(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	full := rss(os.Getpid())
	if share == 0 || full < share/2 {
		t.Errorf("%d bytes proportional, %d in full", share, full)
	}
	if n := residentOf(os.Getpid()); n < share/2 {
		t.Errorf("%d bytes with children, %d without", n, share)
	}
}
