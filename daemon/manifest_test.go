package daemon

import (
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lukechampine.com/blake3"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// aManifest writes a manifest and its parts.
func aManifest(t testing.TB) (dir string, m *manifest) {
	t.Helper()
	dir = t.TempDir()
	m = &manifest{
		Format: manifestFormat, Version: abi.Version, Kernel: kernelVersion(), Domain: "default", Made: time.Unix(1e9, 0).UTC(), Platform: "systrap",
		Features: []string{"sse2"}, Agents: []json.RawMessage{json.RawMessage(`{"agent":{"id":"a0123456789ab","name":"one","state":"running"}}`)},
	}
	for i, text := range []string{"the kernel", "the index", "a pack", "another pack"} {
		sum := blake(text)
		m.Parts = append(m.Parts, newPart(kindOf(i), control.CheckpointPart{Bytes: int64(len(text)), Raw: 99, Sum: sum}))
		if err := os.WriteFile(filepath.Join(dir, m.Parts[i].Name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.write(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

// Whatever byte of a checkpoint is another one, it is refused by the name of the file.
func TestEveryByteOfACheckpoint(t *testing.T) {
	dir, m := aManifest(t)
	whole := func() error {
		got, err := readManifest(dir)
		if err != nil {
			return err
		}
		for _, p := range got.Parts {
			f, err := p.open(dir)
			if err != nil {
				return err
			}
			f.Close()
		}
		return nil
	}
	if err := whole(); err != nil {
		t.Fatal(err)
	}
	names := []string{manifestName}
	for _, p := range m.Parts {
		names = append(names, p.Name)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range raw {
			bad := append([]byte(nil), raw...)
			bad[i] ^= byte(1 + rand.IntN(255))
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := whole(); errdefs.CodeOf(err) != errdefs.CheckpointDamaged || !strings.Contains(err.Error(), name) {
				t.Fatalf("%s: byte %d is %#x instead of %#x: %v", name, i, bad[i], raw[i], err)
			}
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := whole(); err != nil {
		t.Fatal(err)
	}
}

// A part that would be somewhere else, or is of no kind that there is, is none.
func TestPartsAreNamed(t *testing.T) {
	for _, name := range []string{"state-../../etc/passwd.zst", "pages-1.zst", "/etc/passwd", "", "manifest.json"} {
		dir, m := aManifest(t)
		m.Parts[0].Name = name
		if err := m.write(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := readManifest(dir); errdefs.CodeOf(err) != errdefs.CheckpointDamaged {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// Whatever a manifest says, it is refused with a reason, or it is one that was written.
func FuzzManifest(f *testing.F) {
	dir, _ := aManifest(f)
	raw, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	var file sealedManifest
	if err := json.Unmarshal(raw, &file); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(file.Manifest))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseManifest("m", b)
		// The same with a checksum that is right.
		var any json.RawMessage
		if json.Unmarshal(b, &any) != nil {
			return
		}
		compact, err := json.Marshal(any)
		if err != nil {
			return
		}
		sealed, err := json.Marshal(sealedManifest{compact, blake(string(compact))})
		if err != nil {
			t.Fatal(err)
		}
		m, err := parseManifest("m", sealed)
		if err != nil {
			if c := errdefs.CodeOf(err); c != errdefs.CheckpointDamaged && c != errdefs.CheckpointMismatch {
				t.Errorf("%v", err)
			}
			return
		}
		for i, p := range m.Parts {
			if !strings.HasPrefix(p.Name, partKinds[kindOf(i)].prefix) || strings.Contains(p.Name, "/") {
				t.Errorf("a part is called %q", p.Name)
			}
		}
	})
}

func blake(text string) string {
	sum := blake3.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
