package images

import (
	"archive/tar"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model is a root file system as a map from path to what is there. It knows
// directories, files (by identity, for hard links) and symbolic links, and is
// as naive as it can be.
type model map[string]*thing

type thing struct {
	dir  bool
	body string
	link string
}

func (m model) drop(p string) {
	for name := range m {
		if name == p || strings.HasPrefix(name, p+"/") {
			delete(m, name)
		}
	}
}

// apply is one layer: whiteouts first, then entries in order. Entries here
// never lie behind symbolic links.
func (m model) apply(layer []entry) {
	for _, e := range layer {
		dir, base := path.Split(strings.TrimSuffix(e.name, "/"))
		if base == opaqueMarker {
			for name := range m {
				if strings.HasPrefix(name, dir) {
					delete(m, name)
				}
			}
		} else if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
			m.drop(dir + hidden)
		}
	}
	for _, e := range layer {
		name := strings.TrimSuffix(e.name, "/")
		if strings.HasPrefix(path.Base(name), whiteoutPrefix) {
			continue
		}
		for d := path.Dir(name); d != "."; d = path.Dir(d) {
			if m[d] == nil {
				m[d] = &thing{dir: true}
			}
		}
		isDir := strings.HasSuffix(e.name, "/")
		if isDir && m[name] != nil && m[name].dir {
			continue
		}
		target := m[e.link]
		m.drop(name)
		switch {
		case isDir:
			m[name] = &thing{dir: true}
		case e.typ == tar.TypeLink:
			m[name] = target
		case e.typ == tar.TypeSymlink:
			m[name] = &thing{link: e.link}
		default:
			m[name] = &thing{body: e.body}
		}
	}
}

// contents renders the model as contentsOf does an image.
func (m model) contents() map[string]string {
	out := map[string]string{}
	var names []string
	for name := range m {
		names = append(names, name)
	}
	// WalkDir goes depth first, by name.
	sort.Slice(names, func(i, j int) bool {
		return strings.ReplaceAll(names[i], "/", "\x00") < strings.ReplaceAll(names[j], "/", "\x00")
	})
	first := map[*thing]string{}
	for _, name := range names {
		switch t := m[name]; {
		case t.dir:
			out[name] = dirDef
		case t.link != "":
			out[name] = "120777 0:0 -> " + t.link
		case first[t] != "":
			out[name] = "=" + first[t]
		default:
			first[t] = name
			out[name] = q(t.body)
		}
	}
	return out
}

// fitting reports whether an entry can be laid over the model: nothing on its
// way is a file or a link, and a hard link names a file that is there.
func (m model) fitting(e entry) bool {
	name := strings.TrimSuffix(e.name, "/")
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		if t := m[d]; t != nil && !t.dir {
			return false
		}
	}
	if e.typ == tar.TypeLink {
		t := m[e.link]
		return t != nil && !t.dir && !strings.HasPrefix(e.link, name+"/")
	}
	return true
}

func TestLayersMergeLikeTheModel(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		pathOf := rapid.Custom(func(rt *rapid.T) string {
			parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "longer-name", ".d"}), 1, 4).Draw(rt, "parts")
			return strings.Join(parts, "/")
		})
		m := model{}
		img := testImage{pack: rapid.SampledFrom([]func([]byte) []byte{gz, zst, func(b []byte) []byte { return b }}).Draw(rt, "pack")}
		for n := range rapid.IntRange(1, 4).Draw(rt, "layers") {
			var layer []entry
			// Whiteouts stand anywhere in a layer; the model below must know
			// them before it can tell which entries fit.
			var outs []entry
			for range rapid.IntRange(0, 3).Draw(rt, "whiteouts") {
				p := pathOf.Draw(rt, "hidden")
				if rapid.Bool().Draw(rt, "opaque") {
					outs = append(outs, entry{name: p + "/" + opaqueMarker})
				} else {
					outs = append(outs, entry{name: path.Join(path.Dir(p), whiteoutPrefix+path.Base(p))})
				}
			}
			m.apply(outs)
			for i := range rapid.IntRange(0, 12).Draw(rt, "entries") {
				e := entry{name: pathOf.Draw(rt, "name")}
				switch rapid.IntRange(0, 3).Draw(rt, "kind") {
				case 0:
					e.name += "/"
				case 1:
					e.body = fmt.Sprintf("%d.%d", n, i)
				case 2:
					e.typ, e.link = tar.TypeSymlink, pathOf.Draw(rt, "target")
				case 3:
					e.typ, e.link = tar.TypeLink, pathOf.Draw(rt, "target")
				}
				if m.fitting(e) {
					m.apply([]entry{e})
					layer = append(layer, e)
				}
			}
			for _, o := range outs {
				at := rapid.IntRange(0, len(layer)).Draw(rt, "at")
				layer = append(layer[:at], append([]entry{o}, layer[at:]...)...)
			}
			img.layers = append(img.layers, layerOf(t, layer...))
		}
		s := newStoreIn(t, base)
		defer s.Close()
		mustImport(t, s, "x", fileOfIn(t, base, layout(img).tar(t)), ImportOptions{Replace: true})
		got, want := contents(t, s, "x"), m.contents()
		for p, w := range want {
			if got[p] != w {
				rt.Fatalf("%s: %q, want %q", p, got[p], w)
			}
		}
		if len(got) != len(want)+1 {
			rt.Fatalf("%d names, want %d and the root", len(got), len(want))
		}
	})
}

func TestDirectoryRoundTrip(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(base, "tree")
		must(t, err)
		defer os.RemoveAll(dir)
		want := map[string]string{}
		me := fmt.Sprintf(" %d:%d", os.Getuid(), os.Getgid())
		dirs := []string{""}
		for i := range rapid.IntRange(0, 30).Draw(rt, "names") {
			p := path.Join(rapid.SampledFrom(dirs).Draw(rt, "in"), fmt.Sprintf("n%d", i))
			switch rapid.IntRange(0, 2).Draw(rt, "kind") {
			case 0:
				must(t, os.Mkdir(filepath.Join(dir, p), 0o755))
				dirs = append(dirs, p)
				want[p] = "40755" + me
			case 1:
				body := strings.Repeat("b", rapid.IntRange(0, 10000).Draw(rt, "size"))
				must(t, os.WriteFile(filepath.Join(dir, p), []byte(body), 0o644))
				want[p] = fmt.Sprintf("100644%s %q", me, body)
			case 2:
				must(t, os.Symlink(fmt.Sprintf("../t%d", i), filepath.Join(dir, p)))
				want[p] = fmt.Sprintf("120777%s -> ../t%d", me, i)
			}
		}
		s := newStoreIn(t, base)
		defer s.Close()
		mustImport(t, s, "x", dir, ImportOptions{Replace: true})
		wantContents(t, contents(t, s, "x"), want)
	})
}
