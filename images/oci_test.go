package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
)

func TestEveryKindOfSourceAndCompression(t *testing.T) {
	l1 := layerOf(t, entry{name: "etc/"}, entry{name: "etc/release", body: "1"}, entry{name: "gone", body: "x"})
	l2 := layerOf(t, entry{name: ".wh.gone"}, entry{name: "etc/release", body: "2"})
	want := map[string]string{"etc": dirDef, "etc/release": q("2")}
	plain := func(b []byte) []byte { return b }
	for packing, pack := range map[string]func([]byte) []byte{"gzip": gz, "zstd": zst, "plain": plain} {
		p := layout(testImage{layers: [][]byte{l1, l2}, pack: pack, config: map[string]any{
			"Env": []string{"PATH=/bin"}, "Entrypoint": []string{"/init"}, "Cmd": []string{"-v"}, "WorkingDir": "/srv", "User": "web:web", "StopSignal": "SIGINT", "Labels": map[string]string{"a": "b"}}})
		docker := dockerArchive(t, l1, l2)
		for name, tc := range map[string]struct {
			path string
			kind Kind
		}{
			"layout":         {p.dir(t), KindOCILayout},
			"archive":        {fileOf(t, p.tar(t)), KindOCIArchive},
			"packed archive": {fileOf(t, pack(p.tar(t))), KindOCIArchive},
			"docker save":    {fileOf(t, pack(docker)), KindDockerArchive},
		} {
			t.Run(packing+" "+name, func(t *testing.T) {
				s := newStore(t)
				var phases []Phase
				img := mustImport(t, s, "x", tc.path, ImportOptions{Progress: func(p Phase, done, total int64) {
					if done < 0 || done > total {
						t.Errorf("%s: %d of %d", p, done, total)
					}
					if len(phases) == 0 || phases[len(phases)-1] != p {
						phases = append(phases, p)
					}
				}})
				wantContents(t, contents(t, s, "x"), want)
				if img.Kind != tc.kind || !reflect.DeepEqual(phases, []Phase{PhaseUnpack, PhaseWrite}) {
					t.Errorf("kind %s, phases %v", img.Kind, phases)
				}
				wantConfig := Config{Architecture: runtime.GOARCH, Env: []string{"PATH=/bin"}, Entrypoint: []string{"/init"}, Cmd: []string{"-v"},
					WorkingDir: "/srv", User: "web:web", StopSignal: "SIGINT", Labels: map[string]string{"a": "b"}}
				if tc.kind == KindDockerArchive {
					wantConfig = Config{Architecture: runtime.GOARCH, Env: []string{"A=b"}}
				}
				if !reflect.DeepEqual(img.Config, wantConfig) {
					t.Errorf("config %+v", img.Config)
				}
				if got := leftovers(t, s, tmpDir); len(got) != 0 {
					t.Errorf("left %v", got)
				}
			})
		}
	}
}

func TestLayersThatAreLinks(t *testing.T) {
	l := layerOf(t, entry{name: "f", body: "f"})
	config := fmt.Sprintf(`{"os":"linux","rootfs":{"type":"layers","diff_ids":["%s","%[1]s"]}}`, digest(l))
	s := newStore(t)
	mustImport(t, s, "x", fileOf(t, layerOf(t, entry{name: "one/layer.tar", body: string(l)}, entry{name: "two/layer.tar", typ: tar.TypeSymlink, link: "../one/layer.tar"},
		entry{name: "c.json", body: config}, entry{name: "manifest.json", body: `[{"Config":"c.json","Layers":["one/layer.tar","two/layer.tar"]}]`})), ImportOptions{})
	wantContents(t, contents(t, s, "x"), map[string]string{"f": q("f")})
}

func TestSparseFiles(t *testing.T) {
	// A PAX 1.0 sparse file: 4 KiB of zeros, then "data", as GNU tar stores it.
	body := "1\n4096\n4\n" + strings.Repeat("\x00", 512-9) + "data"
	l := layerOf(t, entry{name: "GNUSparseFile.0/sparse", body: body})
	l = rewritePAX(t, l, map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse", "GNU.sparse.realsize": "4100"})
	s := newStore(t)
	mustImport(t, s, "x", layout(testImage{layers: [][]byte{l}}).dir(t), ImportOptions{})
	wantContents(t, contents(t, s, "x"), map[string]string{"sparse": q(strings.Repeat("\x00", 4096) + "data")})
}

// rewritePAX puts records, which archive/tar refuses to write, before the only
// entry of a tar.
func rewritePAX(t testing.TB, l []byte, records map[string]string) []byte {
	t.Helper()
	var body strings.Builder
	for k, v := range records {
		n := len(k) + len(v) + 3
		for len(fmt.Sprint(n))+len(k)+len(v)+3 != n {
			n = len(fmt.Sprint(n)) + len(k) + len(v) + 3
		}
		fmt.Fprintf(&body, "%d %s=%s\n", n, k, v)
	}
	pax := layerOf(t, entry{name: "pax", body: body.String()})[:512+(body.Len()+511)/512*512]
	pax[156] = 'x'
	sum := 0
	for i, c := range pax[:512] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	copy(pax[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(pax, l...)
}

func TestChoosingAmongImages(t *testing.T) {
	img := func(body, arch, ref string) testImage {
		return testImage{layers: [][]byte{layerOf(t, entry{name: "f", body: body})}, arch: arch, ref: ref}
	}
	s := newStore(t)
	other := "s390x"
	both := layout(img("foreign", other, ""), img("mine", runtime.GOARCH, "")).dir(t)
	mustImport(t, s, "mine", both, ImportOptions{})
	wantContents(t, contents(t, s, "mine"), map[string]string{"f": q("mine")})
	mustImport(t, s, "foreign", both, ImportOptions{Architecture: other})
	wantContents(t, contents(t, s, "foreign"), map[string]string{"f": q("foreign")})

	foreign := layout(img("1", other, ""), img("2", "riscv64", "")).dir(t)
	_, err := s.Import(context.Background(), "x", foreign, ImportOptions{})
	wantError(t, err, errdefs.ImageInvalid, "no image for linux/"+runtime.GOARCH+"; there are: linux/s390x, linux/riscv64")

	unsaid := img("1", other, "")
	unsaid.omitRef = true
	_, err = s.Import(context.Background(), "x", layout(unsaid).dir(t), ImportOptions{})
	wantError(t, err, errdefs.ImageInvalid, "there are: linux/s390x")

	tags := layout(img("one", "", "app:1"), img("two", "", "app:2")).dir(t)
	_, err = s.Import(context.Background(), "x", tags, ImportOptions{})
	wantError(t, err, errdefs.ImageInvalid, "several images: app:1, app:2")
	_, err = s.Import(context.Background(), "x", tags, ImportOptions{Ref: "3"})
	wantError(t, err, errdefs.ImageInvalid, "app:1, app:2")
	mustImport(t, s, "two", tags, ImportOptions{Ref: "2"})
	wantContents(t, contents(t, s, "two"), map[string]string{"f": q("two")})

	// An index within the index, beside an attestation.
	p := layout(img("nested", "", ""))
	var inner map[string]any
	must(t, json.Unmarshal(p[indexFile], &inner))
	inner["manifests"] = append(inner["manifests"].([]any), map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1,
		"digest": digest([]byte("absent")), "platform": map[string]any{"os": "unknown", "architecture": "unknown"}})
	d := p.json(inner)
	d["mediaType"] = "application/vnd.oci.image.index.v1+json"
	p[indexFile], _ = json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{d}})
	mustImport(t, s, "nested", p.dir(t), ImportOptions{})
	wantContents(t, contents(t, s, "nested"), map[string]string{"f": q("nested")})
}

func TestBrokenImagesAreRefused(t *testing.T) {
	l := layerOf(t, entry{name: "f", body: strings.Repeat("body", 3000)})
	blobOf := func(p parts, has string) string {
		for name, b := range p {
			if strings.HasPrefix(name, "blobs/") && strings.Contains(string(b), has) {
				return name
			}
		}
		t.Fatalf("no blob with %q", has)
		return ""
	}
	layerName := "blobs/sha256/" + digest(gz(l))[7:]
	for name, tc := range map[string]struct {
		spoil func(p parts)
		want  string
	}{
		"layer changed":        {func(p parts) { p[layerName][len(p[layerName])/2] ^= 1 }, "layer 1"},
		"layer cut":            {func(p parts) { p[layerName] = p[layerName][:len(p[layerName])-9] }, "the manifest says"},
		"layer missing":        {func(p parts) { delete(p, layerName) }, "is missing"},
		"manifest changed":     {func(p parts) { n := blobOf(p, "manifest.v1"); p[n] = append(p[n], ' ') }, "has the digest"},
		"manifest missing":     {func(p parts) { delete(p, blobOf(p, "manifest.v1")) }, "is missing"},
		"config changed":       {func(p parts) { n := blobOf(p, "diff_ids"); p[n] = append(p[n], ' ') }, "has the digest"},
		"index is no JSON":     {func(p parts) { p[indexFile] = []byte("{") }, "index.json is damaged"},
		"index is empty":       {func(p parts) { p[indexFile] = []byte(`{"schemaVersion":2}`) }, "lists no image"},
		"index is too long":    {func(p parts) { p[indexFile] = make([]byte, maxJSON+1) }, "json-size"},
		"layout of the future": {func(p parts) { p[layoutFile] = []byte(`{"imageLayoutVersion":"2.0"}`) }, "version"},
		"digest as a path": {func(p parts) {
			p[indexFile] = []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"sha256:../../../../etc/passwd"}]}`)
		}, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, as := range []string{"layout", "archive"} {
				p := layout(testImage{layers: [][]byte{l}})
				tc.spoil(p)
				path := ""
				if as == "layout" {
					path = p.dir(t)
				} else {
					path = fileOf(t, p.tar(t))
				}
				s := newStore(t)
				_, err := s.Import(context.Background(), "x", path, ImportOptions{})
				wantError(t, err, errdefs.ImageInvalid, tc.want)
				if got := append(leftovers(t, s, tmpDir), leftovers(t, s, blobsDir)...); len(got) != 0 {
					t.Errorf("left %v", got)
				}
			}
		})
	}
}

func TestDigestOfThePlainLayerIsVerified(t *testing.T) {
	l := layerOf(t, entry{name: "f", body: "f"})
	p := dockerArchive(t, l)
	p = []byte(strings.Replace(string(p), digest(l)[:20], "sha256:0123456789012", 1))
	s := newStore(t)
	_, err := s.Import(context.Background(), "x", fileOf(t, p), ImportOptions{})
	wantError(t, err, errdefs.ImageInvalid, "uncompressed digest "+digest(l))
}

func TestSourcesOfNoKnownKind(t *testing.T) {
	s := newStore(t)
	for name, tc := range map[string]struct{ body, want string }{
		"text":            {"hello", "not a tar archive"},
		"empty":           {"", "looked for oci-layout and index.json"},
		"root tar":        {string(layerOf(t, entry{name: "etc/"}, entry{name: "usr/"})), "looked for oci-layout and index.json"},
		"broken gzip":     {"\x1f\x8bnonsense", "compressed stream is damaged"},
		"broken zstd":     {"\x28\xb5\x2f\xfdnonsense", "compressed stream is damaged"},
		"cut tar":         {string(layerOf(t, entry{name: "a", body: "aaaa"}, entry{name: "b", body: strings.Repeat("b", 4000)})[:3000]), "tar ends inside"},
		"layout no index": {string(layerOf(t, entry{name: "oci-layout", body: "{}"})), "looked for oci-layout and index.json"},
	} {
		_, err := s.Import(context.Background(), "x", fileOf(t, []byte(tc.body)), ImportOptions{})
		if wantError(t, err, errdefs.ImageInvalid, tc.want); name == "root tar" && !strings.Contains(errdefs.FixOf(err), "import the directory") {
			t.Errorf("fix %q", errdefs.FixOf(err))
		}
	}
	_, err := s.Import(context.Background(), "x", t.TempDir(), ImportOptions{Kind: KindOCIArchive})
	wantError(t, err, errdefs.ImageInvalid, "is a directory")
	_, err = s.Import(context.Background(), "x", fileOf(t, nil), ImportOptions{Kind: KindDir})
	wantError(t, err, errdefs.ImageInvalid, "is a file")
	_, err = s.Import(context.Background(), "x", t.TempDir(), ImportOptions{Kind: KindOCILayout})
	wantError(t, err, errdefs.ImageInvalid, "oci-layout is missing")
}

func TestBombIsStopped(t *testing.T) {
	l := layerOf(t, entry{name: "zeros", body: strings.Repeat("\x00", 4<<20)})
	s := newStore(t)
	_, err := s.Import(context.Background(), "x", layout(testImage{layers: [][]byte{l}}).dir(t), ImportOptions{Limits: Limits{TotalSize: 1 << 20}})
	wantError(t, err, errdefs.ImageInvalid, "total-size = 1048576")
	many := make([][]byte, 9)
	for i := range many {
		many[i] = layerOf(t)
	}
	_, err = s.Import(context.Background(), "x", layout(testImage{layers: many}).dir(t), ImportOptions{Limits: Limits{Layers: 8}})
	wantError(t, err, errdefs.ImageInvalid, "layers = 8")
}

func TestLayoutLinksCannotLeadOut(t *testing.T) {
	l := layerOf(t, entry{name: "f", body: "f"})
	p := layout(testImage{layers: [][]byte{l}})
	dir := p.dir(t)
	name := filepath.Join(dir, "blobs/sha256", digest(gz(l))[7:])
	outside := fileOf(t, gz(l))
	must(t, os.Remove(name))
	must(t, os.Symlink(outside, name))
	_, err := newStore(t).Import(context.Background(), "x", dir, ImportOptions{})
	if err == nil || !strings.Contains(err.Error(), "escapes") || errors.Is(err, errdefs.Internal) {
		t.Errorf("got %v", err)
	}
}
