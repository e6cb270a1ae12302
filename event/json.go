package event

import (
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// AppendJSON appends the event as one line of CloudEvents 1.0 JSON, without the
// newline. The data has the names of the payload's fields in the .proto file;
// fields that are empty are left out, numbers are numbers.
func (e *Event) AppendJSON(b []byte) []byte {
	b = append(b, `{"specversion":"1.0","id":`...)
	b = appendText(b, e.ID())
	b = append(b, `,"source":`...)
	source := "/aios/" + e.Domain
	if e.Agent != "" {
		source += "/" + e.Agent
	}
	b = appendText(b, source)
	b = append(b, `,"type":"dev.aios.`...)
	b = append(b, e.Topic()...)
	b = append(b, `","time":"`...)
	b = time.Unix(0, e.Wall).UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z07:00")
	b = append(b, '"')
	if e.Agent != "" {
		b = append(b, `,"subject":`...)
		b = appendText(b, e.Agent)
	}
	b = append(b, `,"datacontenttype":"application/json","aiosseverity":"`...)
	b = append(b, e.Severity.String()...)
	b = append(b, '"')
	if e.Correlation != "" {
		b = append(b, `,"aioscorrelation":`...)
		b = appendText(b, e.Correlation)
	}
	// A string: CloudEvents knows no integer of 64 bits.
	b = append(b, `,"aiosmono":"`...)
	b = strconv.AppendInt(b, e.Mono, 10)
	b = append(b, `","data":`...)
	b = AppendPayloadJSON(b, e.Payload)
	return append(b, '}')
}

// AppendPayloadJSON appends the fields of a payload as a JSON object.
func AppendPayloadJSON(b []byte, p Payload) []byte {
	if p == nil {
		return append(b, "{}"...)
	}
	return appendMessage(b, p.ProtoReflect())
}

func appendMessage(b []byte, m protoreflect.Message) []byte {
	b = append(b, '{')
	fields := m.Descriptor().Fields()
	first := true
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = append(b, f.Name()...)
		b = append(b, `":`...)
		b = appendField(b, f, m.Get(f))
	}
	return append(b, '}')
}

func appendField(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch {
	case f.IsList():
		b = append(b, '[')
		for i := range v.List().Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, f, v.List().Get(i))
		}
		return append(b, ']')
	case f.IsMap():
		b = append(b, '{')
		first := true
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			if !first {
				b = append(b, ',')
			}
			first = false
			b = appendText(b, k.String())
			b = append(b, ':')
			b = appendValue(b, f.MapValue(), v)
			return true
		})
		return append(b, '}')
	}
	return appendValue(b, f, v)
}

func appendValue(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool())
	case protoreflect.StringKind:
		return appendText(b, v.String())
	case protoreflect.MessageKind:
		return appendMessage(b, v.Message())
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		x := v.Float()
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return append(b, "null"...)
		}
		if a := math.Abs(x); a < 1e-6 && a != 0 || a >= 1e21 {
			return strconv.AppendFloat(b, x, 'g', -1, 64)
		}
		return strconv.AppendFloat(b, x, 'f', -1, 64)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return strconv.AppendUint(b, v.Uint(), 10)
	}
	return strconv.AppendInt(b, v.Int(), 10)
}

const hex = "0123456789abcdef"

// appendText appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\n':
				b = append(b, '\\', 'n')
			case c == '\t':
				b = append(b, '\\', 't')
			case c < ' ' || c == 0x7f:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			default:
				b = append(b, c)
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		b = utf8.AppendRune(b, r)
		i += size
	}
	return append(b, '"')
}
