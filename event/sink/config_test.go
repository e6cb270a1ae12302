package sink

import (
	"os"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
)

func TestCompileRefuses(t *testing.T) {
	short, empty := keep(t, "short", "x"), keep(t, "empty", "")
	open := keep(t, "open", "0123456789abcdef0123456789abcdef")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	const web = "name: s\nwebhook: {url: 'http://127.0.0.1'}\n"
	webhook := func(more string) string { return "name: s\nwebhook:\n  url: http://127.0.0.1\n  " + more }
	nats := func(more string) string { return "name: s\nnats:\n  servers: ['nats://127.0.0.1']\n  " + more }
	for _, tc := range []struct{ text, where, what string }{
		{"webhook: {url: 'http://x'}", "f:2:5: sinks[0].name", "no name"},
		{"name: 'a b'\nwebhook: {url: 'http://x'}", "f:2:11: sinks[0].name", "no name"},
		{"name: s", "f:2:5: sinks[0]", "webhook or nats"},
		{web + "nats: {servers: ['nats://x']}", "f:2:5: sinks[0]", "either webhook or nats"},
		{web + "topics: [file.open]", "f:4:13: sinks[0].topics", "not kept"},
		{web + "topics: [agnt.exit]", "f:4:13: sinks[0].topics", "no event has this topic"},
		{web + "filter: 'agent =='", "f:4:13: sinks[0].filter", "column"},
		{web + "filter: 'data.nothing == 1'", "f:4:13: sinks[0].filter", "no event has a field"},
		{web + "severity: loud", "f:4:15: sinks[0].severity", "no severity"},
		{web + "sample: 2", "f:4:13: sinks[0].sample", "share"},
		{web + "rate: -1", "f:4:11: sinks[0].rate", "limited"},
		{web + "from: yesterday", "f:4:11: sinks[0].from", "now or oldest"},
		{web + "refused: maybe", "f:4:14: sinks[0].refused", "wait or skip"},
		{"name: s\nwebhook: {mode: batched}", "f:3:14: sinks[0].webhook.url", "url_file"},
		{webhook("url_file: /x"), "f:4:12: sinks[0].webhook.url", "url_file"},
		{"name: s\nwebhook: {url: 'ftp://x'}", "f:3:20: sinks[0].webhook.url", "https"},
		{"name: s\nwebhook: {url: 'http://'}", "f:3:20: sinks[0].webhook.url", "https"},
		{"name: s\nwebhook: {url: 'https://me:pw@x'}", "sinks[0].webhook.url", "password"},
		{"name: s\nwebhook: {url: 'http://x.example', token_file: /t}", "sinks[0].webhook.url", "clear"},
		{webhook("mode: binary"), "f:5:13: sinks[0].webhook.mode", "structured"},
		{webhook("batch: 0"), "sinks[0].webhook.batch", "1 to 1000"},
		{webhook("timeout: 0s"), "sinks[0].webhook.timeout", "1ms to"},
		{webhook("timeout: 1h"), "sinks[0].webhook.timeout", "1ms to"},
		{webhook("secret_file: secret"), "f:5:20: sinks[0].webhook.secret_file", "not absolute"},
		{webhook("secret_file: /nothing/here"), "sinks[0].webhook.secret_file", "no such file"},
		{webhook("secret_file: /"), "sinks[0].webhook.secret_file", "not a file"},
		{webhook("secret_file: " + short), "sinks[0].webhook.secret_file", "too short"},
		{webhook("secret_file: " + empty), "sinks[0].webhook.secret_file", "empty"},
		{webhook("secret_file: " + open), "sinks[0].webhook.secret_file", "others can use"},
		{webhook("token_file: " + keep(t, "t", "two words")), "sinks[0].webhook.token_file", "blanks"},
		{"name: s\nwebhook: {url_file: " + keep(t, "u", "gopher://x") + "}", "sinks[0].webhook.url_file", "https"},
		{webhook("cert_file: /x"), "sinks[0].webhook.cert_file", "belong together"},
		{webhook("ca_file: " + short), "sinks[0].webhook.ca_file", "no certificate"},
		{webhook("cert_file: " + short + "\n  key_file: " + short), "sinks[0].webhook.cert_file", "PEM"},
		{"name: s\nnats: {subject: x}", "sinks[0].nats.servers", "nats://HOST"},
		{"name: s\nnats: {servers: ['http://x']}", "f:3:22: sinks[0].nats.servers[0]", "nats://"},
		{"name: s\nnats: {servers: ['nats://token@x']}", "sinks[0].nats.servers[0]", "token_file"},
		{nats("subject: 'a b'"), "sinks[0].nats.subject", "{topic}"},
		{nats("subject: 'a.>'"), "sinks[0].nats.subject", "published"},
		{nats("subject: 'a..b'"), "sinks[0].nats.subject", "between two dots"},
		{nats("subject: '{agent}'"), "sinks[0].nats.subject", "{topic}"},
		{nats("batch: 5000"), "sinks[0].nats.batch", "1000"},
		{nats("user: me"), "sinks[0].nats.user", "password_file"},
		{nats("token_file: /a\n  nkey_file: /b"), "f:4:7: sinks[0].nats", "keep one of"},
		{nats("credentials_file: " + short), "sinks[0].nats.credentials_file", "JWT"},
		{nats("nkey_file: " + short), "sinks[0].nats.nkey_file", "seed"},
	} {
		_, err := compile(tc.text)
		if errdefs.CodeOf(err) != errdefs.ConfigInvalid || !strings.Contains(err.Error(), tc.where) ||
			!strings.Contains(err.Error()+errdefs.FixOf(err), tc.what) || errdefs.FixOf(err) == "" {
			t.Errorf("%s\n  %v\n  fix: %s", tc.text, err, errdefs.FixOf(err))
		}
	}
}

func TestSame(t *testing.T) {
	secret := keep(t, "secret", "0123456789abcdef")
	text := "name: s\nwebhook: {url: 'http://127.0.0.1', secret_file: " + secret + "}"
	one := spec(t, text)
	if !one.Same(spec(t, text)) || one.Same(spec(t, text+"\nrate: 1")) {
		t.Error("Same does not know what is the same")
	}
	if err := os.WriteFile(secret, []byte("fedcba9876543210"), 0o600); err != nil {
		t.Fatal(err)
	}
	if one.Same(spec(t, text)) {
		t.Error("another secret is the same sink")
	}
}
