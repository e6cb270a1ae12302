package daemon

import (
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// TestChangeCPU has requests change a grant, and leave what they do not name.
func TestChangeCPU(t *testing.T) {
	for _, c := range []struct {
		was, want string
		req       *apiv1.SchedSetRequest
	}{
		{"cpu:self,cpu=0.5,lease=1h", "cpu:self,cpu=0.5,weight=7,lease=1h", &apiv1.SchedSetRequest{Weight: new(uint64(7))}},
		{"cpu:0,cpu=0.5,weight=7,idle=1", "cpu:self,weight=7", &apiv1.SchedSetRequest{QuotaMilli: new(uint64(0)), Cpus: new(""), Idle: new(false)}},
		{"cpu:self", "cpu:0-1,cpu=2,period=20ms,burst=1m,priority=40,idle=1", &apiv1.SchedSetRequest{QuotaMilli: new(uint64(2000)), Cpus: new("0,1"), Idle: new(true),
			PeriodNano: new(int64(20e6)), BurstNano: new(int64(time.Minute)), Priority: new(uint64(40))}},
		{"cpu:self", "cpu:self,reserve=0.333334,every=30ms", &apiv1.SchedSetRequest{Reserved: &apiv1.SchedReservation{RuntimeNano: 10e6, DeadlineNano: 30e6, PeriodNano: 30e6}}},
		{"cpu:self,reserve=0.333334,every=30ms", "cpu:self", &apiv1.SchedSetRequest{Reserved: &apiv1.SchedReservation{}}},
	} {
		spec, err := capability.ParseSpec(c.was)
		if err != nil {
			t.Fatal(err)
		}
		if err := changeCPU(&spec, c.req); err != nil {
			t.Errorf("%s: %v", c.was, err)
		}
		if want, err := capability.ParseSpec(c.want); err != nil || spec.String() != want.String() {
			t.Errorf("%s is %s, want %s (%v)", c.was, spec, c.want, err)
		}
	}
	for _, req := range []*apiv1.SchedSetRequest{
		{}, {Weight: new(uint64(0))}, {Weight: new(uint64(10001))}, {QuotaMilli: new(uint64(1 << 40))}, {PeriodNano: new(int64(1000))}, {PeriodNano: new(int64(-1))},
		{BurstNano: new(int64(-1))}, {BurstNano: new(int64(time.Hour))}, {Priority: new(uint64(0))}, {Priority: new(uint64(41))}, {Cpus: new("x")}, {Cpus: new(",")},
		{Reserved: &apiv1.SchedReservation{RuntimeNano: 1, PeriodNano: 1e9}}, {Reserved: &apiv1.SchedReservation{RuntimeNano: 2e9, PeriodNano: 1e9}},
		{Reserved: &apiv1.SchedReservation{RuntimeNano: -1, PeriodNano: 1e9}}, {Reserved: &apiv1.SchedReservation{RuntimeNano: 1e9}},
		{Reserved: &apiv1.SchedReservation{RuntimeNano: 1e9, PeriodNano: 1e11}}, {Reserved: &apiv1.SchedReservation{RuntimeNano: 1e6, DeadlineNano: 1e7, PeriodNano: 1e8}},
	} {
		spec, _ := capability.ParseSpec("cpu:self")
		if err := changeCPU(&spec, req); errdefs.CodeOf(err) != errdefs.InvalidArgument || errdefs.FixOf(err) == "" {
			t.Errorf("%v: %v", req, err)
		}
	}
}
