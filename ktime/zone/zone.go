// Package zone has the time zones of the IANA database, in the form that
// programs read (TZif, RFC 8536), for agents whose image has none. They are those
// of the Go release that `make generate` was run with.
package zone

import (
	"archive/zip"
	"bytes"
	_ "embed" // The database.
	"io"
	"slices"
	"strings"
	"sync"

	"aios.dev/aios/errdefs"
)

//go:embed zoneinfo.zip
var database []byte

// files are the zones by name.
var files = sync.OnceValues(func() (map[string]*zip.File, error) {
	r, err := zip.NewReader(bytes.NewReader(database), int64(len(database)))
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "read the time zones")
	}
	out := make(map[string]*zip.File)
	for _, f := range r.File {
		if !strings.HasSuffix(f.Name, "/") {
			out[f.Name] = f
		}
	}
	return out, nil
})

// Load returns what describes a zone, such as Europe/Berlin.
func Load(name string) ([]byte, error) {
	all, err := files()
	if err != nil {
		return nil, err
	}
	f := all[name]
	if f == nil {
		fix := "name one of the IANA database, such as Europe/Berlin or UTC"
		if near := nearest(name, all); near != "" {
			fix = "write " + near
		}
		return nil, errdefs.New(errdefs.InvalidArgument, "there is no such time zone", errdefs.Resource("%q", name), errdefs.Fix("%s", fix))
	}
	r, err := f.Open()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "read the time zones")
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return data, errdefs.Wrap(err, errdefs.Internal, "read the time zones")
}

// nearest is the zone that is meant by the name of a city, or by one in other
// letters; "" if there is none.
func nearest(name string, all map[string]*zip.File) string {
	meant := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(name), " ", "_"))
	if meant == "" {
		return ""
	}
	var near []string
	for n := range all {
		if l := strings.ToLower(n); l == meant || strings.HasSuffix(l, "/"+meant) {
			near = append(near, n)
		}
	}
	if len(near) == 0 {
		return ""
	}
	return slices.MinFunc(near, func(a, b string) int {
		if d := len(a) - len(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
}
