package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	layoutFile     = "oci-layout"
	indexFile      = "index.json"
	dockerManifest = "manifest.json"

	maxJSON       = 8 << 20 // of an index, a manifest or a config
	maxIndexDepth = 4
	maxCandidates = 4096
)

// candidate is one image of a layout.
type candidate struct {
	desc v1.Descriptor
	ref  string
}

// readOCI fills src from an OCI layout.
func (s *Store) readOCI(ctx context.Context, from files, src *source, opts ImportOptions) error {
	var layout struct {
		Version string `json:"imageLayoutVersion"`
	}
	b, err := readJSON(from, layoutFile, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &layout); err != nil || !strings.HasPrefix(layout.Version, "1.") {
		return invalid(fmt.Sprintf("its %s says version %q; this program reads version 1", layoutFile, layout.Version), "save the image again as an OCI layout of version 1")
	}
	var all []candidate
	if err := listImages(from, indexFile, nil, "", 0, &all); err != nil {
		return err
	}
	desc, err := choose(from, all, opts)
	if err != nil {
		return err
	}
	m, err := readManifest(from, desc)
	if err != nil {
		return err
	}
	if !m.Config.MediaType.IsConfig() {
		return invalid(fmt.Sprintf("it holds an artifact of type %q, not a container image", m.Config.MediaType), "choose another image with Ref")
	}
	b, err = readJSON(from, blobName(m.Config.Digest), &m.Config)
	if err != nil {
		return err
	}
	layers := make([]layer, len(m.Layers))
	for i, l := range m.Layers {
		sec, err := from.file(blobName(l.Digest))
		if err != nil {
			return missing(err, fmt.Sprintf("layer %d (%s)", i+1, l.Digest))
		}
		if sec.Size() != l.Size {
			return invalid(fmt.Sprintf("layer %d has %d bytes, the manifest says %d", i+1, sec.Size(), l.Size), "fetch or save the image again: it is damaged")
		}
		layers[i] = layer{sec, l.Digest.String()}
	}
	return s.readLayers(ctx, layers, b, src, opts)
}

// listImages adds the images of an index, and of the indexes in it, to out.
func listImages(from files, name string, desc *v1.Descriptor, ref string, depth int, out *[]candidate) error {
	if depth > maxIndexDepth {
		return invalid("its indexes are nested too deeply", "save the image again")
	}
	b, err := readJSON(from, name, desc)
	if err != nil {
		return err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(b))
	if err != nil {
		return damaged(err, name+" is damaged")
	}
	for _, d := range index.Manifests {
		ref := ref
		if r := d.Annotations["org.opencontainers.image.ref.name"]; r != "" {
			ref = r
		}
		switch {
		case d.Platform != nil && d.Platform.OS == "unknown": // An attestation of buildkit.
		case d.MediaType.IsIndex():
			if err := listImages(from, blobName(d.Digest), &d, ref, depth+1, out); err != nil {
				return err
			}
		case d.MediaType.IsImage():
			if *out = append(*out, candidate{d, ref}); len(*out) > maxCandidates {
				return limitError("images", maxCandidates, indexFile)
			}
		}
	}
	return nil
}

// choose picks the one image that the options mean.
func choose(from files, all []candidate, opts ImportOptions) (v1.Descriptor, error) {
	var refs, platforms []string
	var match []candidate
	for _, c := range all {
		if c.ref != "" && !slices.Contains(refs, c.ref) {
			refs = append(refs, c.ref)
		}
		if opts.Ref != "" && !sameRef(c.ref, opts.Ref) {
			continue
		}
		p, err := platformOf(from, c.desc)
		if err != nil {
			return v1.Descriptor{}, err
		}
		c.desc.Platform = p
		if s := p.String(); !slices.Contains(platforms, s) {
			platforms = append(platforms, s)
		}
		if p.OS == "linux" && (p.Architecture == opts.Architecture || p.Architecture == "") {
			match = append(match, c)
		}
	}
	switch {
	case len(all) == 0:
		return v1.Descriptor{}, invalid("its "+indexFile+" lists no image", "save an image into the layout first")
	case len(platforms) == 0:
		return v1.Descriptor{}, invalid(fmt.Sprintf("no image has the tag %q; there are: %s", opts.Ref, orNone(refs)), "name one of these tags")
	case len(match) == 0:
		return v1.Descriptor{}, invalid(fmt.Sprintf("no image for linux/%s; there are: %s", opts.Architecture, strings.Join(platforms, ", ")),
			"save the image for linux/"+opts.Architecture)
	}
	best := match[0]
	for _, c := range match[1:] {
		switch {
		case c.desc.Digest == best.desc.Digest:
		case c.ref != best.ref:
			return v1.Descriptor{}, invalid("it holds several images: "+orNone(refs), "choose one with Ref")
		case c.desc.Platform.Variant == "" && best.desc.Platform.Variant != "":
			best = c // The variant that runs everywhere.
		}
	}
	return best.desc, nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none with a tag"
	}
	return someOf(names)
}

// sameRef reports whether a full reference or a tag is meant by want.
func sameRef(ref, want string) bool {
	_, tag, _ := strings.Cut(path.Base(ref), ":")
	return ref == want || tag != "" && tag == want
}

// platformOf returns what an image runs on: as the index says, or its config.
func platformOf(from files, d v1.Descriptor) (*v1.Platform, error) {
	if d.Platform != nil && d.Platform.Architecture != "" {
		return d.Platform, nil
	}
	m, err := readManifest(from, d)
	if err != nil {
		return nil, err
	}
	if !m.Config.MediaType.IsConfig() {
		return &v1.Platform{OS: "artifact"}, nil
	}
	b, err := readJSON(from, blobName(m.Config.Digest), &m.Config)
	if err != nil {
		return nil, err
	}
	c, err := v1.ParseConfigFile(bytes.NewReader(b))
	if err != nil {
		return nil, damaged(err, "the image config is damaged")
	}
	p := &v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}
	if p.OS == "" {
		p.OS = "linux"
	}
	return p, nil
}

func readManifest(from files, d v1.Descriptor) (*v1.Manifest, error) {
	b, err := readJSON(from, blobName(d.Digest), &d)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(b))
	if err != nil {
		return nil, damaged(err, "the manifest is damaged")
	}
	return m, nil
}

func blobName(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// readJSON reads a small file of a layout and, when it has a descriptor,
// verifies it.
func readJSON(from files, name string, d *v1.Descriptor) ([]byte, error) {
	sec, err := from.file(name)
	if err != nil {
		return nil, missing(err, name)
	}
	if sec.Size() > maxJSON {
		return nil, limitError("json-size", maxJSON, name)
	}
	b, err := readAtMost(sec, maxJSON)
	if err != nil {
		return nil, damaged(err, name+" cannot be read")
	}
	if d != nil {
		h := sha256.New()
		h.Write(b)
		if d.Digest.Algorithm != "sha256" {
			return nil, invalid(fmt.Sprintf("digests of the kind %q cannot be verified", d.Digest.Algorithm), "save the image with sha256 digests")
		}
		if got := digestOf(h); got != d.Digest.String() {
			return nil, invalid(fmt.Sprintf("%s has the digest %s", name, got), "fetch or save the image again: it is damaged")
		}
	}
	return b, nil
}

// missing explains that a part of the image is not there.
func missing(err error, what string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return invalid(what+" is missing", "fetch or save the whole image again")
	}
	return damaged(err, what+" cannot be opened")
}

// readDocker fills src from what docker save wrote.
func (s *Store) readDocker(ctx context.Context, from files, src *source, opts ImportOptions) error {
	b, err := readJSON(from, dockerManifest, nil)
	if err != nil {
		return err
	}
	var all []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return damaged(err, dockerManifest+" is damaged")
	}
	var refs []string
	found := -1
	for i, m := range all {
		refs = append(refs, m.RepoTags...)
		if opts.Ref == "" || slices.ContainsFunc(m.RepoTags, func(r string) bool { return sameRef(r, opts.Ref) }) {
			if found >= 0 && opts.Ref == "" {
				return invalid("it holds several images: "+orNone(append(refs, all[len(all)-1].RepoTags...)), "choose one with Ref")
			}
			found = i
		}
	}
	if found < 0 {
		return invalid(fmt.Sprintf("no image has the tag %q; there are: %s", opts.Ref, orNone(refs)), "name one of these tags")
	}
	m := all[found]
	config, err := readJSON(from, m.Config, nil)
	if err != nil {
		return err
	}
	layers := make([]layer, len(m.Layers))
	for i, name := range m.Layers {
		sec, err := from.file(name)
		if err != nil {
			return missing(err, fmt.Sprintf("layer %d (%s)", i+1, name))
		}
		layers[i] = layer{sec: sec} // The config has its digest.
	}
	return s.readLayers(ctx, layers, config, src, opts)
}
