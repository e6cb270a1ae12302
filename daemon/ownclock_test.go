package daemon

import (
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// TestCheckClock refuses clocks that make no sense, whoever asks for them.
func TestCheckClock(t *testing.T) {
	for _, c := range []*apiv1.OwnClock{
		nil, {}, {OffsetNano: -1}, {WallUnixNano: 1, RatePpb: 60e9}, {OffsetNano: 1, RatePpb: 1_000_000}, {RatePpb: 1_000_000_000_000},
	} {
		if err := checkClock(c); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	for _, c := range []*apiv1.OwnClock{
		{WallUnixNano: -1}, {WallUnixNano: 1, OffsetNano: 1}, {RatePpb: -1}, {RatePpb: 999_999}, {RatePpb: 1_000_000_000_001}, {RatePpb: -1 << 63},
	} {
		if err := checkClock(c); errdefs.CodeOf(err) != errdefs.InvalidArgument {
			t.Errorf("%v: %v", c, err)
		}
	}
	asked := &apiv1.OwnClock{OffsetNano: 3, MonotonicNano: int64(time.Hour), RatePpb: 60e9}
	if got := ownClock(asked); *got != (control.Clock{Offset: 3, Monotonic: int64(time.Hour), Rate: 60e9}) {
		t.Errorf("a kernel is told %+v", got)
	} else if back := clockProto(got); back.GetRatePpb() != 60e9 || back.GetOffsetNano() != 3 {
		t.Errorf("a client is told %v", back)
	}
}
