package abi

import (
	"fmt"
	"reflect"
	"strings"
)

// DeviceReference is the reference of the ioctls of /dev/aios and of their
// structures, in Markdown.
func DeviceReference() string {
	var b strings.Builder
	b.WriteString("| call | request | argument | what it does |\n|---|---|---|---|\n")
	seen := map[reflect.Type]bool{reflect.TypeFor[DeviceLimits](): true}
	structs := []reflect.Type{reflect.TypeFor[DeviceLimits]()}
	for _, c := range deviceCalls {
		t := reflect.TypeOf(c.New()).Elem()
		fmt.Fprintf(&b, "| `%s` | `%#x` | `%s`, %d bytes | %s |\n", c.Name, c.Request(), cName(t), c.Size(), c.Meaning)
		if !seen[t] {
			seen[t] = true
			structs = append(structs, t)
		}
	}
	for _, t := range structs[1:] {
		fmt.Fprintf(&b, "\n`%s`:\n\n| offset | type | field | |\n|---:|---|---|---|\n", cName(t))
		for i := range t.NumField() {
			f := t.Field(i)
			fmt.Fprintf(&b, "| %d | `%s` | `%s` | %s |\n", f.Offset, cType(f.Type), snake(f.Name), f.Tag.Get("doc"))
		}
	}
	fmt.Fprintf(&b, "\n`%s`: ", cName(structs[0]))
	for i := range structs[0].NumField() {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "`%s`", snake(structs[0].Field(i).Name))
	}
	b.WriteString(", each `u64`.\n")
	return b.String()
}

// cName is the name in C of a structure: DeviceCap is aios_cap.
func cName(t reflect.Type) string {
	return "aios_" + snake(strings.TrimPrefix(t.Name(), "Device"))
}

func cType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return fmt.Sprintf("char[%d]", t.Len())
		}
		return fmt.Sprintf("%s[%d]", cType(t.Elem()), t.Len())
	case reflect.Struct:
		return cName(t)
	case reflect.Uint32:
		return "u32"
	default:
		return "u64"
	}
}

// snake turns BytesPerSec into bytes_per_sec, and MilliCPU into milli_cpu.
func snake(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		upper := name[i] >= 'A' && name[i] <= 'Z'
		if upper && i > 0 && name[i-1] >= 'a' && name[i-1] <= 'z' {
			b.WriteByte('_')
		}
		b.WriteByte(name[i] | 0x20)
	}
	return b.String()
}
