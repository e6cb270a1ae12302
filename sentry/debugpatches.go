package sentry

import (
	"bytes"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
)

// Systrap makes system calls fast by patching programs: it replaces "mov
// $NUMBER,%eax; syscall" by a jump into a table of trampolines that it maps
// below 512 KiB. A debugger must not show these jumps, put breakpoints into
// them, or step into the trampolines, which run in the platform. So it shows
// memory as it was, and undoes a patch where it would be in the way; the platform
// makes it anew with the next call. On other platforms there is no such table.
//
// What a trampoline looks like is gVisor's own affair. Every patch is compared
// with what it should be before it is believed, so after a change nothing would
// be found, and nothing broken.

// The table of trampolines.
const (
	tableName    = "[usertrap]"
	tableStart   = hostarch.Addr(0x60000)
	tableEnd     = hostarch.Addr(0x70000)
	trampoline   = 80 // bytes of one
	trampolines  = 256
	trampEntry   = 8 // where its code begins
	trampReturn  = 40
	trampNumber  = 58
	patchLen     = 7
	movNumber    = 0xb8
	syscallBytes = "\x0f\x05"
)

// patch is one place of a program that the platform has changed.
type patch struct {
	site  hostarch.Addr // what was patched
	entry hostarch.Addr // where it leads
	was   [patchLen]byte
}

// tableOf returns where the table of trampolines is, 0 if there is none.
func tableOf(m *mm.MemoryManager) hostarch.Addr {
	addr, offset, err := m.FindVMAByName(hostarch.AddrRange{Start: tableStart, End: tableEnd}, tableName)
	if err != nil || offset != 0 {
		return 0
	}
	return addr
}

// inTrampoline reports whether a task is in the platform's table.
func inTrampoline(m *mm.MemoryManager, ip uintptr) bool {
	addr := hostarch.Addr(ip)
	if addr < tableStart || addr >= tableEnd {
		return false
	}
	table := tableOf(m)
	return table != 0 && addr >= table && addr < table+trampoline*trampolines
}

// patchesOf returns the patches of a process whose threads stand still.
func patchesOf(ctx context.Context, m *mm.MemoryManager) (out []patch) {
	table := tableOf(m)
	if table == 0 {
		return nil
	}
	text := make([]byte, trampoline*trampolines)
	text = text[:peek(ctx, m, table, text)]
	le := binary.LittleEndian
	for i := 1; (i+1)*trampoline <= len(text); i++ {
		addr, code := table+hostarch.Addr(i*trampoline), text[i*trampoline:]
		back := hostarch.Addr(le.Uint64(code[trampReturn:]))
		if le.Uint64(code) != uint64(addr)+trampEntry || back < patchLen {
			continue
		}
		p := patch{site: back - patchLen, entry: addr + trampEntry}
		jump := append([]byte{0xff, 0x24, 0x25}, le.AppendUint32(nil, uint32(addr))...)
		now := make([]byte, patchLen)
		if peek(ctx, m, p.site, now) != patchLen || !bytes.Equal(now, jump) {
			continue
		}
		p.was[0] = movNumber
		copy(p.was[1:5], code[trampNumber:])
		copy(p.was[5:], syscallBytes)
		out = append(out, p)
	}
	return out
}

// patches returns the patches of a process, which do not change while its
// threads stand still. It is called on the stub's goroutine.
func (d *debugger) patches(m *mm.MemoryManager) []patch {
	if p, ok := d.patched[m]; ok {
		return p
	}
	p := patchesOf(d.s.k.SupervisorContext(), m)
	if d.patched == nil {
		d.patched = make(map[*mm.MemoryManager][]patch)
	}
	d.patched[m] = p
	return p
}

// unpatch undoes the patches of a range of addresses, so that the program is
// there as it was. All threads that execute it stand still.
func (d *debugger) unpatch(m *mm.MemoryManager, addr hostarch.Addr, n int) {
	end := addr + hostarch.Addr(n)
	for _, p := range d.patches(m) {
		if p.site < end && addr < p.site+patchLen {
			_ = poke(d.s.k.SupervisorContext(), m, p.site, p.was[:]...) // It was written before.
			delete(d.patched, m)
		}
	}
}

// leaveTrampoline has a task that stands at the entry of a trampoline stand at
// the place that it comes from: nothing was executed since.
func (d *debugger) leaveTrampoline(t *kernel.Task) {
	m := addressSpaceOf(t)
	if m == nil || !inTrampoline(m, t.Arch().IP()) {
		return
	}
	for _, p := range d.patches(m) {
		if p.entry == hostarch.Addr(t.Arch().IP()) {
			t.Arch().SetIP(uintptr(p.site))
		}
	}
}
