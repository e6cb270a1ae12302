package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"aios.dev/aios/errdefs"
)

// MaxFile bounds a configuration file, in bytes.
const MaxFile = 1 << 20

// Document is a configuration file that was read: what it says, and where in
// the file each key is.
type Document struct {
	name string
	root *yaml.Node            // nil for an empty file
	at   map[string]*yaml.Node // by key: "sinks[0].filter"
}

// ReadFile reads a configuration file. It must belong to the daemon's user or
// to root, and nobody else may be able to change it: it names programs that are
// run. A file that is not there is reported as fs.ErrNotExist beneath.
func ReadFile(path string) (*Document, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		fix := "check the path and who may read it"
		if errors.Is(err, fs.ErrNotExist) {
			fix = "make the file, or name another with --config or " + FileEnv
		}
		return nil, errdefs.Wrap(err, errdefs.ConfigInvalid, "read the configuration", errdefs.Fix("%s", fix))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "read the configuration")
	}
	refuse := func(detail, fix string) (*Document, error) {
		return nil, errdefs.New(errdefs.ConfigInvalid, detail, errdefs.Op("read the configuration"), errdefs.Resource("%s", path), errdefs.Fix("%s", fix))
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return refuse("it is not a regular file", "name a file")
	case ok && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return refuse("it belongs to another user, who could have programs run", "chown it to the user of the daemon")
	case info.Mode().Perm()&0o022 != 0:
		return refuse("others than its owner can change it: mode "+info.Mode().Perm().String(), "chmod go-w "+path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "read the configuration", errdefs.Resource("%s", path))
	}
	return Parse(path, data)
}

// yamlError is how the YAML library words what it cannot read.
var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// Parse reads a configuration out of its text; name is that of the file, for
// errors.
func Parse(name string, data []byte) (*Document, error) {
	d := &Document{name: name, at: make(map[string]*yaml.Node)}
	if len(data) > MaxFile {
		return nil, d.fail(nil, "", "the file is larger than a configuration may be", fmt.Sprintf("keep it below %d bytes", MaxFile))
	}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return d, nil
	}
	if err != nil {
		return nil, d.notYAML(err)
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, d.notYAML(err)
		}
		return nil, d.fail(&second, "", "a second document begins", "keep one: remove the line of dashes")
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return d, nil
	}
	d.root = root
	return d, nil
}

// notYAML says what the YAML library found.
func (d *Document) notYAML(err error) error {
	m := yamlError.FindStringSubmatch(err.Error())
	detail, node := err.Error(), (*yaml.Node)(nil)
	if m != nil {
		detail = m[2]
		if line, err := strconv.Atoi(m[1]); err == nil {
			node = &yaml.Node{Line: line}
		}
	}
	return d.fail(node, "", "this is not YAML: "+detail, "look at the indentation and the quotes of that line and of the one above it")
}

// fail is the error of a place in the file; node nil is the file as a whole.
func (d *Document) fail(node *yaml.Node, key, detail, fix string) *errdefs.Error {
	if key != "" {
		detail = key + ": " + detail
	}
	return errdefs.New(errdefs.ConfigInvalid, d.where(node)+": "+detail, errdefs.Fix("%s", fix))
}

// where is a place in the file as compilers write it.
func (d *Document) where(node *yaml.Node) string {
	where := d.name
	if node != nil && node.Line > 0 {
		where += ":" + strconv.Itoa(node.Line)
		if node.Column > 0 {
			where += ":" + strconv.Itoa(node.Column)
		}
	}
	return where
}

// Fail says where in the file the value is that an error is about. Of a key
// that the file does not have, the nearest around it is named.
func (d *Document) Fail(key string, err error) error {
	if err == nil {
		return nil
	}
	var node *yaml.Node
	for k := key; ; {
		if node = d.at[k]; node != nil {
			break
		}
		i := strings.LastIndexAny(k, ".[")
		if i < 0 {
			break
		}
		k = k[:i]
	}
	return d.fail(node, key, err.Error(), errdefs.FixOf(err))
}

// Has reports whether the file has a key.
func (d *Document) Has(key string) bool { return d.at[key] != nil }
