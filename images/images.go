// Package images keeps what agents start from: the image store, the importers
// that fill it, and the description of the host as an image.
//
// An image is one EROFS file, named by the SHA-256 of its bytes and mapped by
// every agent that uses it; mkerofs writes it and says what is in it. A Store
// is a directory:
//
//	lock             flock: held exclusively for each change, for its moment
//	blobs/HEX.erofs  images, immutable
//	names/NAME.json  what a name stands for: an Image
//	host/KEY.json    skeletons of the host image, by what they were made from
//	tmp/             imports that are not finished, each locked by its writer
//
// Everything becomes visible by rename, after fsync. What a crash leaves in
// tmp/ or without a name in blobs/ is swept when the store is next opened, by
// this process or another; an import that runs elsewhere is left alone.
//
// Import reads a source into a tree of mkerofs.Nodes and then writes the tree:
//
//	dir.go      a directory                         ─┐
//	oci.go      OCI layout → manifest → layers       ├→ tree → blob → name
//	archive.go  the same inside a tar, docker save  ─┘
//	layer.go    a layer → a plain tar that can be read at random
//	merge.go    plain tars → one tree, whiteouts honoured
//
// Sources are untrusted: every count and size is bounded by Limits, names are
// resolved inside the tree that is being built and never on the host, and
// digests are verified.
//
// Lock order: Store.mu, then the flock. Neither is held while a source is read
// or an image is written. Sizes are in bytes. The package must not import the
// kernel or gVisor; whoever mounts an image opens it here and passes the fd on.
package images

import (
	"runtime"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// HostName is the name of the host image. No stored image may have it.
const HostName = "host"

// DefaultPath is PATH for agents whose image sets none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Kind says what an image was imported from.
type Kind string

// The kinds of source.
const (
	// KindAuto lets Import find out.
	KindAuto Kind = ""
	// KindDir is a directory that is the root of a file system.
	KindDir Kind = "dir"
	// KindOCILayout is a directory with an OCI image layout.
	KindOCILayout Kind = "oci-layout"
	// KindOCIArchive is a tar of an OCI image layout, compressed or not.
	KindOCIArchive Kind = "oci-archive"
	// KindDockerArchive is what "docker save" writes, compressed or not.
	KindDockerArchive Kind = "docker-archive"
	// KindHost is the host image.
	KindHost Kind = "host"
)

// Image is what the store knows of an image.
type Image struct {
	Name string `json:"name"`
	// Digest is "sha256:" and the hexadecimal digest of the EROFS file.
	Digest string `json:"digest"`
	// Size is that of the EROFS file.
	Size int64 `json:"size"`
	// Files counts inodes: files, directories, links and nodes.
	Files   int64     `json:"files"`
	Created time.Time `json:"created"`
	Kind    Kind      `json:"kind"`
	// Source is where it was imported from, as the importer named it.
	Source string `json:"source,omitempty"`
	Config Config `json:"config"`
	// Warnings tells what of the source the image does not have.
	Warnings []string `json:"warnings,omitempty"`
}

// Config is how the image wants to be run, as in the OCI image specification.
type Config struct {
	Architecture string   `json:"architecture,omitempty"`
	Env          []string `json:"env,omitempty"`
	Entrypoint   []string `json:"entrypoint,omitempty"`
	Cmd          []string `json:"cmd,omitempty"`
	WorkingDir   string   `json:"workingDir,omitempty"`
	// User is USER[:GROUP], names or numbers; see ResolveUser.
	User       string            `json:"user,omitempty"`
	StopSignal string            `json:"stopSignal,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// Limits bounds what an import may take from its source. A zero field stands
// for its default.
type Limits struct {
	// Entries bounds names in a directory tree, or entries of all layers.
	Entries int64
	// FileSize bounds one regular file.
	FileSize int64
	// TotalSize bounds the regular files of the source together, and the
	// uncompressed layers.
	TotalSize int64
	// Layers bounds the layers of an OCI image.
	Layers int
}

// DefaultLimits are far above what images hold and far below what hurts.
var DefaultLimits = Limits{Entries: 2 << 20, FileSize: 32 << 30, TotalSize: 128 << 30, Layers: 512}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits
	if l.Entries > 0 {
		d.Entries = l.Entries
	}
	if l.FileSize > 0 {
		d.FileSize = l.FileSize
	}
	if l.TotalSize > 0 {
		d.TotalSize = l.TotalSize
	}
	if l.Layers > 0 {
		d.Layers = l.Layers
	}
	return d
}

// Phase is what an import is busy with.
type Phase string

// The phases, in order. A directory has no layers to unpack.
const (
	PhaseUnpack Phase = "unpack"
	PhaseWrite  Phase = "write"
)

// ImportOptions tunes an import; the zero value is good.
type ImportOptions struct {
	// Kind skips the detection of what the source is.
	Kind Kind
	// Replace lets the import take over the name of an existing image.
	Replace bool
	// Architecture picks an image of a multi-platform index; it is a GOARCH
	// and defaults to the one of this process.
	Architecture string
	// Ref picks an image by its tag when the source holds several.
	Ref    string
	Limits Limits
	// Progress hears of bytes done and to do in each phase. It is called on
	// the importing goroutine and must not block.
	Progress func(phase Phase, done, total int64)
}

func (o ImportOptions) withDefaults() ImportOptions {
	if o.Architecture == "" {
		o.Architecture = runtime.GOARCH
	}
	if o.Progress == nil {
		o.Progress = func(Phase, int64, int64) {}
	}
	o.Limits = o.Limits.withDefaults()
	return o
}

// checkName refuses what cannot name a stored image.
func checkName(name string) error {
	if name == HostName {
		return errdefs.New(errdefs.InvalidArgument, `"host" is the name of the built-in image of this host`,
			errdefs.Fix("choose another name"))
	}
	if !abi.ValidName(name) {
		return errdefs.New(errdefs.InvalidArgument, "not a valid image name", errdefs.Resource("%.80q", name),
			errdefs.Fix("use 1 to %d letters, digits, dots, dashes and underscores, starting with a letter or digit", abi.MaxNameLen))
	}
	return nil
}
