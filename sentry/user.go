package sentry

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/errdefs"
)

// identity is who a process runs as.
type identity struct {
	uid, gid uint32
	groups   []auth.KGID
	home     string
}

// lookupUser resolves "", "name", "uid", either with ":group", against the
// agent's own /etc/passwd and /etc/group. A number that is not listed there is
// taken as it is, with its own number as the group and / as its home.
func (s *Kernel) lookupUser(ctx context.Context, ns *namespaces, user string) (identity, error) {
	if user == "" {
		return identity{home: "/root"}, nil
	}
	name, group, hasGroup := strings.Cut(user, ":")
	id := identity{home: "/"}
	bad := func(what string) (identity, error) {
		return identity{}, errdefs.New(errdefs.InvalidArgument, "no such "+what+" in the agent", errdefs.Resource("%q", user),
			errdefs.Fix("name one of the image's /etc/passwd, or give numbers: UID[:GID]"))
	}
	if name == "" || hasGroup && group == "" {
		return bad("user")
	}
	row := findRow(s.readFile(ctx, ns, "/etc/passwd"), name, 2, 6)
	number, numeric := parseID(name)
	switch {
	case row != nil:
		uid, ok1 := parseID(row[2])
		gid, ok2 := parseID(row[3])
		if !ok1 || !ok2 {
			return bad("user")
		}
		id.uid, id.gid, name = uid, gid, row[0]
		if row[5] != "" {
			id.home = row[5]
		}
	case numeric:
		id.uid, id.gid = number, number
	default:
		return bad("user")
	}
	if id.uid == 0 && id.home == "/" {
		id.home = "/root"
	}
	groups := s.readFile(ctx, ns, "/etc/group")
	if !hasGroup {
		id.groups = memberOf(groups, name)
		return id, nil
	}
	if row := findRow(groups, group, 2, 3); row != nil {
		group = row[2]
	}
	gid, ok := parseID(group)
	if !ok {
		return bad("group")
	}
	id.gid = gid
	return id, nil
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1 // -1 means "no change" to Linux.
}

// findRow returns the row of a passwd-like file whose first column or number
// column is key, if it has at least that many columns.
func findRow(file []byte, key string, number, columns int) []string {
	var byNumber []string
	for sc := bufio.NewScanner(bytes.NewReader(file)); sc.Scan(); {
		row := strings.Split(sc.Text(), ":")
		if len(row) < columns || strings.HasPrefix(row[0], "#") {
			continue
		}
		if row[0] == key {
			return row
		}
		if row[number] == key && byNumber == nil {
			byNumber = row
		}
	}
	return byNumber
}

// memberOf returns the groups that list name as a member.
func memberOf(file []byte, name string) []auth.KGID {
	var out []auth.KGID
	for sc := bufio.NewScanner(bytes.NewReader(file)); sc.Scan(); {
		row := strings.Split(sc.Text(), ":")
		if len(row) < 4 {
			continue
		}
		for _, m := range strings.Split(row[3], ",") {
			if gid, ok := parseID(row[2]); ok && m == name {
				out = append(out, auth.KGID(gid))
			}
		}
	}
	return out
}

// maxUserFile bounds how much of a user database is read, in bytes. It is the
// image's, so it may be anything.
const maxUserFile = 1 << 20

// readFile returns the start of a file of the agent, or nil.
func (s *Kernel) readFile(ctx context.Context, ns *namespaces, path string) []byte {
	root := ns.mnt.Root(ctx)
	defer root.DecRef(ctx)
	f, err := s.k.VFS().OpenAt(ctx, s.creds, at(root, path), &vfs.OpenOptions{Flags: linux.O_RDONLY | linux.O_NONBLOCK})
	if err != nil {
		return nil
	}
	defer f.DecRef(ctx)
	if stat, err := f.Stat(ctx, vfs.StatOptions{Mask: linux.STATX_TYPE}); err != nil || stat.Mode&linux.S_IFMT != linux.S_IFREG {
		return nil
	}
	var out []byte
	buf := make([]byte, 16<<10)
	for len(out) < maxUserFile {
		n, err := f.Read(ctx, usermem.BytesIOSequence(buf), vfs.ReadOptions{})
		out = append(out, buf[:n]...)
		if n == 0 || err != nil {
			break
		}
	}
	return out
}

// withDefault returns env with NAME=value appended unless NAME is set.
func withDefault(env []string, name, value string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return env
		}
	}
	return append(append([]string(nil), env...), name+"="+value)
}
