package daemon

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"lukechampine.com/blake3"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
)

// A checkpoint is a directory:
//
//	manifest.json    what it is of, and the name, size and checksum of each part
//	state-SUM.zst    the kernel of the domain
//	memory-SUM.zst   where the pages of its memory are
//	pages-SUM.pack   pages; those of earlier checkpoints, too, as long as they are used
//
// The manifest is replaced when everything that it names is on disk: whoever opens
// the directory, at any moment, finds a checkpoint whole or finds none.
const (
	manifestName   = "manifest.json"
	manifestFormat = 3
	// maxManifest bounds what is read of one.
	maxManifest = 64 << 20
)

// manifest says what a checkpoint is.
type manifest struct {
	Format      int           `json:"format"`
	Version     string        `json:"aios"`
	Kernel      string        `json:"kernel"` // of gVisor
	Domain      string        `json:"domain"`
	Made        time.Time     `json:"made"`
	Pause       time.Duration `json:"pause"`
	Platform    string        `json:"platform"`
	Features    []string      `json:"cpu_features"`
	MemoryBytes uint64        `json:"memory_bytes"`
	Isolated    bool          `json:"isolated,omitempty"`
	// Trail is how far the audit trail of the daemon called Instance was.
	Trail    uint64 `json:"trail,omitempty"`
	Instance string `json:"instance,omitempty"`
	// Every is how often the domain was saved.
	Every time.Duration `json:"every,omitempty"`
	// Host is how the host image is composed in it.
	Host   *control.Root          `json:"host,omitempty"`
	Mounts []control.MountRequest `json:"mounts"`
	// Regions are the persistent ones.
	Regions []string `json:"regions,omitempty"`
	// Parts are the kernel, the index of its memory, and packs of pages.
	Parts []manifestPart `json:"parts"`
	// Agents are the records of those that are in it.
	Agents []json.RawMessage `json:"agents"`

	agents []*apiv1.InspectResponse
}

type manifestPart struct {
	Name string `json:"name"`
	control.CheckpointPart
}

// kinds of parts, in their order: all further ones are of the last kind.
var partKinds = []struct{ prefix, suffix string }{{"state-", ".zst"}, {"memory-", ".zst"}, {"pages-", ".pack"}}

// kindOf returns which kind the part of that number is.
func kindOf(i int) int { return min(i, len(partKinds)-1) }

// newPart names a part by its checksum.
func newPart(kind int, p control.CheckpointPart) manifestPart {
	return manifestPart{partKinds[kind].prefix + p.Sum[:min(24, len(p.Sum))] + partKinds[kind].suffix, p}
}

// sealedManifest is the file.
type sealedManifest struct {
	Manifest json.RawMessage `json:"manifest"`
	// Sum is the BLAKE3 of that.
	Sum string `json:"sum"`
}

// kernelVersion is the version of gVisor that the program was built with.
var kernelVersion = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "gvisor.dev/gvisor" {
			return m.Version
		}
	}
	return ""
})

// complete adds what the kernel process says.
func (m *manifest) complete(d *System, reply control.CheckpointReply) error {
	m.Pause = reply.Pause
	m.Platform, m.Features, m.Mounts, m.Regions = reply.Platform, reply.Features, reply.Mounts, reply.Regions
	for _, id := range reply.Agents {
		r, err := d.find(id)
		if err != nil {
			return err // It was forgotten meanwhile, which only an ended one can be.
		}
		raw, err := d.encode(r)
		if err != nil {
			return err
		}
		var resp apiv1.InspectResponse
		if err := protojson.Unmarshal(raw, &resp); err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "describe the checkpoint")
		}
		m.Agents, m.agents = append(m.Agents, raw), append(m.agents, &resp)
	}
	return nil
}

func (m *manifest) bytes() (sum int64) {
	for _, p := range m.Parts {
		sum += p.Bytes
	}
	return sum
}

// write replaces the manifest in dir.
func (m *manifest) write(dir string) error {
	raw, err := json.Marshal(m)
	if err == nil {
		sum := blake3.Sum256(raw)
		raw, err = json.Marshal(sealedManifest{raw, hex.EncodeToString(sum[:])})
	}
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "describe the checkpoint")
	}
	path := filepath.Join(dir, manifestName)
	if err := safefile.Write(path, raw); err != nil {
		return safefile.Fail(err, "write the checkpoint", path)
	}
	return nil
}

// sweep removes what earlier checkpoints have left in dir.
func (m *manifest) sweep(dir string) {
	for _, kind := range partKinds {
		left, _ := filepath.Glob(filepath.Join(dir, kind.prefix+"*"))
		for _, path := range left {
			if !slices.ContainsFunc(m.Parts, func(p manifestPart) bool { return p.Name == filepath.Base(path) }) {
				os.Remove(path)
			}
		}
	}
}

// damaged is the error of a part that is not what was written.
func damaged(path, why string) error {
	return errdefs.New(errdefs.CheckpointDamaged, why, errdefs.Op("read checkpoint"), errdefs.Resource("%s", path))
}

// readManifest reads what is in dir.
func readManifest(dir string) (*manifest, error) {
	if err := trustedDir(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errdefs.New(errdefs.NotFound, "there is no checkpoint", errdefs.Op("read checkpoint"), errdefs.Resource("%s", dir),
				errdefs.Fix("name the directory that the domain was saved to"))
		}
		return nil, err
	}
	path := filepath.Join(dir, manifestName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged(path, "it is missing: no checkpoint was completed there, or a file is gone")
	}
	if err != nil {
		return nil, safefile.Fail(err, "read checkpoint", path)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return nil, safefile.Fail(err, "read checkpoint", path)
	}
	return parseManifest(path, raw)
}

// parseManifest reads what write has written, and nothing else.
func parseManifest(path string, raw []byte) (*manifest, error) {
	var file sealedManifest
	if json.Unmarshal(raw, &file) != nil {
		return nil, damaged(path, "it cannot be read")
	}
	if again, err := json.Marshal(file); err != nil || !bytes.Equal(again, raw) {
		return nil, damaged(path, "it is not as it was written")
	}
	if sum := blake3.Sum256(file.Manifest); hex.EncodeToString(sum[:]) != file.Sum {
		return nil, damaged(path, "its checksum is wrong")
	}
	var m manifest
	if json.Unmarshal(file.Manifest, &m) != nil {
		return nil, damaged(path, "it cannot be read")
	}
	if err := m.check(path); err != nil {
		return nil, err
	}
	for _, raw := range m.Agents {
		var resp apiv1.InspectResponse
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, &resp); err != nil || !abi.IsAgentID(resp.GetAgent().GetId()) {
			return nil, damaged(path, "what it says of an agent cannot be read")
		}
		m.agents = append(m.agents, &resp)
	}
	return &m, nil
}

// check refuses what this daemon cannot restore.
func (m *manifest) check(path string) error {
	other := func(what, made, here string) error {
		return errdefs.New(errdefs.CheckpointMismatch, "it was made by "+what+" "+made+", and this is "+here, errdefs.Op("restore"), errdefs.Resource("%s", path))
	}
	switch {
	case m.Format != manifestFormat || m.Version != abi.Version:
		return other("AIOS", m.Version, abi.Version)
	case m.Kernel != kernelVersion():
		return other("gVisor", m.Kernel, kernelVersion())
	case len(m.Parts) < 2 || len(m.Parts) > maxParts:
		return damaged(path, "it does not name the parts of a checkpoint")
	}
	for i, p := range m.Parts {
		if kind := partKinds[kindOf(i)]; !strings.HasPrefix(p.Name, kind.prefix) || !strings.HasSuffix(p.Name, kind.suffix) || strings.ContainsRune(p.Name, '/') {
			return damaged(path, "it does not name the parts of a checkpoint")
		}
	}
	return nil
}

// maxParts is more than a checkpoint has.
const maxParts = 64

// sumBuffer is how much of a part is summed up at a time.
const sumBuffer = 256 << 10

// open opens a part of the checkpoint in dir, after it was compared with what the
// manifest says.
func (part manifestPart) open(dir string) (*os.File, error) {
	path := filepath.Join(dir, part.Name)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged(path, "it is missing")
	}
	if err != nil {
		return nil, safefile.Fail(err, "read checkpoint", path)
	}
	sum := blake3.New(32, nil)
	// Few large pieces: a file would choose smaller ones.
	n, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, make([]byte, min(max(part.Bytes, 1), sumBuffer)))
	switch {
	case err != nil:
		err = safefile.Fail(err, "read checkpoint", path)
	case n != part.Bytes:
		err = errdefs.Newf(errdefs.CheckpointDamaged, "it has %d bytes, and had %d", n, part.Bytes).With(errdefs.Op("read checkpoint"), errdefs.Resource("%s", path))
	case hex.EncodeToString(sum.Sum(nil)) != part.Sum:
		err = damaged(path, "its checksum is wrong")
	default:
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// proto is what clients see.
func (m *manifest) proto(dir string) *apiv1.Checkpoint {
	c := &apiv1.Checkpoint{
		Dir: dir, Domain: m.Domain, MadeUnixNano: m.Made.UnixNano(), Version: m.Version, Platform: m.Platform, PauseNanos: int64(m.Pause),
	}
	for _, p := range m.Parts {
		c.Parts = append(c.Parts, &apiv1.CheckpointPart{Name: p.Name, Bytes: p.Bytes, RawBytes: p.Raw, Sum: p.Sum})
	}
	for _, a := range m.agents {
		c.Agents = append(c.Agents, a.GetAgent())
	}
	return c
}

// ownerOf returns the user that a file belongs to.
func ownerOf(st fs.FileInfo) (uid int, ok bool) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(sys.Uid), true
}
