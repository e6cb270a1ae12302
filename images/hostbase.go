package images

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"

	"aios.dev/aios/images/mkerofs"
)

// baseDirs are the directories of every skeleton; parents come first.
var baseDirs = []struct {
	path string
	perm uint32
}{
	{"boot", 0o755}, {"dev", 0o755}, {"etc", 0o755}, {"home", 0o755}, {"media", 0o755}, {"mnt", 0o755}, {"opt", 0o755},
	{"proc", 0o555}, {"root", 0o700}, {"run", 0o755}, {"run/lock", 0o1777}, {"srv", 0o755}, {"sys", 0o555}, {"tmp", 0o1777},
	{"usr", 0o755}, {"var", 0o755}, {"var/cache", 0o755}, {"var/lib", 0o755}, {"var/log", 0o755}, {"var/spool", 0o755}, {"var/tmp", 0o1777},
}

// baseLinks are links of every skeleton.
var baseLinks = map[string]string{"var/run": "/run", "var/lock": "/run/lock", "etc/mtab": "/proc/self/mounts"}

const (
	nobody  = 65534
	ttyGID  = 5 // owner of terminals, as devpts has it
	hostsOf = "127.0.0.1\tlocalhost %[1]s\n::1\tlocalhost ip6-localhost ip6-loopback\n"
)

// etcFiles are the files of /etc that are made for the agent.
func etcFiles(opts HostOptions) map[string]string {
	passwd := "root:x:0:0:root:/root:/bin/sh\n"
	group := fmt.Sprintf("root:x:0:\ntty:x:%d:\n", ttyGID)
	if u := opts.User; u != nil && u.UID != 0 && u.UID != nobody {
		passwd += fmt.Sprintf("%s:x:%d:%d::/home/%s:/bin/sh\n", u.Name, u.UID, u.GID, u.Name)
		if u.GID != 0 && u.GID != nobody && u.GID != ttyGID {
			group += fmt.Sprintf("%s:x:%d:\n", u.Name, u.GID)
		}
	}
	return map[string]string{
		"etc/passwd":      passwd + fmt.Sprintf("nobody:x:%d:%d:nobody:/nonexistent:/usr/sbin/nologin\n", nobody, nobody),
		"etc/group":       group + fmt.Sprintf("nogroup:x:%d:\n", nobody),
		"etc/hosts":       fmt.Sprintf(hostsOf, opts.Hostname),
		"etc/hostname":    opts.Hostname + "\n",
		"etc/resolv.conf": "", // No name server: an agent has no network of its own accord.
	}
}

// addSystem makes what does not come from the host.
func (b *skeletonBuilder) addSystem(opts HostOptions) {
	for _, d := range baseDirs {
		b.put(d.path, mkerofs.NewDir(d.perm))
	}
	for p, target := range baseLinks {
		b.put(p, &mkerofs.Node{Mode: mkerofs.ModeSymlink | 0o777, Target: target})
	}
	for p, data := range etcFiles(opts) {
		b.put(p, &mkerofs.Node{Mode: mkerofs.ModeRegular | 0o644, Size: int64(len(data)), Content: memory(data)})
	}
	if u := opts.User; u != nil && u.UID != 0 {
		home := mkerofs.NewDir(0o700)
		home.UID, home.GID = u.UID, u.GID
		b.put("home/"+u.Name, home)
	}
}

// generated reports whether p is made for the agent, so that links may lead to it.
func (b *skeletonBuilder) generated(p string) bool {
	if strings.HasPrefix(p, "proc/") {
		return true
	}
	_, ok := etcFiles(HostOptions{})[p]
	return ok
}

func (b *skeletonBuilder) put(p string, n *mkerofs.Node) {
	dir, base := path.Split(p)
	b.find(dir).Children[base] = n
}

// keyOf names the record of a variant of the skeleton.
func keyOf(variant string) string {
	sum := sha256.Sum256([]byte(variant))
	return hex.EncodeToString(sum[:12])
}
