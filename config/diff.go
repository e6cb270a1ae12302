package config

import (
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"
)

// Change is a setting that has another value. What was not there, or is not any
// more, is "".
type Change struct {
	Key, Before, After string
	// Restart says that the value counts from the next start on.
	Restart bool
}

// Hidden stands for values that are not shown.
const Hidden = "***"

// Diff returns what is different between two values of one configuration
// struct, by key. Entries of lists are known by their field name, if they have
// one. A field with the tag config:"secret" is shown as Hidden, and one with
// config:"restart" counts from the next start on.
func Diff(before, after any) []Change {
	old, now := make(map[string]leaf), make(map[string]leaf)
	flatten("", reflect.Indirect(reflect.ValueOf(before)), leaf{}, old)
	flatten("", reflect.Indirect(reflect.ValueOf(after)), leaf{}, now)
	keys := slices.Collect(maps.Keys(old))
	for k := range now {
		if _, ok := old[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	var out []Change
	for _, k := range keys {
		a, b := old[k], now[k]
		if a.text == b.text {
			continue
		}
		secret := a.secret || b.secret
		out = append(out, Change{Key: k, Before: a.show(secret), After: b.show(secret), Restart: a.restart || b.restart})
	}
	return out
}

// leaf is a single value and what its tags say.
type leaf struct {
	text            string
	secret, restart bool
}

func (l leaf) show(secret bool) string {
	if secret && l.text != "" {
		return Hidden
	}
	return l.text
}

// flatten collects the single values of v. What is zero is not there.
func flatten(key string, v reflect.Value, tags leaf, into map[string]leaf) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		if v = v.Elem(); v.Kind() == reflect.Struct && v.IsZero() {
			tags.text = "{}"
			into[key] = tags
			return
		}
	}
	if v.IsZero() {
		return
	}
	if m, ok := asText(v); ok {
		text, err := m.MarshalText()
		tags.text = string(text)
		if err == nil {
			into[key] = tags
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, inline := keyOf(f)
			if name == "" && !inline {
				continue
			}
			t := tags
			t.secret = t.secret || f.Tag.Get("config") == "secret"
			t.restart = t.restart || f.Tag.Get("config") == "restart"
			flatten(join(key, name), v.Field(i), t, into)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.String {
			tags.text = fmt.Sprint(v.Interface())
			into[key] = tags
			return
		}
		for i := range v.Len() {
			flatten(join(key, nameOf(v.Index(i), i)), v.Index(i), tags, into)
		}
	default:
		tags.text = fmt.Sprint(v.Interface())
		if d, ok := v.Interface().(time.Duration); ok {
			tags.text = FormatDuration(d)
		}
		into[key] = tags
	}
}

func join(key, name string) string {
	if key == "" || name == "" {
		return key + name
	}
	return key + "." + name
}

// nameOf is what an entry of a list is known by.
func nameOf(v reflect.Value, i int) string {
	if v.Kind() == reflect.Struct {
		for f := range v.NumField() {
			if name, _ := keyOf(v.Type().Field(f)); name == "name" && v.Field(f).Kind() == reflect.String && v.Field(f).Len() > 0 {
				return v.Field(f).String()
			}
		}
	}
	return strconv.Itoa(i)
}

// asText returns v if it writes itself.
func asText(v reflect.Value) (encoding.TextMarshaler, bool) {
	if !v.CanInterface() {
		return nil, false
	}
	m, ok := v.Interface().(encoding.TextMarshaler)
	return m, ok
}
