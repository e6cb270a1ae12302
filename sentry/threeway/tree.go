package threeway

import "strings"

// Kind is what a file is.
type Kind uint8

// The kinds of file.
const (
	Absent Kind = iota
	Dir
	File
	Symlink
	Special // a pipe with a name, or a device
)

// Meta is what is said about a file.
type Meta struct {
	Mode     uint16 // the twelve bits of permissions
	UID, GID uint32
	Xattrs   uint64 // a hash over all
}

// Entry is what is at a path. Two that are equal are the same, content and all.
type Entry struct {
	Kind Kind
	Meta Meta
	// Lower says that it is that of the tree below.
	Lower bool
	// Version is one of the content of what is not a directory: it differs after
	// every change.
	Version int64
	Size    uint64
	Rdev    uint64
}

// Node is what a layer has at a path.
type Node struct {
	Entry
	// Whiteout says that what is below is deleted; then there is no Entry.
	Whiteout bool
	// Opaque says of a directory that what is below it does not show.
	Opaque   bool
	Children map[string]*Node
}

// Add puts a node below n, and returns it.
func (n *Node) Add(name string, c *Node) *Node {
	if n.Children == nil {
		n.Children = make(map[string]*Node)
	}
	n.Children[name] = c
	return c
}

// At returns the node at a path, or nil.
func (n *Node) At(path string) *Node {
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if n = n.Children[name]; n == nil {
			return nil
		}
	}
	return n
}

// Lower is the tree that the layers are laid over. Paths begin with a slash.
type Lower interface {
	Stat(path string) (Entry, error)    // of kind Absent if there is nothing
	List(path string) ([]string, error) // of a directory
}

// Empty is a tree below in which nothing is.
type Empty struct{}

// Stat implements Lower.
func (Empty) Stat(string) (Entry, error) { return Entry{}, nil }

// List implements Lower.
func (Empty) List(string) ([]string, error) { return nil, nil }

// view is what one side shows at a path: an entry, and for what is below it a node
// of its layer, or nil, and whether the tree below shows.
type view struct {
	Entry
	node *Node
	low  bool
}

// child returns what a side shows below a directory.
func (m *merger) child(v view, name, path string) (view, error) {
	if v.Kind != Dir {
		return view{}, nil
	}
	if v.node != nil {
		if n := v.node.Children[name]; n != nil {
			if n.Whiteout {
				return view{}, nil
			}
			c := view{Entry: n.Entry, node: n}
			if n.Kind == Dir && v.low && !n.Opaque {
				e, err := m.below(path)
				if err != nil {
					return view{}, err
				}
				c.low = e.Kind == Dir
			}
			return c, nil
		}
	}
	if !v.low {
		return view{}, nil
	}
	e, err := m.below(path)
	return view{Entry: e, low: e.Kind == Dir}, err
}

// below returns what the tree below has at a path.
func (m *merger) below(path string) (Entry, error) {
	if e, ok := m.stats[path]; ok {
		return e, nil
	}
	e, err := m.lower.Stat(path)
	if err != nil {
		return Entry{}, err
	}
	e.Lower = true
	if e.Kind == Absent {
		e = Entry{}
	}
	m.stats[path] = e
	return e, nil
}

// names returns the names below a directory at which sides may differ.
func (m *merger) names(path string, views ...view) ([]string, error) {
	seen := make(map[string]bool)
	lows := 0
	for _, v := range views {
		if v.node != nil {
			for name := range v.node.Children {
				seen[name] = true
			}
		}
		if v.low {
			lows++
		}
	}
	if lows != 0 && lows != len(views) {
		list, err := m.lower.List(path)
		if err != nil {
			return nil, err
		}
		for _, name := range list {
			seen[name] = true
		}
	}
	return sorted(seen), nil
}
