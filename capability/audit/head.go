package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
)

// headName is the file beside the segments that says how far they are on disk.
const headName = "head"

// head is the contents of that file: one line of JSON. It is replaced after
// every batch, and once more when the log is closed.
type head struct {
	Version int    `json:"audit"`
	Log     string `json:"log"`
	position
	Time time.Time `json:"time"`
	// Closed says that nothing follows: the writer ended in order.
	Closed bool `json:"closed,omitempty"`
	// MAC is an HMAC-SHA256 of the line without it, in hexadecimal.
	MAC string `json:"mac,omitempty"`
}

// Head is the end of the log that is on disk. Kept elsewhere, its Hash lets
// Verify find a log that was rewritten as a whole.
type Head struct {
	Seq  uint64
	Hash Hash
}

// encode writes h, authenticated when there is a key.
func (h head) encode(key []byte) ([]byte, error) {
	h.MAC = ""
	plain, err := json.Marshal(h)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "encode audit head")
	}
	if len(key) > 0 {
		h.MAC = mac(key, plain)
		if plain, err = json.Marshal(h); err != nil {
			return nil, errdefs.Wrap(err, errdefs.Internal, "encode audit head")
		}
	}
	return append(plain, '\n'), nil
}

func mac(key, plain []byte) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("aios audit head\n"))
	m.Write(plain)
	return hex.EncodeToString(m.Sum(nil))
}

// errNoHead is a log without its head.
var errNoHead = errdefs.New(errdefs.AuditBroken, "there is no head")

// readHead reads the head of the log in dir. It accepts exactly what encode
// writes, so that no byte of it can be changed unseen where there is a key.
func readHead(dir string) (head, error) {
	data, err := os.ReadFile(filepath.Join(dir, headName))
	if errors.Is(err, fs.ErrNotExist) {
		return head{}, errNoHead
	}
	if err != nil {
		return head{}, safefile.Fail(err, "read audit head", filepath.Join(dir, headName))
	}
	return parseHead(data)
}

func parseHead(data []byte) (head, error) {
	var h head
	broken := func(detail string, opts ...errdefs.Option) (head, error) {
		return head{}, errdefs.New(errdefs.AuditBroken, detail, opts...)
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return broken("the head is not JSON", errdefs.Cause(err))
	}
	if h.Version != version {
		return broken("the head is of an unknown format")
	}
	again, err := json.Marshal(h)
	if err != nil || !bytes.Equal(append(again, '\n'), data) {
		return broken("the head is not as it was written")
	}
	return h, nil
}

// authentic reports whether h was written by a holder of key.
func (h head) authentic(key []byte) bool {
	want := h.MAC
	h.MAC = ""
	plain, err := json.Marshal(h)
	return err == nil && hmac.Equal([]byte(want), []byte(mac(key, plain)))
}

const keyLen = 32

// readKey reads a key file: 64 hexadecimal digits, mode 0600.
func readKey(path string) ([]byte, error) {
	text, err := safefile.ReadSecret(path, 2*keyLen+1)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(string(bytes.TrimSuffix(text, []byte("\n"))))
	if err != nil || len(key) != keyLen {
		return nil, errdefs.New(errdefs.AuditBroken, "the key of the audit log is damaged",
			errdefs.Resource("%s", path), errdefs.Fix("restore it from a backup; without it the head cannot be authenticated"))
	}
	return key, nil
}

// makeKey creates a key file.
func makeKey(path string) ([]byte, error) {
	key := make([]byte, keyLen)
	rand.Read(key) // Never fails since Go 1.24.
	text := append(hex.AppendEncode(nil, key), '\n')
	return key, safefile.CreateSecret(path, text)
}

// writerKey is the key for a writer; found is the head that is there, nil when
// there is none. A key that is missing while the head has a MAC is an error, so
// that removing it and waiting for a restart does not launder a forged log.
func writerKey(path string, found *head) ([]byte, error) {
	if path == "" {
		if found != nil && found.MAC != "" {
			return nil, errdefs.New(errdefs.AuditBroken, "the head is authenticated, but no key is configured",
				errdefs.Fix("configure the key file that was used before"))
		}
		return nil, nil
	}
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if found != nil && found.MAC != "" {
			return nil, errdefs.New(errdefs.AuditBroken, "the key that authenticates the head is gone",
				errdefs.Resource("%s", path), errdefs.Fix("restore it from a backup, or set the log aside"))
		}
		return makeKey(path)
	}
	if err != nil {
		return nil, err
	}
	if found != nil && !found.authentic(key) {
		return nil, errdefs.New(errdefs.AuditBroken, "the head was not written by a holder of the key",
			errdefs.Resource("%s", path))
	}
	return key, nil
}
