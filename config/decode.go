package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"aios.dev/aios/errdefs"
)

// Defaulter is implemented by parts of a configuration that have other defaults
// than zero: SetDefaults is called before the part is read.
type Defaulter interface{ SetDefaults() }

// Decode reads the document into a struct that has its defaults set. Fields are
// keys by their yaml tag, or inlined with the tag ",inline". They may be
// strings, numbers, booleans, durations, encoding.TextUnmarshaler, structs,
// pointers to structs for sections that may be left out, and lists of these.
// Every key must be known, be there once, and have a value that fits.
func (d *Document) Decode(into any) error {
	if d.root == nil {
		return nil
	}
	return d.value(d.root, "", reflect.ValueOf(into).Elem())
}

var (
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType = reflect.TypeFor[time.Duration]()
)

// value reads a node into v, which is what key stands for.
func (d *Document) value(n *yaml.Node, key string, v reflect.Value) error {
	if key != "" {
		d.at[key] = n
	}
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return d.fail(n, key, "anchors and aliases are not read", "write the value out")
	case n.Tag != "" && !strings.HasPrefix(n.Tag, "!!"):
		return d.fail(n, key, "tags such as "+n.Tag+" are not read", "leave the tag out")
	case n.Tag == "!!null":
		return d.fail(n, key, "it has no value", "give it one, or leave the key out")
	case v.Kind() == reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if def, ok := p.Interface().(Defaulter); ok {
			def.SetDefaults()
		}
		v.Set(p)
		return d.value(n, key, p.Elem())
	case v.Addr().Type().Implements(textType):
		return d.text(n, key, v)
	case v.Kind() == reflect.Struct:
		return d.section(n, key, v)
	case v.Kind() == reflect.Slice:
		return d.list(n, key, v)
	}
	if n.Kind != yaml.ScalarNode {
		return d.fail(n, key, "it is "+kindOf(n)+", not "+wanted(v.Type()), "write "+wanted(v.Type()))
	}
	return d.scalar(n, key, v)
}

// text reads a value that reads itself.
func (d *Document) text(n *yaml.Node, key string, v reflect.Value) error {
	if n.Kind != yaml.ScalarNode {
		return d.fail(n, key, "it is "+kindOf(n)+", not one value", "write one value")
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
		return d.Fail(key, err)
	}
	return nil
}

// section reads a mapping into a struct.
func (d *Document) section(n *yaml.Node, key string, v reflect.Value) error {
	if n.Kind != yaml.MappingNode {
		return d.fail(n, key, "it is "+kindOf(n)+", not a section", "write keys with values below it: "+strings.Join(keysOf(v.Type()), ", "))
	}
	fields := make(map[string]reflect.Value)
	gather(v, fields)
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		name := k.Value
		if k.Kind != yaml.ScalarNode {
			return d.fail(k, key, "a key is "+kindOf(k), "keys are words")
		}
		field, known := fields[name]
		if !known {
			return d.fail(k, key, fmt.Sprintf("there is no key %q", clip(name)), suggestKey(name, keysOf(v.Type())))
		}
		full := name
		if key != "" {
			full = key + "." + name
		}
		if line, twice := seen[name]; twice {
			return d.fail(k, full, fmt.Sprintf("the key is there already, in line %d", line), "keep one of the two")
		}
		seen[name] = k.Line
		if err := d.value(val, full, field); err != nil {
			return err
		}
	}
	return nil
}

// list reads a sequence.
func (d *Document) list(n *yaml.Node, key string, v reflect.Value) error {
	if n.Kind != yaml.SequenceNode {
		return d.fail(n, key, "it is "+kindOf(n)+", not a list", "write a list: lines that begin with a dash, or [one, two]")
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		if def, ok := out.Index(i).Addr().Interface().(Defaulter); ok {
			def.SetDefaults()
		}
		if err := d.value(item, key+"["+strconv.Itoa(i)+"]", out.Index(i)); err != nil {
			return err
		}
	}
	v.Set(out)
	return nil
}

// scalar reads a single value.
func (d *Document) scalar(n *yaml.Node, key string, v reflect.Value) error {
	bad := func(fix string) error {
		return d.fail(n, key, fmt.Sprintf("%q is not %s", clip(n.Value), wanted(v.Type())), fix)
	}
	if v.Type() == durationType {
		t, err := ParseDuration(n.Value)
		if err != nil {
			return bad("write a number with a unit, such as 500ms, 10s, 5m, 2h or 7d")
		}
		v.SetInt(int64(t))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Bool:
		if n.Value != "true" && n.Value != "false" {
			return bad("write true or false")
		}
		v.SetBool(n.Value == "true")
	case reflect.Int, reflect.Int64:
		x, err := strconv.ParseInt(n.Value, 10, 64)
		if err != nil || v.OverflowInt(x) {
			return bad("write a whole number")
		}
		v.SetInt(x)
	case reflect.Float64:
		x, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			return bad("write a number, such as 10 or 0.5")
		}
		v.SetFloat(x)
	default:
		return errdefs.Newf(errdefs.Internal, "%s is of a type that no configuration has: %s", key, v.Type())
	}
	return nil
}

// ParseDuration reads a duration: as Go writes them, and in days as well. It is
// not negative.
func ParseDuration(s string) (time.Duration, error) {
	t, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok && err != nil {
		var n float64
		if n, err = strconv.ParseFloat(days, 64); err == nil {
			n *= 24 * float64(time.Hour)
			if !(n < math.MaxInt64) {
				n = -1
			}
			t = time.Duration(n)
		}
	}
	if err != nil || t < 0 {
		return 0, errdefs.Newf(errdefs.InvalidArgument, "%q is no duration", s)
	}
	return t, nil
}

// FormatDuration writes a duration as ParseDuration reads it, in whole days
// where it can.
func FormatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// gather finds the fields of a struct by key.
func gather(v reflect.Value, into map[string]reflect.Value) {
	for i := range v.NumField() {
		name, inline := keyOf(v.Type().Field(i))
		switch {
		case inline:
			gather(v.Field(i), into)
		case name != "":
			into[name] = v.Field(i)
		}
	}
}

// keyOf is the key of a field; "" for one that is none.
func keyOf(f reflect.StructField) (name string, inline bool) {
	name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name, option == "inline"
}

// keysOf lists the keys of a section.
func keysOf(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		name, inline := keyOf(t.Field(i))
		switch {
		case inline:
			out = append(out, keysOf(t.Field(i).Type)...)
		case name != "":
			out = append(out, name)
		}
	}
	return out
}

// suggestKey says what somebody may have meant.
func suggestKey(name string, keys []string) string {
	i := slices.IndexFunc(keys, func(k string) bool { return near(strings.ToLower(name), k) })
	if i >= 0 {
		return "write " + keys[i]
	}
	return "keys here are " + strings.Join(keys, ", ")
}

// near reports whether two words differ by little: one letter that is missing,
// too much, another one or swapped with its neighbour, or - for _.
func near(a, b string) bool {
	a = strings.ReplaceAll(a, "-", "_")
	if a == b {
		return true
	}
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 || len(a) < 3 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	if len(a) < len(b) {
		return a[i:] == b[i+1:]
	}
	return a[i+1:] == b[i+1:] || i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}

func wanted(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64:
		return "a whole number"
	case t.Kind() == reflect.Float64:
		return "a number"
	}
	return "a text"
}

func clip(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
