package klog

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
)

// maxDepth bounds how deep values nest.
const maxDepth = 6

// appendAttr appends `"key":value`, after a comma if b has something, scrubbed.
// A group becomes its members, with the key in front of theirs.
func appendAttr(b []byte, prefix string, a slog.Attr, depth int) []byte {
	v := a.Value.Resolve()
	key := prefix + a.Key
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			key += "."
		}
		if isSecret(a.Key) {
			return appendPair(b, prefix+a.Key, func(b []byte) []byte { return appendString(b, Redacted) })
		}
		if depth >= maxDepth {
			return b
		}
		for _, m := range v.Group() {
			b = appendAttr(b, key, m, depth+1)
		}
		return b
	}
	if a.Equal(slog.Attr{}) {
		return b
	}
	return appendPair(b, key, func(b []byte) []byte { return appendValue(b, key, v) })
}

func appendPair(b []byte, key string, value func([]byte) []byte) []byte {
	if len(b) > 0 {
		b = append(b, ',')
	}
	b = appendString(b, Scrub(key))
	b = append(b, ':')
	return value(b)
}

// appendValue appends the JSON of the value of an attribute.
func appendValue(b []byte, key string, v slog.Value) []byte {
	if isSecret(key) {
		return appendString(b, Redacted)
	}
	switch v.Kind() {
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10)
	case slog.KindUint64:
		return strconv.AppendUint(b, v.Uint64(), 10)
	case slog.KindBool:
		return strconv.AppendBool(b, v.Bool())
	case slog.KindFloat64:
		if f := v.Float64(); !math.IsInf(f, 0) && !math.IsNaN(f) {
			return strconv.AppendFloat(b, f, 'g', -1, 64)
		}
		return appendString(b, v.String())
	case slog.KindDuration:
		return appendString(b, v.Duration().String())
	case slog.KindTime:
		return appendString(b, v.Time().UTC().Format(time.RFC3339Nano))
	case slog.KindString:
		return appendText(b, key, v.String())
	default:
		return appendAny(b, key, v.Any())
	}
}

func appendText(b []byte, key, s string) []byte {
	if isEnv(key) {
		s = scrubEnv(s)
	}
	return appendString(b, Scrub(s))
}

// appendAny appends a value of any type. What the value itself does wrong when
// it is asked for its text does not reach the caller.
func appendAny(b []byte, key string, v any) (out []byte) {
	n := len(b)
	defer func() {
		if r := recover(); r != nil {
			out = appendString(b[:n], "it cannot be shown: "+Scrub(fmt.Sprint(r)))
		}
	}()
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case error:
		return appendText(b, key, v.Error())
	case encoding.TextMarshaler:
		if text, err := v.MarshalText(); err == nil {
			return appendText(b, key, string(text))
		}
	case fmt.Stringer:
		return appendText(b, key, v.String())
	case []byte:
		return appendText(b, key, string(v))
	}
	raw, err := json.Marshal(v)
	var tree any
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		err = dec.Decode(&tree)
	}
	if err != nil {
		return appendText(b, key, fmt.Sprintf("%+v", v))
	}
	return appendTree(b, key, tree, 0)
}

// appendTree appends decoded JSON, scrubbed.
func appendTree(b []byte, key string, v any, depth int) []byte {
	if isSecret(key) {
		return appendString(b, Redacted)
	}
	if depth > maxDepth {
		return appendString(b, "…")
	}
	switch v := v.(type) {
	case string:
		return appendText(b, key, v)
	case json.Number:
		return append(b, v...)
	case bool:
		return strconv.AppendBool(b, v)
	case []any:
		b = append(b, '[')
		hide := false
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			s, text := e.(string)
			if hide && text {
				b = appendString(b, Redacted)
			} else {
				b = appendTree(b, key, e, depth+1)
			}
			// A flag's value is the next of the arguments.
			hide = text && len(s) > 1 && s[0] == '-' && isSecret(s) && !bytes.ContainsRune([]byte(s), '=')
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, Scrub(k))
			b = append(b, ':')
			if _, text := v[k].(string); text && isEnv(key) {
				b = appendString(b, Redacted)
				continue
			}
			b = appendTree(b, k, v[k], depth+1)
		}
		return append(b, '}')
	default:
		return append(b, "null"...)
	}
}
