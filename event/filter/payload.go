package filter

import (
	"math"
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"google.golang.org/protobuf/reflect/protoreflect"

	"aios.dev/aios/event"
)

// payload shows a message to CEL: fields by name, without making a copy.
type payload struct{ m protoreflect.Message }

func payloadOf(p event.Payload) ref.Val {
	if p == nil {
		return payload{}
	}
	return payload{p.ProtoReflect()}
}

var payloadType = types.NewObjectType("aios.event.Payload")

// field returns the field that an index names, nil for none.
func (p payload) field(index ref.Val) protoreflect.FieldDescriptor {
	name, ok := index.(types.String)
	if !ok || p.m == nil {
		return nil
	}
	return p.m.Descriptor().Fields().ByName(protoreflect.Name(name))
}

// Get implements traits.Indexer.
func (p payload) Get(index ref.Val) ref.Val {
	f := p.field(index)
	if f == nil {
		return types.NewErr("the event has no such field: %v", index.Value())
	}
	v := p.m.Get(f)
	switch {
	case f.IsList():
		list := make([]ref.Val, v.List().Len())
		for i := range list {
			list[i] = scalar(f, v.List().Get(i))
		}
		return types.NewRefValList(types.DefaultTypeAdapter, list)
	case f.IsMap():
		m := make(map[ref.Val]ref.Val, v.Map().Len())
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			m[types.String(k.String())] = scalar(f.MapValue(), v)
			return true
		})
		return types.NewRefValMap(types.DefaultTypeAdapter, m)
	}
	return scalar(f, v)
}

// IsSet implements traits.FieldTester: has(data.field).
func (p payload) IsSet(index ref.Val) ref.Val {
	f := p.field(index)
	return types.Bool(f != nil && p.m.Has(f))
}

// scalar returns one value of a field.
func scalar(f protoreflect.FieldDescriptor, v protoreflect.Value) ref.Val {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return types.Bool(v.Bool())
	case protoreflect.StringKind:
		return types.String(v.String())
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return types.Double(v.Float())
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		if n := v.Uint(); n <= math.MaxInt64 {
			return types.Int(n) // So that it can be reckoned with beside numbers as they are written.
		}
		return types.Uint(v.Uint())
	case protoreflect.MessageKind:
		return payload{v.Message()}
	}
	return types.Int(v.Int())
}

// ConvertToNative implements ref.Val.
func (p payload) ConvertToNative(t reflect.Type) (any, error) {
	return nil, types.NewErr("a payload is not converted to %v", t).(*types.Err)
}

// ConvertToType implements ref.Val.
func (p payload) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return payloadType
	}
	return types.NewErr("a payload is not converted to %s", t.TypeName())
}

// Equal implements ref.Val.
func (p payload) Equal(other ref.Val) ref.Val {
	o, ok := other.(payload)
	return types.Bool(ok && o.m == p.m)
}

// Type implements ref.Val.
func (p payload) Type() ref.Type { return payloadType }

// Value implements ref.Val.
func (p payload) Value() any { return p.m }
