package sink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"aios.dev/aios/errdefs"
)

// maxCredential bounds a file that the configuration names, in bytes.
const maxCredential = 256 << 10

// readFile reads a file that the configuration names. A secret must be out of
// reach of users other than the daemon's own and root.
func readFile(path string, secret bool) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, bad("the path is not absolute", "begin it with a slash")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		fix := "check that the daemon's user may read it"
		if errors.Is(err, fs.ErrNotExist) {
			fix = "make the file, or correct the path"
		}
		return nil, errdefs.Wrap(err, errdefs.ConfigInvalid, "", errdefs.Fix("%s", fix))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "read", errdefs.Resource("%s", path))
	}
	st, known := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case !info.Mode().IsRegular():
		return nil, bad(path+" is not a file", "name a file")
	case secret && (mode&0o007 != 0 || mode&0o020 != 0):
		return nil, bad("others can use "+path+": its mode is "+mode.String(), "if nobody did, chmod 600 "+path+"; else replace what is in it first")
	case secret && known && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, bad(path+" belongs to another user", "chown it to the user of the daemon")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	switch {
	case err != nil:
		return nil, errdefs.Wrap(err, errdefs.HostIO, "read", errdefs.Resource("%s", path))
	case len(data) == 0:
		return nil, bad(path+" is empty", "write into it what the receiver expects")
	case len(data) > maxCredential:
		return nil, bad(path+" is too large", "name the right file")
	}
	return data, nil
}

// files are what was read of the files that a configuration names, by key.
type files map[string][]byte

// read reads a file unless path is "".
func (f files) read(key, path string, secret bool) error {
	if path == "" {
		return nil
	}
	data, err := readFile(path, secret)
	f[key] = data
	return err
}

// text is a file of one line.
func (f files) text(key string) string {
	s := string(f[key])
	for len(s) > 0 && (s[len(s)-1] == '\n' || s[len(s)-1] == '\r') {
		s = s[:len(s)-1]
	}
	return s
}

// readTLS reads the files of t.
func (f files) readTLS(t *TLS) (key string, err error) {
	if err := f.read("ca_file", t.CAFile, false); err != nil {
		return "ca_file", err
	}
	if err := f.read("cert_file", t.CertFile, false); err != nil {
		return "cert_file", err
	}
	if err := f.read("key_file", t.KeyFile, true); err != nil {
		return "key_file", err
	}
	return f.tls(nil)
}

// tls sets up a configuration out of what was read; nil only examines it.
func (f files) tls(cfg *tls.Config) (key string, err error) {
	if cfg == nil {
		cfg = new(tls.Config)
	}
	cfg.MinVersion = tls.VersionTLS12
	if pem := f["ca_file"]; pem != nil {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return "ca_file", bad("there is no certificate in it", "name a file of PEM with the certificates to trust")
		}
	}
	if f["cert_file"] != nil {
		pair, err := tls.X509KeyPair(f["cert_file"], f["key_file"])
		if err != nil {
			return "cert_file", errdefs.Wrap(err, errdefs.ConfigInvalid, "", errdefs.Fix("name files of PEM: the certificate, and the key that belongs to it"))
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return "", nil
}
