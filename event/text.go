package event

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxText bounds a text that an agent chose, in bytes.
const MaxText = 4096

// Text makes what an agent chose fit to be in a payload: valid UTF-8 of at
// most MaxText bytes.
func Text(s string) string {
	if len(s) > MaxText {
		s = s[:MaxText-len("…")] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// maxArgs bounds all arguments of a program together.
const maxArgs = 1024

// Args makes the arguments of a program fit to be in a payload. What is beyond
// a kilobyte is left out, and "…" says so.
func Args(args []string) []string {
	left := maxArgs
	out := make([]string, 0, min(len(args), 16))
	for _, a := range args {
		if left -= len(a) + 1; left < 0 {
			return append(out, "…")
		}
		out = append(out, strings.ToValidUTF8(a, "\uFFFD"))
	}
	return out
}

// repaired returns m, or a copy of it in which every text is valid UTF-8.
func repaired(m protoreflect.Message) protoreflect.Message {
	if valid(m) {
		return m
	}
	m = proto.Clone(m.Interface()).ProtoReflect()
	repair(m)
	return m
}

// valid reports whether all text of m is UTF-8.
func valid(m protoreflect.Message) bool {
	ok := true
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		eachText(f, v, func(s string) { ok = ok && utf8.ValidString(s) }, func(sub protoreflect.Message) { ok = ok && valid(sub) })
		return ok
	})
	return ok
}

// eachText calls text for every string of the field and message for every
// message in it.
func eachText(f protoreflect.FieldDescriptor, v protoreflect.Value, text func(string), message func(protoreflect.Message)) {
	one := func(f protoreflect.FieldDescriptor, v protoreflect.Value) {
		switch f.Kind() {
		case protoreflect.StringKind:
			text(v.String())
		case protoreflect.MessageKind:
			message(v.Message())
		}
	}
	switch {
	case f.IsList():
		for i := range v.List().Len() {
			one(f, v.List().Get(i))
		}
	case f.IsMap():
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			one(f.MapKey(), k.Value())
			one(f.MapValue(), v)
			return true
		})
	default:
		one(f, v)
	}
}

func repair(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList():
			for i := range v.List().Len() {
				if n, ok := repairedValue(f, v.List().Get(i)); ok {
					v.List().Set(i, n)
				}
			}
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, old protoreflect.Value) bool {
				key, _ := repairedValue(f.MapKey(), k.Value())
				n, _ := repairedValue(f.MapValue(), old)
				v.Map().Clear(k)
				v.Map().Set(key.MapKey(), n)
				return true
			})
		default:
			if n, ok := repairedValue(f, v); ok {
				m.Set(f, n)
			}
		}
		return true
	})
}

// repairedValue reports whether what it returns is to be stored.
func repairedValue(f protoreflect.FieldDescriptor, v protoreflect.Value) (protoreflect.Value, bool) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.ToValidUTF8(v.String(), "\uFFFD")), true
	case protoreflect.MessageKind:
		repair(v.Message())
	}
	return v, false
}
