package sentry

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/errdefs"
)

// What an address space consists of, gVisor says as text: its mappings in smaps, the
// pages behind them for debugging.

// scanned is an address space as it was at one moment.
type scanned struct {
	mappings []scannedMapping
}

// scannedMapping is a mapping and what is behind it.
type scannedMapping struct {
	ar         hostarch.AddrRange
	perms, max hostarch.AccessType
	private    bool
	growsDown  bool
	locked     bool
	offset     uint64
	inode      bool
	name       string
	// own are the ranges in which the program has pages of its own, by where they
	// are in the memory file.
	own []ownPages
	// shown are those in which it is shown those of a swapObject.
	shown []hostarch.AddrRange
}

// ownPages are pages that only this address space, and those copied from it, have.
type ownPages struct {
	ar  hostarch.AddrRange
	off uint64
}

// scan looks at an address space. Unless its tasks stand still, what it says may be
// over already.
func scan(ctx context.Context, m *mm.MemoryManager, pages bool) (*scanned, error) {
	var text bytes.Buffer
	m.ReadSmapsDataInto(ctx, &text)
	sc := &scanned{}
	if err := sc.readMappings(text.String()); err != nil {
		return nil, err
	}
	if pages {
		_, tail, ok := strings.Cut(m.DebugString(ctx), "PMAs:\n")
		if !ok {
			return nil, errdefs.New(errdefs.Internal, "the memory manager does not say what pages there are")
		}
		if err := sc.readPages(tail); err != nil {
			return nil, err
		}
	}
	return sc, nil
}

// readMappings reads smaps.
func (sc *scanned) readMappings(text string) error {
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 64<<10)
	var cur *scannedMapping
	for lines.Scan() {
		line := lines.Text()
		if ar, rest, ok := parseRange(line); ok {
			f := strings.SplitN(rest, " ", 5)
			if len(f) != 5 || len(f[0]) != 4 {
				return errdefs.Newf(errdefs.Internal, "a mapping reads %q", line)
			}
			off, err := strconv.ParseUint(f[1], 16, 64)
			if err != nil {
				return errdefs.Newf(errdefs.Internal, "a mapping reads %q", line)
			}
			sc.mappings = append(sc.mappings, scannedMapping{
				ar: ar, perms: hostarch.AccessType{Read: f[0][0] == 'r', Write: f[0][1] == 'w', Execute: f[0][2] == 'x'},
				private: f[0][3] == 'p', offset: off, inode: f[3] != "0", name: strings.TrimLeft(f[4], " "),
			})
			cur = &sc.mappings[len(sc.mappings)-1]
			continue
		}
		flags, ok := strings.CutPrefix(line, "VmFlags:")
		if !ok || cur == nil {
			continue
		}
		for _, flag := range strings.Fields(flags) {
			switch flag {
			case "mr":
				cur.max.Read = true
			case "mw":
				cur.max.Write = true
			case "me":
				cur.max.Execute = true
			case "gd":
				cur.growsDown = true
			case "lo":
				cur.locked = true
			}
		}
	}
	return errdefs.Wrap(lines.Err(), errdefs.Internal, "read mappings")
}

// readPages reads what is behind the mappings: START-END PERMS TYPE OFFSET FILE.
func (sc *scanned) readPages(text string) error {
	at := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		ar, rest, ok := parseRange(line)
		f := strings.Split(rest, " ")
		if !ok || len(f) != 4 || len(f[0]) != 4 {
			return errdefs.Newf(errdefs.Internal, "pages read %q", line)
		}
		off, err := strconv.ParseUint(f[2], 16, 64)
		if err != nil {
			return errdefs.Newf(errdefs.Internal, "pages read %q", line)
		}
		private, swapped := f[0][3] == 'p', f[3] == "*sentry.swapFrames"
		if private && f[3] != "*pgalloc.MemoryFile" {
			return errdefs.Newf(errdefs.Internal, "private pages read %q", line)
		}
		if !private && !swapped {
			continue
		}
		for at < len(sc.mappings) && sc.mappings[at].ar.End <= ar.Start {
			at++
		}
		for i := at; i < len(sc.mappings) && sc.mappings[i].ar.Start < ar.End; i++ {
			m := &sc.mappings[i]
			cut := m.ar.Intersect(ar)
			if private {
				m.own = append(m.own, ownPages{cut, off + uint64(cut.Start-ar.Start)})
			} else {
				m.shown = append(m.shown, cut)
			}
		}
	}
	return nil
}

// parseRange reads START-END at the beginning of a line.
func parseRange(line string) (ar hostarch.AddrRange, rest string, ok bool) {
	text, rest, ok := strings.Cut(line, " ")
	from, to, dash := strings.Cut(text, "-")
	if !ok || !dash {
		return ar, "", false
	}
	start, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return ar, "", false
	}
	end, err := strconv.ParseUint(to, 16, 64)
	if err != nil || end <= start {
		return ar, "", false
	}
	return hostarch.AddrRange{Start: hostarch.Addr(start), End: hostarch.Addr(end)}, rest, true
}

// anonymous reports whether the mapping is memory of the program's own that nothing
// stands behind, as far as that can be seen.
func (m *scannedMapping) anonymous() bool {
	return m.private && !m.growsDown && !m.locked && !m.inode && m.offset == 0 &&
		(m.name == "" || m.name == "[heap]" || strings.HasPrefix(m.name, "[anon:"))
}

// options are those by which the same mapping is made anew, without what is behind
// it.
func (m *scannedMapping) options(ar hostarch.AddrRange) memmap.MMapOpts {
	opts := memmap.MMapOpts{
		Addr: ar.Start, Length: uint64(ar.Length()), Fixed: true, Unmap: true, Private: true,
		Perms: m.perms, MaxPerms: m.max, Name: m.name, NameMut: memmap.NameMutAnon,
	}
	if m.locked {
		opts.MLockMode = memmap.MLockEager
	}
	return opts
}

// filled calls f for each range of fr in which something is in the memory file.
// Elsewhere there are only zeros, also if the host has swapped the file out.
func filled(fd int, fr memmap.FileRange, f func(memmap.FileRange)) error {
	for at := fr.Start; at < fr.End; {
		from, err := unix.Seek(fd, int64(at), unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && uint64(from) >= fr.End {
			return nil
		}
		if err != nil {
			return errdefs.Wrap(err, errdefs.HostIO, "look into the memory file")
		}
		to, err := unix.Seek(fd, from, unix.SEEK_HOLE)
		if err != nil {
			return errdefs.Wrap(err, errdefs.HostIO, "look into the memory file")
		}
		r := memmap.FileRange{Start: uint64(from), End: min(uint64(to), fr.End)}
		f(r)
		at = r.End
	}
	return nil
}
