package images

import (
	"bytes"
	"path"
	"regexp"
	"strings"
)

// EtcEntry is a part of the host's /etc that the host image has.
type EtcEntry struct {
	// Path is relative to /etc. Its last element may be a pattern of
	// path.Match; a slash at the end stands for the whole tree.
	Path string
	// Reason is why programs need it.
	Reason string
}

// HostEtc is the allow-list of the host image: nothing else of /etc is in it.
// Of what is listed, an agent gets regular files and directories that every
// user of the host may read, and symbolic links that stay inside what it gets;
// HostEtcDenied and a look at the contents take out what is secret all the same.
var HostEtc = []EtcEntry{
	{"alternatives/", "links behind program names such as editor, java and awk"},
	{"bash.bashrc", "interactive shells"},
	{"ca-certificates.conf", "which public certificates are trusted"},
	{"debian_version", "release of the distribution, read by installers"},
	{"default/locale", "locale of login shells"},
	{"fonts/", "fontconfig, for programs that draw text"},
	{"gai.conf", "order of resolved addresses"},
	{"host.conf", "resolver library"},
	{"inputrc", "readline"},
	{"java-*-openjdk/", "the JVM does not start without its security properties"},
	{"ld.so.cache", "dynamic linker"},
	{"ld.so.conf", "dynamic linker"},
	{"ld.so.conf.d/", "dynamic linker"},
	{"locale.*", "names of locales"},
	{"localtime", "time zone"},
	{"login.defs", "limits of user numbers, read by user tools"},
	{"lsb-release", "release of the distribution, read by installers"},
	{"magic", "file(1)"},
	{"magic.mime", "file(1)"},
	{"mime.types", "media types, read by Python and web servers"},
	{"netconfig", "RPC library"},
	{"networks", "names of networks"},
	{"nsswitch.conf", "where the C library looks names up"},
	{"os-release", "release of the distribution"},
	{"perl/", "Perl's site configuration"},
	{"profile", "login shells"},
	{"protocols", "names of protocols"},
	{"python3*/", "Python's site configuration"},
	{"redhat-release", "release of the distribution, read by installers"},
	{"rpc", "names of RPC programs"},
	{"services", "names of ports"},
	{"shells", "which programs are login shells"},
	{"skel/.bash_logout", "start files of new users"},
	{"skel/.bashrc", "start files of new users"},
	{"skel/.profile", "start files of new users"},
	{"ssl/cert.pem", "public certificates, where some distributions have them"},
	{"ssl/certs/", "public certificates; private keys are in ssl/private, which is not here"},
	{"ssl/openssl.cnf", "defaults of OpenSSL"},
	{"pki/ca-trust/extracted/", "public certificates, where Fedora has them"},
	{"pki/tls/cert.pem", "public certificates, where Fedora has them"},
	{"pki/tls/certs/", "public certificates, where Fedora has them"},
	{"terminfo/", "terminals that the host knows beyond the standard ones"},
	{"timezone", "time zone"},
	{"vim/", "the editor's site configuration"},
	{"xattr.conf", "which extended attributes copies skip"},
}

// HostEtcDenied are patterns of path.Match for the names, in lower case, of
// files and directories that never enter the host image, allowed or not.
var HostEtcDenied = []string{
	"*shadow*", "*.key", "*_key", "*_key.*", "*-key.pem", "private*", "id_*", "ssh*", ".ssh", "*.keytab", "krb5*",
	"*.p12", "*.pfx", "*.kdb*", "*.gpg", ".gnupg", "*secret*", "*passw*", "*token*", "*credential*", "machine-id", "*history",
	".netrc", ".pgpass", ".npmrc", ".pypirc", ".aws", ".kube", ".docker", "*.bak", "*~", "*.dpkg-*", "*.swp",
}

// secretContent finds private keys, well-known forms of tokens, passwords in
// URLs and assignments to variables that are named as secrets.
var secretContent = regexp.MustCompile(strings.Join([]string{
	`PRIVATE KEY`,
	`\bgh[pousr]_[A-Za-z0-9]{20,}`, `\bgithub_pat_\w{20,}`, `\bglpat-[\w-]{16,}`, `\bxox[abeprs]-[\w-]{10,}`,
	`\b(AKIA|ASIA)[0-9A-Z]{16}\b`, `\bsk-[\w-]{20,}`, `\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.`, `_authToken`,
	`://[^/\s:@]+:[^/\s@]+@`,
	`\b[A-Z0-9_]*(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIALS?)[A-Z0-9_]*=["']?[^\s"'$]{4}`,
}, "|"))

// secretHints are what everything that secretContent finds has in it; looking
// for them first is what makes certificates cheap to pass.
var secretHints = [][]byte{
	[]byte("PRIVATE KEY"), []byte("ghp_"), []byte("gho_"), []byte("ghu_"), []byte("ghs_"), []byte("ghr_"), []byte("github_pat_"), []byte("glpat-"),
	[]byte("xox"), []byte("AKIA"), []byte("ASIA"), []byte("sk-"), []byte("eyJ"), []byte("_authToken"), []byte("://"),
	[]byte("TOKEN"), []byte("SECRET"), []byte("PASSW"), []byte("API"), []byte("CREDENTIAL"),
}

// hasSecret reports whether data holds something that looks like a secret.
func hasSecret(data []byte) bool {
	for _, hint := range secretHints {
		if bytes.Contains(data, hint) {
			return secretContent.Match(data)
		}
	}
	return false
}

// deniedName reports whether a file or directory of this name is kept out.
func deniedName(name string) bool {
	name = strings.ToLower(name)
	for _, pattern := range HostEtcDenied {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}
