package platform

import (
	"testing"
	"time"

	"aios.dev/aios/ktime"
)

func TestPlaces(t *testing.T) {
	g := NewCrowd(NewProcessors(2, ktime.Real), 2, time.Hour)
	g.SetQuota(3000)
	_, stop := spin(g, 5)
	defer stop()
	var p Places
	for deadline := time.Now().Add(20 * time.Second); len(p.Running) != 2 || len(p.Waiting) != 3 || p.Used == 0; p = g.Places() {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", p)
		}
		time.Sleep(time.Millisecond)
	}
	if p.Limit != 2 || p.Slice != time.Hour || p.Quota != 3000 || p.Stopped || p.Running[0] == nil || p.Waiting[2] == nil {
		t.Errorf("%+v", p)
	}
}
