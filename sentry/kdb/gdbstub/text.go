package gdbstub

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// Numbers on the wire are in base 16, without a prefix; text and memory are
// two digits for each byte.

func parseHex(s string) (uint64, bool) {
	if s == "" || s[0] == '+' || s[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 16, 64)
	return n, err == nil
}

// parseRange reads ADDR,LENGTH.
func parseRange(s string) (addr, length uint64, ok bool) {
	a, l, found := strings.Cut(s, ",")
	addr, ok1 := parseHex(a)
	length, ok2 := parseHex(l)
	return addr, length, found && ok1 && ok2
}

func parseBytes(s string) ([]byte, bool) {
	b, err := hex.DecodeString(s)
	return b, err == nil
}

func hexOf(n uint64) string { return strconv.FormatUint(n, 16) }

func hexText(s string) string { return hex.EncodeToString([]byte(s)) }

// ID names a thread, or all threads of a process, or any.
type ID struct{ PID, TID int32 }

// Values of ID that name more or less than a thread.
const (
	AnyID int32 = 0
	AllID int32 = -1
)

// parseID reads TID or pPID.TID or pPID. Without a process, it is any.
func parseID(s string) (ID, bool) {
	var id ID
	pid, tid, both := strings.Cut(s, ".")
	if rest, ok := strings.CutPrefix(pid, "p"); ok {
		if id.PID, ok = parseIDNumber(rest); !ok {
			return id, false
		}
		if !both {
			id.TID = AllID
			return id, true
		}
	} else if both {
		return id, false
	} else {
		tid = pid
	}
	var ok bool
	id.TID, ok = parseIDNumber(tid)
	return id, ok
}

func parseIDNumber(s string) (int32, bool) {
	if s == "-1" {
		return AllID, true
	}
	n, ok := parseHex(s)
	return int32(n), ok && n < 1<<31
}

// matches reports whether the ID names the thread, perhaps among others.
func (id ID) matches(t Thread) bool {
	return (id.PID == AnyID || id.PID == AllID || id.PID == t.PID) && (id.TID == AnyID || id.TID == AllID || id.TID == t.TID)
}

// idText writes a thread as the client understands it.
func idText(t Thread, processes bool) string {
	if processes {
		return "p" + hexOf(uint64(uint32(t.PID))) + "." + hexOf(uint64(uint32(t.TID)))
	}
	return hexOf(uint64(uint32(t.TID)))
}
