package gdbstub

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync"
)

// Registers are those of a thread, as Linux hands them out.
type Registers struct {
	// General is user_regs_struct: r15 … gs, as ptrace orders them.
	General [generalCount]uint64
	// Extended is what XSAVE stores, or FXSAVE, or nothing.
	Extended []byte
}

// Where General has what.
const (
	genR15 = iota
	genR14
	genR13
	genR12
	genRBP
	genRBX
	genR11
	genR10
	genR9
	genR8
	genRAX
	genRCX
	genRDX
	genRSI
	genRDI
	genOrigRAX
	genRIP
	genCS
	genEFlags
	genRSP
	genSS
	genFSBase
	genGSBase
	genDS
	genES
	genFS
	genGS
	generalCount
)

// Where Extended has what, in bytes.
const (
	fxControl, fxStatus, fxTag, fxOpcode              = 0, 2, 4, 6
	fxIP, fxIPSegment, fxOperand, fxOperandSeg        = 8, 12, 16, 20
	fxMXCSR, fxStack, fxVector                        = 24, 32, 160
	fxSize                                            = 512
	xsFlags, xsAVX                                    = 512, 576
	xsAVXEnd                                          = xsAVX + 16*16
	xsX87, xsSSE, xsYMM, xsAlways              uint64 = 1, 2, 4, 0
)

// IP is the address of the next instruction.
func (r *Registers) IP() uint64 { return r.General[genRIP] }

// field is a register as gdb knows it.
type field struct {
	name, kind, group string
	size              int
	get               func(r *Registers, p []byte)
	set               func(r *Registers, p []byte)
}

var le = binary.LittleEndian

func putWord(p []byte, w uint64) {
	var b [8]byte
	le.PutUint64(b[:], w)
	copy(p, b[:])
}

func getWord(p []byte) uint64 {
	var b [8]byte
	copy(b[:], p)
	return le.Uint64(b[:])
}

// general is a field that is a word of General.
func general(name, kind string, size, at int) field {
	return field{
		name: name, kind: kind, size: size,
		get: func(r *Registers, p []byte) { putWord(p, r.General[at]) },
		set: func(r *Registers, p []byte) { r.General[at] = getWord(p) },
	}
}

// extended is a field that is some bytes of Extended, of the part named by flag.
func extended(name, kind string, size, at, width int, flag uint64) field {
	return field{
		name: name, kind: kind, size: size,
		get: func(r *Registers, p []byte) {
			if b := r.part(flag, at, width); b != nil {
				copy(p, b)
			}
		},
		set: func(r *Registers, p []byte) {
			if len(r.Extended) < at+width {
				return
			}
			r.touch(flag)
			copy(r.Extended[at:at+width], p)
		},
	}
}

// part returns bytes of Extended, nil if they have their initial values, which
// are zeros but for the control words.
func (r *Registers) part(flag uint64, at, width int) []byte {
	if len(r.Extended) < at+width || !r.stored(flag) {
		return nil
	}
	return r.Extended[at : at+width]
}

// stored reports whether a part is in Extended, and not in its initial state.
func (r *Registers) stored(flag uint64) bool {
	return flag == xsAlways || len(r.Extended) < xsFlags+8 || le.Uint64(r.Extended[xsFlags:])&flag != 0
}

// touch makes a part count as stored, with its initial values.
func (r *Registers) touch(flag uint64) {
	if r.stored(flag) {
		return
	}
	switch flag {
	case xsX87:
		clear(r.Extended[:fxMXCSR])
		clear(r.Extended[fxStack:fxVector])
		le.PutUint16(r.Extended[fxControl:], initialControl)
	case xsSSE:
		clear(r.Extended[fxVector : fxVector+16*16])
	case xsYMM:
		clear(r.Extended[xsAVX:xsAVXEnd])
	}
	le.PutUint64(r.Extended[xsFlags:], le.Uint64(r.Extended[xsFlags:])|flag)
}

// initialControl is the control word of the x87 before anybody changes it.
const initialControl = 0x37f

// control is fctrl, which is not zero at first.
func control() field {
	f := extended("fctrl", "int", 4, fxControl, 2, xsX87)
	get := f.get
	f.get = func(r *Registers, p []byte) {
		if len(r.Extended) >= fxSize && !r.stored(xsX87) {
			putWord(p, initialControl)
			return
		}
		get(r, p)
	}
	return f
}

// tags is ftag, of which FXSAVE keeps only which registers are in use.
func tags() field {
	return field{
		name: "ftag", kind: "int", size: 4,
		get: func(r *Registers, p []byte) { putWord(p, uint64(r.tagWord())) },
		set: func(r *Registers, p []byte) {
			if len(r.Extended) < fxSize {
				return
			}
			r.touch(xsX87)
			word, used := uint16(getWord(p)), byte(0)
			for i := range 8 {
				if word>>(2*i)&3 != tagEmpty {
					used |= 1 << i
				}
			}
			r.Extended[fxTag] = used
		},
	}
}

// What a tag says of a register of the x87.
const (
	tagValid = iota
	tagZero
	tagSpecial
	tagEmpty
)

func (r *Registers) tagWord() (word uint16) {
	b := r.part(xsX87, 0, fxVector)
	if b == nil {
		return 0xffff
	}
	top := le.Uint16(b[fxStatus:]) >> 11 & 7
	for i := range uint16(8) {
		tag := uint16(tagEmpty)
		if b[fxTag]>>i&1 == 1 {
			at := fxStack + 16*int((i-top)&7)
			tag = tagOf(b[at : at+10])
		}
		word |= tag << (2 * i)
	}
	return word
}

func tagOf(number []byte) uint16 {
	exponent, fraction := le.Uint16(number[8:])&0x7fff, le.Uint64(number)
	switch {
	case exponent == 0x7fff:
		return tagSpecial
	case exponent == 0 && fraction == 0:
		return tagZero
	case exponent == 0 || fraction>>63 == 0:
		return tagSpecial
	}
	return tagValid
}

// Groups of registers, as gdb calls them.
const (
	groupCore     = "org.gnu.gdb.i386.core"
	groupSSE      = "org.gnu.gdb.i386.sse"
	groupLinux    = "org.gnu.gdb.i386.linux"
	groupSegments = "org.gnu.gdb.i386.segments"
	groupAVX      = "org.gnu.gdb.i386.avx"
)

// layout is what gdb and we agree on that registers are.
type layout struct {
	fields []field
	size   int
	xml    string
}

// Numbers of registers that tell where a thread is.
const (
	numRBP, numRSP, numRIP = 6, 7, 16
)

// avx is the layout with the upper halves of the vector registers, plain that
// without.
var (
	avx   = sync.OnceValue(func() *layout { return newLayout(true) })
	plain = sync.OnceValue(func() *layout { return newLayout(false) })
)

// layoutFor is the layout that shows all that a thread has of what gdb knows.
func layoutFor(r *Registers) *layout {
	if len(r.Extended) >= xsAVXEnd {
		return avx()
	}
	return plain()
}

func newLayout(withAVX bool) *layout {
	var l layout
	add := func(group string, f ...field) {
		for i := range f {
			f[i].group = group
			l.size += f[i].size
		}
		l.fields = append(l.fields, f...)
	}
	for _, r := range []struct {
		name, kind string
		at         int
	}{
		{"rax", "int64", genRAX}, {"rbx", "int64", genRBX}, {"rcx", "int64", genRCX}, {"rdx", "int64", genRDX},
		{"rsi", "int64", genRSI}, {"rdi", "int64", genRDI}, {"rbp", "data_ptr", genRBP}, {"rsp", "data_ptr", genRSP},
		{"r8", "int64", genR8}, {"r9", "int64", genR9}, {"r10", "int64", genR10}, {"r11", "int64", genR11},
		{"r12", "int64", genR12}, {"r13", "int64", genR13}, {"r14", "int64", genR14}, {"r15", "int64", genR15},
		{"rip", "code_ptr", genRIP},
	} {
		add(groupCore, general(r.name, r.kind, 8, r.at))
	}
	for _, r := range []struct {
		name, kind string
		at         int
	}{
		{"eflags", "i386_eflags", genEFlags}, {"cs", "int32", genCS}, {"ss", "int32", genSS},
		{"ds", "int32", genDS}, {"es", "int32", genES}, {"fs", "int32", genFS}, {"gs", "int32", genGS},
	} {
		add(groupCore, general(r.name, r.kind, 4, r.at))
	}
	for i := range 8 {
		add(groupCore, extended("st"+string(rune('0'+i)), "i387_ext", 10, fxStack+16*i, 10, xsX87))
	}
	add(groupCore, control(), extended("fstat", "int", 4, fxStatus, 2, xsX87), tags(),
		extended("fiseg", "int", 4, fxIPSegment, 2, xsX87), extended("fioff", "int", 4, fxIP, 4, xsX87),
		extended("foseg", "int", 4, fxOperandSeg, 2, xsX87), extended("fooff", "int", 4, fxOperand, 4, xsX87),
		extended("fop", "int", 4, fxOpcode, 2, xsX87))
	for i := range 16 {
		add(groupSSE, extended("xmm"+decimal(i), "vec128", 16, fxVector+16*i, 16, xsSSE))
	}
	add(groupSSE, extended("mxcsr", "i386_mxcsr", 4, fxMXCSR, 4, xsAlways))
	add(groupLinux, general("orig_rax", "int", 8, genOrigRAX))
	add(groupSegments, general("fs_base", "int", 8, genFSBase), general("gs_base", "int", 8, genGSBase))
	if withAVX {
		for i := range 16 {
			add(groupAVX, extended("ymm"+decimal(i)+"h", "uint128", 16, xsAVX+16*i, 16, xsYMM))
		}
	}
	l.xml = l.describe()
	return &l
}

func decimal(i int) string {
	if i >= 10 {
		return "1" + string(rune('0'+i-10))
	}
	return string(rune('0' + i))
}

// describe writes what gdb calls a target description.
func (l *layout) describe() string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target><architecture>i386:x86-64</architecture><osabi>GNU/Linux</osabi>`)
	group := ""
	for _, f := range l.fields {
		if f.group != group {
			if group != "" {
				b.WriteString("</feature>")
			}
			group = f.group
			b.WriteString(`<feature name="` + group + `">` + types[group])
		}
		b.WriteString(`<reg name="` + f.name + `" bitsize="` + bits(f.size) + `" type="` + f.kind + `"/>`)
	}
	b.WriteString("</feature></target>")
	return b.String()
}

func bits(size int) string {
	switch size {
	case 4:
		return "32"
	case 8:
		return "64"
	case 10:
		return "80"
	}
	return "128"
}

// types of registers that gdb wants described, by group.
var types = map[string]string{
	groupCore: `<flags id="i386_eflags" size="4"><field name="CF" start="0" end="0"/><field name="" start="1" end="1"/>` +
		`<field name="PF" start="2" end="2"/><field name="AF" start="4" end="4"/><field name="ZF" start="6" end="6"/>` +
		`<field name="SF" start="7" end="7"/><field name="TF" start="8" end="8"/><field name="IF" start="9" end="9"/>` +
		`<field name="DF" start="10" end="10"/><field name="OF" start="11" end="11"/><field name="NT" start="14" end="14"/>` +
		`<field name="RF" start="16" end="16"/><field name="VM" start="17" end="17"/><field name="AC" start="18" end="18"/>` +
		`<field name="ID" start="21" end="21"/></flags>`,
	groupSSE: `<vector id="v8bf16" type="bfloat16" count="8"/><vector id="v4f" type="ieee_single" count="4"/>` +
		`<vector id="v2d" type="ieee_double" count="2"/><vector id="v16i8" type="int8" count="16"/>` +
		`<vector id="v8i16" type="int16" count="8"/><vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>` +
		`<union id="vec128"><field name="v8_bfloat16" type="v8bf16"/><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>` +
		`<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/>` +
		`<field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/></union>` +
		`<flags id="i386_mxcsr" size="4"><field name="IE" start="0" end="0"/><field name="DE" start="1" end="1"/>` +
		`<field name="ZE" start="2" end="2"/><field name="OE" start="3" end="3"/><field name="UE" start="4" end="4"/>` +
		`<field name="PE" start="5" end="5"/><field name="DAZ" start="6" end="6"/><field name="IM" start="7" end="7"/>` +
		`<field name="DM" start="8" end="8"/><field name="ZM" start="9" end="9"/><field name="OM" start="10" end="10"/>` +
		`<field name="UM" start="11" end="11"/><field name="PM" start="12" end="12"/><field name="FZ" start="15" end="15"/></flags>`,
}

// all returns every register, in gdb's order.
func (l *layout) all(r *Registers) []byte {
	out := make([]byte, l.size)
	p := out
	for _, f := range l.fields {
		f.get(r, p[:f.size])
		p = p[f.size:]
	}
	return out
}

// setAll changes every register that is another in p, which may end early.
func (l *layout) setAll(r *Registers, p []byte) {
	now := l.all(r)
	for _, f := range l.fields {
		if len(p) < f.size {
			return
		}
		if !bytes.Equal(now[:f.size], p[:f.size]) {
			f.set(r, p[:f.size])
		}
		p, now = p[f.size:], now[f.size:]
	}
}

// one returns a register by its number.
func (l *layout) one(r *Registers, n uint64) ([]byte, bool) {
	if n >= uint64(len(l.fields)) {
		return nil, false
	}
	f := l.fields[n]
	p := make([]byte, f.size)
	f.get(r, p)
	return p, true
}

// setOne changes a register.
func (l *layout) setOne(r *Registers, n uint64, p []byte) bool {
	if n >= uint64(len(l.fields)) || len(p) != l.fields[n].size {
		return false
	}
	l.fields[n].set(r, p)
	return true
}
