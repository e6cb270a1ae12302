package gdbstub

import (
	"encoding/binary"
	"errors"
	"io"
	"strconv"
	"strings"
	"syscall"

	"aios.dev/aios/errdefs"
)

// maxFiles is how many files a client may have open.
const maxFiles = 32

// files are those that a client has open, by number.
type files struct {
	open map[uint64]File
	next uint64
}

func (f *files) closeAll() {
	for _, file := range f.open {
		file.Close()
	}
}

// File errors as gdb numbers them; 9999 is one that it does not know.
const (
	fileNotFound = 2
	fileBad      = 9
	fileDenied   = 13
	fileInvalid  = 22
	fileTooMany  = 24
	fileUnknown  = 9999
)

// fileError is the reply that says what went wrong. Numbers of Linux up to
// EROFS are gdb's.
func fileError(err error) string {
	n := int64(fileUnknown)
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno) && errno <= syscall.EROFS:
		n = int64(errno)
	case errno == syscall.ENAMETOOLONG:
		n = 91
	case errdefs.CodeOf(err) == errdefs.NotFound:
		n = fileNotFound
	case errdefs.CodeOf(err) == errdefs.Denied:
		n = fileDenied
	}
	return fileFailed(n)
}

func fileFailed(n int64) string { return "F-1," + strconv.FormatInt(n, 16) }

// file does vFile, for reading only.
func (s *session) file(args string) string {
	op, rest, _ := strings.Cut(args, ":")
	switch op {
	case "setfs": // There is one file system, the agent's.
		return "F0"
	case "open":
		return s.openFile(rest)
	case "close":
		fd, f := s.fileOf(rest)
		if f == nil {
			return fileFailed(fileBad)
		}
		delete(s.files.open, fd)
		if err := f.Close(); err != nil {
			return fileError(err)
		}
		return "F0"
	case "pread":
		return s.readFile(rest)
	case "fstat":
		_, f := s.fileOf(rest)
		if f == nil {
			return fileFailed(fileBad)
		}
		st, err := f.Stat()
		if err != nil {
			return fileError(err)
		}
		return withData(st.encode())
	case "readlink":
		path, ok := parseBytes(rest)
		if !ok {
			return fileFailed(fileInvalid)
		}
		to, err := s.target.ReadLink(string(path))
		if err != nil {
			return fileError(err)
		}
		return withData([]byte(to))
	case "pwrite", "unlink":
		return fileFailed(fileDenied)
	}
	return replyNone
}

// withData is a reply with data, as much as goes into a packet.
func withData(data []byte) string {
	data = data[:escapedFit(data, PacketSize-32)]
	return "F" + hexOf(uint64(len(data))) + ";" + string(data)
}

// openFile does open: PATH,FLAGS,MODE.
func (s *session) openFile(args string) string {
	f := strings.Split(args, ",")
	if len(f) != 3 {
		return fileFailed(fileInvalid)
	}
	path, ok1 := parseBytes(f[0])
	flags, ok2 := parseHex(f[1])
	switch {
	case !ok1 || !ok2:
		return fileFailed(fileInvalid)
	case flags != 0: // Reading is 0; whatever else changes something.
		return fileFailed(fileDenied)
	case len(s.files.open) >= maxFiles:
		return fileFailed(fileTooMany)
	}
	file, err := s.target.Open(string(path))
	if err != nil {
		return fileError(err)
	}
	if s.files.open == nil {
		s.files.open = make(map[uint64]File)
	}
	s.files.next++
	s.files.open[s.files.next] = file
	return "F" + hexOf(s.files.next)
}

func (s *session) fileOf(number string) (uint64, File) {
	fd, ok := parseHex(number)
	if !ok {
		return 0, nil
	}
	return fd, s.files.open[fd]
}

// readFile does pread: FD,COUNT,OFFSET.
func (s *session) readFile(args string) string {
	number, where, _ := strings.Cut(args, ",")
	_, f := s.fileOf(number)
	if f == nil {
		return fileFailed(fileBad)
	}
	count, offset, ok := parseRange(where)
	if !ok || offset >= 1<<63 {
		return fileFailed(fileInvalid)
	}
	p := make([]byte, min(count, PacketSize-32))
	n, err := f.ReadAt(p, int64(offset))
	if n == 0 && err != nil && !errors.Is(err, io.EOF) {
		return fileError(err)
	}
	return withData(p[:n])
}

// encode writes a file's status as gdb's struct fio_stat.
func (st FileStat) encode() []byte {
	const blockSize = 4096
	be := binary.BigEndian
	b := make([]byte, 8, 64) // device, inode
	for _, n := range []uint32{st.Mode, 1, st.UID, st.GID, 0} {
		b = be.AppendUint32(b, n) // mode, links, owner, group, device of one
	}
	for _, n := range []int64{st.Size, blockSize, (st.Size + 511) / 512} {
		b = be.AppendUint64(b, uint64(n))
	}
	for range 3 { // access, modification, change
		b = be.AppendUint32(b, uint32(st.ModTime))
	}
	return b
}
