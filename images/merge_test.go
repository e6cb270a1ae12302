package images

import (
	"archive/tar"
	"context"
	"fmt"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
)

const (
	dirDef  = "40755 0:0"
	fileDef = "100644 0:0 "
)

func q(s string) string { return fmt.Sprintf("%s%q", fileDef, s) }

func TestLayersMerge(t *testing.T) {
	link := func(name, target string) entry { return entry{name: name, typ: tar.TypeSymlink, link: target} }
	hard := func(name, target string) entry { return entry{name: name, typ: tar.TypeLink, link: target} }
	sym := func(target string) string { return "120777 0:0 -> " + target }
	for name, tc := range map[string]struct {
		layers [][]entry
		want   map[string]string
	}{
		"upper layer wins": {
			[][]entry{{{name: "d/"}, {name: "d/f", body: "old"}, {name: "d/g", body: "g"}}, {{name: "d/f", body: "new"}}},
			map[string]string{"d": dirDef, "d/f": q("new"), "d/g": q("g")},
		},
		"whiteout of a file": {
			[][]entry{{{name: "a", body: "a"}, {name: "b", body: "b"}}, {{name: ".wh.a"}}},
			map[string]string{"b": q("b")},
		},
		"whiteout of a directory": {
			[][]entry{{{name: "d/"}, {name: "d/e/"}, {name: "d/e/f", body: "f"}}, {{name: ".wh.d"}}},
			map[string]string{},
		},
		"whiteout does not touch its own layer, before or after": {
			[][]entry{{{name: "x", body: "low"}, {name: "y", body: "low"}}, {{name: "x", body: "up"}, {name: ".wh.x"}, {name: ".wh.y"}, {name: "y", body: "up"}}},
			map[string]string{"x": q("up"), "y": q("up")},
		},
		"opaque directory hides what is below, not what is beside": {
			[][]entry{{{name: "d/"}, {name: "d/.low", body: "1"}, {name: "d/low", body: "1"}},
				{{name: "d/"}, {name: "d/.first", body: "2"}, {name: "d/.wh..wh..opq"}, {name: "d/last", body: "2"}}},
			map[string]string{"d": dirDef, "d/.first": q("2"), "d/last": q("2")},
		},
		"opaque root": {
			[][]entry{{{name: "a", body: "a"}}, {{name: ".wh..wh..opq"}, {name: "b", body: "b"}}},
			map[string]string{"b": q("b")},
		},
		"whiteout and a new directory of the name": {
			[][]entry{{{name: "d/"}, {name: "d/old", body: "o"}}, {{name: ".wh.d"}, {name: "d/"}, {name: "d/new", body: "n"}}},
			map[string]string{"d": dirDef, "d/new": q("n")},
		},
		"whiteout of what is not there": {
			[][]entry{{{name: ".wh.nothing"}, {name: "no/where/.wh.x"}, {name: "f", body: "f"}, {name: "f/.wh.x"}}},
			map[string]string{"f": q("f")},
		},
		"whiteouts are not followed through links": {
			[][]entry{{{name: "real/"}, {name: "real/f", body: "f"}, link("d", "real")}, {{name: "d/.wh.f"}}},
			map[string]string{"real": dirDef, "real/f": q("f"), "d": sym("real")},
		},
		"bookkeeping of AUFS is dropped": {
			[][]entry{{{name: ".wh..wh.aufs"}, {name: ".wh..wh.plnk/"}, {name: "f", body: "f"}}},
			map[string]string{"f": q("f")},
		},
		"file replaces directory, directory replaces file": {
			[][]entry{{{name: "a/"}, {name: "a/x", body: "x"}, {name: "b", body: "b"}}, {{name: "a", body: "a"}, {name: "b/"}, {name: "b/y", body: "y"}}},
			map[string]string{"a": q("a"), "b": dirDef, "b/y": q("y")},
		},
		"directory replaces link": {
			[][]entry{{{name: "usr/"}, {name: "usr/lib/"}, {name: "usr/lib/x", body: "x"}, link("lib", "usr/lib")}, {{name: "lib/"}, {name: "lib/y", body: "y"}}},
			map[string]string{"usr": dirDef, "usr/lib": dirDef, "usr/lib/x": q("x"), "lib": dirDef, "lib/y": q("y")},
		},
		"metadata of a directory changes, its entries stay": {
			[][]entry{{{name: "d/"}, {name: "d/f", body: "f"}}, {{name: "d/", mode: 0o1700, uid: 7}}},
			map[string]string{"d": "41700 7:7", "d/f": q("f")},
		},
		"names behind links are resolved in the image": {
			[][]entry{{{name: "usr/lib/"}, link("lib", "usr/lib"), link("abs", "/usr/lib"), link("up", "../../../../usr/lib")},
				{{name: "lib/a", body: "a"}, {name: "abs/b", body: "b"}, {name: "up/c", body: "c"}}},
			map[string]string{"usr": dirDef, "usr/lib": dirDef, "lib": sym("usr/lib"), "abs": sym("/usr/lib"), "up": sym("../../../../usr/lib"),
				"usr/lib/a": q("a"), "usr/lib/b": q("b"), "usr/lib/c": q("c")},
		},
		"missing directories behind a link are made where it leads": {
			[][]entry{{link("d", "/var/lib/d")}, {{name: "d/f", body: "f"}}},
			map[string]string{"d": sym("/var/lib/d"), "var": dirDef, "var/lib": dirDef, "var/lib/d": dirDef, "var/lib/d/f": q("f")},
		},
		"escapes stay inside": {
			[][]entry{{{name: "/abs", body: "1"}, {name: "../../up", body: "2"}, {name: "a/../../../b", body: "3"}, {name: "./c//d", body: "4"}, link("out", "../../../../../tmp"), {name: "out/f", body: "5"}}},
			map[string]string{"abs": q("1"), "up": q("2"), "b": q("3"), "c": dirDef, "c/d": q("4"), "out": sym("../../../../../tmp"), "tmp": dirDef, "tmp/f": q("5")},
		},
		"the root itself": {
			[][]entry{{{name: "./", mode: 0o700, uid: 3}, {name: "f", body: "f"}}},
			map[string]string{".": "40700 3:3", "f": q("f")},
		},
		"hard links": {
			[][]entry{{{name: "a", body: "same"}, hard("b", "a"), hard("c", "/b")}, {hard("d/e", "./a"), {name: ".wh.a"}, {name: "z", body: "z"}, hard("c", "z")}},
			nil, // "a" is gone before "d/e" can name it: refused, see below
		},
		"hard link to a lower layer": {
			[][]entry{{{name: "a", body: "same"}}, {hard("b", "a")}},
			map[string]string{"a": q("same"), "b": "=a"},
		},
		"hard link survives the removal of its first name": {
			[][]entry{{{name: "a", body: "same"}, hard("b", "a"), hard("c", "b")}, {{name: ".wh.a"}}},
			map[string]string{"b": q("same"), "c": "=b"},
		},
		"replacing one name of two leaves the other": {
			[][]entry{{{name: "a", body: "same"}, hard("b", "a")}, {{name: "a", body: "new"}}},
			map[string]string{"a": q("new"), "b": q("same")},
		},
		"hard link through a link, and to a link": {
			[][]entry{{{name: "usr/f", body: "f"}, link("u", "usr"), hard("h", "u/f"), link("l", "nowhere"), hard("m", "l")}},
			map[string]string{"usr": dirDef, "usr/f": "=h", "u": sym("usr"), "h": q("f"), "l": sym("nowhere"), "m": sym("nowhere")},
		},
		"hard link to itself": {
			[][]entry{{{name: "a", body: "a"}}, {hard("a", "a")}},
			map[string]string{"a": q("a")},
		},
		"nodes and modes": {
			[][]entry{{
				{name: "null", typ: tar.TypeChar, major: 1, minor: 3, mode: 0o666}, {name: "disk", typ: tar.TypeBlock, major: 8, minor: 300, mode: 0o660},
				{name: "pipe", typ: tar.TypeFifo, mode: 0o600}, {name: "su", body: "x", mode: 0o4755}, {name: "sg", body: "x", mode: 0o2755, uid: 1 << 20}, {name: "t/", mode: 0o1777},
				{name: "nomode", body: "x", mode: 0o100000},
			}},
			map[string]string{"null": "20666 0:0 dev 0x103", "disk": "60660 0:0 dev 0x10082c", "pipe": "10600 0:0",
				"su": `104755 0:0 "x"`, "sg": `102755 1048576:1048576 "x"`, "t": "41777 0:0", "nomode": `100000 0:0 "x"`},
		},
		"long names": {
			[][]entry{{{name: strings.Repeat("d", 200) + "/" + strings.Repeat("f", 255), body: "f"}}},
			map[string]string{strings.Repeat("d", 200): dirDef, strings.Repeat("d", 200) + "/" + strings.Repeat("f", 255): q("f")},
		},
		"the same name twice in a layer": {
			[][]entry{{{name: "f", body: "1"}, {name: "f", body: "22"}}},
			map[string]string{"f": q("22")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			img := testImage{}
			for _, l := range tc.layers {
				img.layers = append(img.layers, layerOf(t, l...))
			}
			path := layout(img).dir(t)
			if tc.want == nil {
				_, err := s.Import(context.Background(), "x", path, ImportOptions{})
				wantError(t, err, errdefs.ImageInvalid, "hard link")
				return
			}
			mustImport(t, s, "x", path, ImportOptions{})
			wantContents(t, contents(t, s, "x"), tc.want)
			fsck(t, s, "x")
		})
	}
}

func TestLayersRefused(t *testing.T) {
	loop := []entry{{name: "a", typ: tar.TypeSymlink, link: "b"}, {name: "b", typ: tar.TypeSymlink, link: "a"}, {name: "a/f", body: "f"}}
	for name, tc := range map[string]struct {
		layer []entry
		want  string
	}{
		"links in a circle":           {loop, "too many symbolic links"},
		"file as a directory":         {[]entry{{name: "f", body: "f"}, {name: "f/g", body: "g"}}, "not a directory"},
		"hard link to nothing":        {[]entry{{name: "a", typ: tar.TypeLink, link: "../../etc/passwd"}}, "no file of the image"},
		"hard link to a directory":    {[]entry{{name: "d/"}, {name: "a", typ: tar.TypeLink, link: "d"}}, "no file of the image"},
		"root as a file":              {[]entry{{name: "..", typ: tar.TypeSymlink, link: "x"}}, "root must be a directory"},
		"whiteout of nothing":         {[]entry{{name: ".wh."}}, "hides no name"},
		"whiteout of dots":            {[]entry{{name: "d/.wh..."}}, "hides no name"},
		"long name":                   {[]entry{{name: strings.Repeat("n", 256), body: "x"}}, "at most 255"},
		"long directory":              {[]entry{{name: strings.Repeat("n", 256) + "/x", body: "x"}}, "at most 255"},
		"long path":                   {[]entry{{name: strings.Repeat("d/", 2100) + "x", body: "x"}}, "path-length"},
		"deep path":                   {[]entry{{name: strings.Repeat("d/", 1500) + "x", body: "x"}}, "depth"},
		"long target of a link":       {[]entry{{name: "l", typ: tar.TypeSymlink, link: strings.Repeat("t", 5000)}}, "cannot lead to"},
		"unknown type":                {[]entry{{name: "v", typ: 'V'}}, "not known"},
		"owner out of range":          {[]entry{{name: "f", uid: 1 << 32}}, "out of range"},
		"more bytes than the limit":   {[]entry{{name: "f", body: strings.Repeat("x", 2000)}}, "file-size = 1000"},
		"more in all than the limit":  {[]entry{{name: "a", body: strings.Repeat("x", 900)}, {name: "b", body: strings.Repeat("x", 900)}}, "total-size"},
		"more entries than the limit": {[]entry{{name: "1"}, {name: "2"}, {name: "3"}, {name: "4"}, {name: "5"}, {name: "6"}}, "entries = 5"},
		"implied entries count":       {[]entry{{name: "a/b/c/d/e/f/g"}}, "entries = 5"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			limits := Limits{}
			switch {
			case strings.Contains(tc.want, "file-size"):
				limits.FileSize = 1000
			case strings.Contains(tc.want, "total-size"):
				limits.TotalSize = 8000 // of the tar, too
				tc.layer = append(tc.layer, entry{name: "c", body: strings.Repeat("x", 7000)})
			case strings.Contains(tc.want, "entries"):
				limits.Entries = 5
			}
			l := layerOf(t, tc.layer...)
			_, err := s.Import(context.Background(), "x", layout(testImage{layers: [][]byte{l}}).dir(t), ImportOptions{Limits: limits})
			wantError(t, err, errdefs.ImageInvalid, tc.want)
			if n := len(leftovers(t, s, tmpDir)) + len(leftovers(t, s, blobsDir)) + len(leftovers(t, s, namesDir)); n != 0 {
				t.Errorf("%d files left behind", n)
			}
		})
	}
}

func TestExtendedAttributesAreReported(t *testing.T) {
	s := newStore(t)
	l := layerOf(t, entry{name: "ping", body: "x", pax: map[string]string{xattrPrefix + "security.capability": "\x01"}},
		entry{name: "plain", body: "x", pax: map[string]string{xattrPrefix + "security.selinux": "label"}})
	img := mustImport(t, s, "x", layout(testImage{layers: [][]byte{l}}).dir(t), ImportOptions{})
	if len(img.Warnings) != 1 || !strings.HasPrefix(img.Warnings[0], "1 files have extended attributes") {
		t.Errorf("warnings %q", img.Warnings)
	}
}
