package abi

import (
	"slices"
	"strings"
	"testing"
)

func TestParseOperation(t *testing.T) {
	net := GroupSocket.Bit()
	file := GroupFile.Bit()
	for _, test := range []struct {
		text   string
		groups uint64
		needs  string // texts of Needs, joined by a space
		path   string
		want   Rights
	}{
		{"open /etc/shadow", file, "", "/etc/shadow", FSRead},
		{"  open   /data/../x/y  rw ", file, "", "/x/y", FSRead | FSWrite},
		{"open /a b", file, "", "/a b", FSRead},
		{"open /a create", file, "", "/a", FSWrite | FSCreate},
		{"open", file, "", "", 0},
		{"delete /x", file, "", "/x", FSDelete},
		{"exec /bin/sh", GroupExec.Bit(), "", "/bin/sh", FSExec},
		{"execve", GroupExec.Bit(), "", "", 0},
		{"connect 127.0.0.1:80", net | GroupConnect.Bit(), "net:loopback:connect", "", 0},
		{"connect [::1]:80", net | GroupConnect.Bit(), "net:loopback:connect", "", 0},
		{"connect ::ffff:127.0.0.9", net | GroupConnect.Bit(), "net:loopback:connect", "", 0},
		{"connect localhost:80", net | GroupConnect.Bit(), "net:loopback:connect", "", 0},
		{"connect tcp://example.org:443", net | GroupConnect.Bit(), "net:*:connect", "", 0},
		{"connect 10.0.0.1:443", net | GroupConnect.Bit(), "net:*:connect", "", 0},
		{"connect /run/x.sock", 0, "", "", 0},
		{"connect svc:db", 0, "svc:db", "", 0},
		{"connect", GroupConnect.Bit(), "", "", 0},
		{"bind 0.0.0.0:80", net | GroupBind.Bit(), "net:loopback:bind", "", 0},
		{"bind :80", net | GroupBind.Bit(), "net:loopback:bind", "", 0},
		{"socket inet", net, "", "", 0},
		{"socket AF_INET6 SOCK_STREAM", net, "", "", 0},
		{"socket unix", 0, "", "", 0},
		{"socket inet raw", GroupRaw.Bit(), "", "", 0},
		{"socket AF_INET SOCK_RAW", GroupRaw.Bit(), "", "", 0},
		{"fork", GroupSpawn.Bit(), "", "", 0},
		{"thread", GroupSpawn.Bit(), "", "", 0},
		{"mmap", GroupMap.Bit(), "", "", 0},
		{"mmap exec", GroupMap.Bit() | GroupMemExec.Bit(), "", "", 0},
		{"mprotect exec", GroupMemExec.Bit(), "", "", 0},
		{"ptrace", GroupDebug.Bit(), "", "", 0},
		{"kill 12 9", GroupSignal.Bit(), "", "", 0},
		{"kill -1", GroupSignal.Bit(), "", "", 0},
		{"kill self", 0, "", "", 0},
		{"kill worker", 0, "agent:worker:signal", "", 0},
		{"pause worker", 0, "agent:worker:pause", "", 0},
		{"subscribe a.b@self", 0, "event:a.b@self", "", 0},
		{"mount", GroupMount.Bit(), "", "", 0},
		{"mount /dev/sda /mnt", GroupMount.Bit(), "", "", 0},
		{"syscall reboot", GroupAdmin.Bit(), "", "", 0},
		{"reboot", GroupAdmin.Bit(), "", "", 0},
		{"getpid", GroupBase.Bit(), "", "", 0},
	} {
		op, problem := ParseOperation(test.text)
		if problem != "" {
			t.Errorf("%q: %s", test.text, problem)
			continue
		}
		var needs []string
		for _, n := range op.Needs {
			needs = append(needs, n.String())
		}
		if op.Groups != test.groups || strings.Join(needs, " ") != test.needs || op.Path != test.path || op.Want != test.want {
			t.Errorf("%q: groups %s, needs %q, path %q, rights %s", test.text, FormatGroups(op.Groups), needs, op.Path, op.Want.Format(ClassFS))
		}
	}
	for _, text := range []string{
		"", " ", "frobnicate", "frobnicate /x", "open x", "exec sh", "delete", "connect nowhere", "connect a:b", "connect 1.2.3:80", "connect 256.0.0.1:80",
		"bind x y:80", "socket vsock", "mmap what", "kill a b c", "send", "pause a b", "publish", "call", "syscall", "syscall nosuch", "syscall open /x",
		"open /x\x00", "open /" + strings.Repeat("x", maxOperation), "connect svc:", "connect :",
	} {
		if op, problem := ParseOperation(text); problem == "" {
			t.Errorf("%.40q passes as %+v", text, op)
		}
	}
}

func TestVerbsAreInTheUsage(t *testing.T) {
	all := Verbs()
	if !slices.IsSorted(all) || !slices.Contains(all, "syscall") {
		t.Errorf("verbs: %q", all)
	}
	for _, form := range strings.Split(OperationUsage, ", ") {
		verb := strings.Fields(strings.TrimPrefix(form, "or "))[0]
		if !slices.Contains(all, verb) && !isSyscall(verb) {
			t.Errorf("the usage names %s, which is no verb", verb)
		}
	}
}

func FuzzParseOperation(f *testing.F) {
	for _, s := range []string{"open /etc/shadow rw", "connect [::1]:80", "connect tcp://a.b:1", "kill -1 9", "socket inet raw", "syscall mount", "mmap exec", "pause a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		op, problem := ParseOperation(text)
		if problem != "" {
			return
		}
		if op.Verb == "" {
			t.Fatalf("%q has no verb", text)
		}
		if op.Path != "" && (op.Path[0] != '/' || op.Want == 0) {
			t.Fatalf("%q: path %q, rights %d", text, op.Path, op.Want)
		}
		if op.Groups&^(1<<groupCount-1) != 0 {
			t.Fatalf("%q needs groups that there are not", text)
		}
		for _, n := range op.Needs {
			if n.Rights == 0 || !n.Class.All().Has(n.Rights) || n.Object == "" {
				t.Fatalf("%q needs %+v", text, n)
			}
		}
	})
}
