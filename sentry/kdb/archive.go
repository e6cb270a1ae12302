package kdb

import (
	"archive/tar"
	"encoding/json"
	"io"
	"time"

	"aios.dev/aios/errdefs"
)

// Archive writes the members of a dump into one stream, a tar.
type Archive struct {
	w    *tar.Writer
	time time.Time
}

// NewArchive returns an archive whose members are dated now.
func NewArchive(w io.Writer, now time.Time) *Archive {
	return &Archive{w: tar.NewWriter(w), time: now}
}

// Member begins a file of exactly size bytes, which the caller then writes to
// what is returned.
func (a *Archive) Member(name string, size int64) (io.Writer, error) {
	err := a.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: size, ModTime: a.time.Truncate(time.Second)})
	return a.w, errdefs.Wrap(err, errdefs.HostIO, "write dump", errdefs.Resource("%s", name))
}

// Bytes adds a whole file.
func (a *Archive) Bytes(name string, data []byte) error {
	w, err := a.Member(name, int64(len(data)))
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return errdefs.Wrap(err, errdefs.HostIO, "write dump", errdefs.Resource("%s", name))
}

// JSON adds a file with v in it.
func (a *Archive) JSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "encode "+name)
	}
	return a.Bytes(name, append(data, '\n'))
}

// Close ends the archive, not the stream.
func (a *Archive) Close() error {
	return errdefs.Wrap(a.w.Close(), errdefs.HostIO, "write dump")
}
