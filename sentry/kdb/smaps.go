package kdb

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"
)

// ParseSmaps reads mappings as /proc/PID/smaps shows them. Lines that say
// nothing known are passed over; mappings that overlap or come out of order end
// the parsing, because nothing after them would be true.
func ParseSmaps(text []byte) []Mapping {
	var out []Mapping
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		line := lines.Text()
		if m, ok := parseMapping(line); ok {
			if n := len(out); n > 0 && m.Start < out[n-1].End {
				return out
			}
			out = append(out, m)
			continue
		}
		if len(out) == 0 {
			continue
		}
		m := &out[len(out)-1]
		name, value, _ := strings.Cut(line, ":")
		n, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
		if err != nil || n > m.Size()>>10 {
			continue
		}
		switch name {
		case "Rss":
			m.Resident = n << 10
		case "Anonymous":
			m.Anonymous = n << 10
		}
	}
	return out
}

// parseMapping reads START-END PERMS OFFSET DEVICE INODE [NAME].
func parseMapping(line string) (m Mapping, ok bool) {
	f := strings.SplitN(line, " ", 6)
	if len(f) < 6 {
		return m, false
	}
	from, to, ok := strings.Cut(f[0], "-")
	if !ok || len(f[1]) != 4 {
		return m, false
	}
	var errs [3]error
	m.Start, errs[0] = strconv.ParseUint(from, 16, 64)
	m.End, errs[1] = strconv.ParseUint(to, 16, 64)
	m.Offset, errs[2] = strconv.ParseUint(f[2], 16, 64)
	for _, err := range errs {
		if err != nil {
			return m, false
		}
	}
	if m.End <= m.Start || m.Start%pageSize != 0 || m.End%pageSize != 0 {
		return m, false
	}
	m.Read, m.Write, m.Exec = f[1][0] == 'r', f[1][1] == 'w', f[1][2] == 'x'
	m.Shared = f[1][3] == 's'
	m.File = strings.TrimLeft(f[5], " ")
	return m, true
}
