package images

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"aios.dev/aios/errdefs"
	goerofs "github.com/erofs/go-erofs"
)

// maxUserFile bounds the passwd and group files of an image.
const maxUserFile = 4 << 20

// User is who a program of an image runs as.
type User struct {
	UID, GID uint32
	// Groups are the supplementary groups.
	Groups []uint32
	// Home is the home directory, "/" when the image does not say.
	Home string
}

// ResolveUser finds the user that spec names in an image: USER[:GROUP], each a
// name or a number; "" is root. Names must be in the image's /etc/passwd and
// /etc/group; numbers need not.
func ResolveUser(image *os.File, spec string) (User, error) {
	fsys, err := goerofs.Open(image)
	if err != nil {
		return User{}, errdefs.Wrap(err, errdefs.ImageInvalid, "read image")
	}
	passwd, err := colonFile(fsys, "etc/passwd", 7)
	if err != nil {
		return User{}, err
	}
	group, err := colonFile(fsys, "etc/group", 4)
	if err != nil {
		return User{}, err
	}
	return resolveUser(passwd, group, spec)
}

func resolveUser(passwd, group [][]string, spec string) (User, error) {
	name, groupName, _ := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	u := User{Home: "/"}
	login := name
	row := find(passwd, 0, name)
	id, numeric := number(name)
	if row == nil && numeric {
		row = find(passwd, 2, strconv.FormatUint(uint64(id), 10))
		u.UID = id
	}
	if row != nil {
		uid, ok1 := number(row[2])
		gid, ok2 := number(row[3])
		if !ok1 || !ok2 {
			return User{}, invalid(fmt.Sprintf("/etc/passwd of the image has no numbers for %.80q", row[0]), "name the user by number")
		}
		u.UID, u.GID, login = uid, gid, row[0]
		if strings.HasPrefix(row[5], "/") {
			u.Home = row[5]
		}
	} else if !numeric {
		return User{}, errdefs.New(errdefs.InvalidArgument, "no such user in the image", errdefs.Resource("user %.80q", name), errdefs.Fix("name the user by number, or one of the image's /etc/passwd"))
	}
	if groupName != "" {
		gid, err := groupID(group, groupName)
		if err != nil {
			return User{}, err
		}
		u.GID = gid
		return u, nil // An explicit group replaces all others.
	}
	for _, g := range group {
		gid, ok := number(g[2])
		if ok && gid != u.GID && row != nil && contains(g[3], login) {
			u.Groups = append(u.Groups, gid)
		}
	}
	return u, nil
}

func groupID(group [][]string, name string) (uint32, error) {
	if row := find(group, 0, name); row != nil {
		if gid, ok := number(row[2]); ok {
			return gid, nil
		}
	}
	if gid, ok := number(name); ok {
		return gid, nil
	}
	return 0, errdefs.New(errdefs.InvalidArgument, "no such group in the image", errdefs.Resource("group %.80q", name), errdefs.Fix("name the group by number, or one of the image's /etc/group"))
}

// colonFile reads the rows of a file like passwd. A missing file has none.
func colonFile(fsys fs.FS, name string, columns int) ([][]string, error) {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.ImageInvalid, "read image")
	}
	defer f.Close()
	b, err := readAtMost(f.(io.Reader), maxUserFile)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.ImageInvalid, "read image", errdefs.Resource("/%s", name))
	}
	var out [][]string
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxUserFile+1)
	for lines.Scan() {
		if row := strings.Split(lines.Text(), ":"); len(row) >= columns {
			out = append(out, row)
		}
	}
	return out, lines.Err()
}

// find returns the first row with this value in a column.
func find(rows [][]string, column int, value string) []string {
	for _, row := range rows {
		if row[column] == value {
			return row
		}
	}
	return nil
}

func contains(list, name string) bool {
	for s := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(s) == name {
			return true
		}
	}
	return false
}

// number parses an ID of 32 bits, but not the one that means "unchanged".
func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}
