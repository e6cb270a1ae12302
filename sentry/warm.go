package sentry

import (
	"encoding/json"
	"os"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"
	pgallocpb "gvisor.dev/gvisor/pkg/sentry/pgalloc/pgalloc_metadata_go_proto"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/klog"
)

// warmSpaces is how many address spaces a domain begins with: one is the pause
// process', the other its first program's.
const warmSpaces = 2

// warmHeap is how much the heap grows beforehand: about what a small domain takes until
// its first agent runs. Each page of it that is touched for the first time is a fault,
// which under a hypervisor takes microseconds.
const warmHeap = 4 << 20

// Warm makes the address spaces that a domain begins with, which the platform keeps until
// they are wanted, and does for the first time what takes longer then.
func (m *Machine) Warm() error {
	var spaces []gvplatform.AddressSpace
	for range warmSpaces {
		as, err := m.platform.NewAddressSpace()
		if err != nil {
			return errdefs.Wrap(err, errdefs.DomainBoot, "make an address space")
		}
		spaces = append(spaces, as)
	}
	for _, as := range spaces {
		as.Release()
	}
	pointsKnown()
	if err := warmFormats(); err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "warm up")
	}
	touchHeap(warmHeap)
	runtime.GC() // What was touched stays.
	return nil
}

// touchHeap has so many bytes of the heap touched.
func touchHeap(n int) {
	heap := make([]byte, n)
	for i := 0; i < n; i += os.Getpagesize() {
		heap[i] = 1
	}
	runtime.KeepAlive(heap)
}

// warmFormats writes and reads something of each kind that a domain does when it starts or
// goes on: what is known of a type is found out when it is met first.
func warmFormats() error {
	klog.Scrub("nothing: of it")
	e := event.Event{Type: event.AgentExit, Payload: &eventv1.AgentExit{}}
	e.Marshal(nil)
	about, err := proto.Marshal(&pgallocpb.MemoryFileMetadataProto{})
	if err == nil {
		err = proto.Unmarshal(about, &pgallocpb.MemoryFileMetadataProto{})
	}
	if err != nil {
		return err
	}
	for _, v := range []any{
		&domainRecord{Agents: []agentRecord{{}}}, new(control.KernelConfig), new(control.BootStatus), new(control.HelloReply), new(control.ListReply),
	} {
		raw, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(raw, v)
		}
		if err != nil {
			return err
		}
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	z.Close()
	return nil
}
