package ctlfs

import (
	"slices"

	"gvisor.dev/gvisor/pkg/context"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/ctlfs/command"
)

// deviceList answers AIOS_IOC_LIST.
func (s *session) deviceList(a *abi.DeviceList) {
	var handles []uint64
	for _, c := range s.auth.Space().List(s.agent) {
		if h := uint64(c.Handle()); h > a.After {
			handles = append(handles, h)
		}
	}
	slices.Sort(handles)
	*a = abi.DeviceList{After: a.After}
	a.Count = uint32(copy(a.Handles[:], handles))
	if len(handles) > len(a.Handles) {
		a.More = 1
	}
}

// deviceInspect answers AIOS_IOC_INSPECT.
func (s *session) deviceInspect(a *abi.DeviceCap) error {
	c, err := s.own(capability.Handle(a.Handle))
	if err != nil {
		return err
	}
	spec := c.Spec()
	*a = abi.DeviceCap{
		Handle: a.Handle, Badge: spec.Badge, Limits: deviceLimits(spec.Limits), Left: deviceLimits(c.Remaining()),
		Class: uint32(spec.Object.Class), Rights: uint32(spec.Rights),
	}
	if spec.Sealed {
		a.Flags |= abi.DeviceCapSealed
	}
	if left, leased := c.Expires(); leased {
		a.Flags |= abi.DeviceCapLeased
		a.LeaseLeft = uint64(left)
	}
	if c.Origin() != "" {
		a.Flags |= abi.DeviceCapRemote
	}
	abi.SetDeviceString(a.ID[:], string(c.ID()))
	if p := c.Parent(); p != nil {
		abi.SetDeviceString(a.Parent[:], string(p.ID()))
	}
	abi.SetDeviceString(a.Object[:], spec.Object.Name)
	abi.SetDeviceString(a.At[:], spec.At)
	return nil
}

// deviceChange answers AIOS_IOC_DELEGATE and AIOS_IOC_ATTENUATE.
func (s *session) deviceChange(ctx context.Context, nr uint8, a *abi.DeviceChange) error {
	c, err := s.own(capability.Handle(a.Handle))
	if err != nil {
		return err
	}
	change, err := changeOf(a)
	if err != nil {
		return err
	}
	to := abi.DeviceString(a.To[:])
	if nr == abi.DeviceCallAttenuate {
		if to != "" || a.Flags != 0 {
			return errdefs.New(errdefs.InvalidArgument, "To and Flags belong to AIOS_IOC_DELEGATE", errdefs.Op("attenuate"), errdefs.Fix("clear them"))
		}
		c, err = s.attenuate(c, change)
	} else {
		if !abi.ValidName(to) && !abi.IsAgentID(to) {
			return errdefs.New(errdefs.InvalidArgument, "To is no ID and no name of an agent", errdefs.Op("delegate"), errdefs.Fix("write the agent's name"))
		}
		c, err = s.delegate(ctx, c, to, change, a.Flags&abi.DeviceMove != 0)
	}
	if err != nil {
		return err
	}
	a.Handle = uint64(c.Handle())
	abi.SetDeviceString(a.ID[:], string(c.ID()))
	abi.SetDeviceString(a.To[:], command.Holder(c))
	return nil
}

// deviceRef answers AIOS_IOC_SEAL, AIOS_IOC_RENEW and AIOS_IOC_REVOKE.
func (s *session) deviceRef(ctx context.Context, nr uint8, a *abi.DeviceRef) error {
	h, id := capability.Handle(a.Handle), capability.ID(abi.DeviceString(a.ID[:]))
	if id != "" && !capability.IsID(string(id)) {
		return errdefs.New(errdefs.InvalidArgument, "ID is not the ID of a capability", errdefs.Fix("write c and twelve hexadecimal digits"))
	}
	if nr != abi.DeviceCallRevoke && a.Flags != 0 {
		return errdefs.New(errdefs.InvalidArgument, "Flags belong to AIOS_IOC_REVOKE", errdefs.Fix("clear them"))
	}
	if nr != abi.DeviceCallRenew && a.Lease != 0 {
		return errdefs.New(errdefs.InvalidArgument, "Lease belongs to AIOS_IOC_RENEW", errdefs.Fix("clear it"))
	}
	switch nr {
	case abi.DeviceCallRevoke:
		n, err := s.revoke(ctx, h, id, a.Flags&abi.DeviceChildrenOnly != 0)
		a.Count = uint64(n)
		return err
	case abi.DeviceCallRenew:
		lease, err := leaseOf(a.Lease)
		if err != nil {
			return err
		}
		c, err := s.find(h, id)
		if err != nil {
			return err
		}
		return s.auth.Renew(ctx, s.auth.Actor(s.agent), c, lease)
	default:
		if id != "" {
			return errdefs.New(errdefs.InvalidArgument, "only a capability of your own can be sealed", errdefs.Fix("give its handle"))
		}
		c, err := s.own(h)
		if err != nil {
			return err
		}
		return s.seal(c)
	}
}

// changeOf reads what a structure asks for.
func changeOf(a *abi.DeviceChange) (capability.Change, error) {
	var out capability.Change
	said := func(bit uint32) bool { return a.Set&bit != 0 }
	if said(abi.DeviceSetObject) {
		name := abi.DeviceString(a.Object[:])
		out.Object = &name
	}
	if said(abi.DeviceSetRights) {
		rights := abi.Rights(a.Rights)
		out.Rights = &rights
	}
	if a.Set&abi.DeviceSetLimits != 0 {
		limits := capability.Limits{}
		for _, l := range []struct {
			bit uint32
			to  *uint64
			v   uint64
		}{
			{abi.DeviceSetBytes, &limits.Bytes, a.Limits.Bytes},
			{abi.DeviceSetCount, &limits.Count, a.Limits.Count},
			{abi.DeviceSetMilliCPU, &limits.MilliCPU, a.Limits.MilliCPU},
			{abi.DeviceSetWeight, &limits.Weight, a.Limits.Weight},
			{abi.DeviceSetBytesPerSec, &limits.BytesPerSec, a.Limits.BytesPerSec},
			{abi.DeviceSetOpsPerSec, &limits.OpsPerSec, a.Limits.OpsPerSec},
		} {
			if said(l.bit) {
				*l.to = l.v
			}
		}
		out.Limits = &limits
	}
	if said(abi.DeviceSetAt) {
		at := abi.DeviceString(a.At[:])
		out.At = &at
	}
	if said(abi.DeviceSetLease) {
		lease, err := leaseOf(a.Lease)
		if err != nil {
			return out, err
		}
		out.Lease = &lease
	}
	if said(abi.DeviceSetBadge) {
		badge := a.Badge
		out.Badge = &badge
	}
	out.Sealed = said(abi.DeviceSetSealed)
	return out, nil
}

// deviceTarget names the capability that a call is about.
func deviceTarget(arg abi.DeviceStruct) string {
	var cmd command.Command
	switch a := arg.(type) {
	case *abi.DeviceCap:
		cmd.Handle = capability.Handle(a.Handle)
	case *abi.DeviceChange:
		cmd.Handle = capability.Handle(a.Handle)
	case *abi.DeviceRef:
		cmd.Handle, cmd.ID = capability.Handle(a.Handle), capability.ID(abi.DeviceString(a.ID[:]))
	}
	return cmd.Target()
}

func deviceLimits(l capability.Limits) abi.DeviceLimits {
	return abi.DeviceLimits{
		Bytes: l.Bytes, Count: l.Count, MilliCPU: l.MilliCPU, Weight: l.Weight,
		BytesPerSec: l.BytesPerSec, OpsPerSec: l.OpsPerSec,
	}
}
