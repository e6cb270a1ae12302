package sink

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/filter"
	"aios.dev/aios/event/hub"
)

// Bounds and defaults of what is configured.
const (
	MaxSinks       = 64
	MaxBatch       = 1000
	DefaultBatch   = 100
	DefaultTimeout = 10 * time.Second
	maxTimeout     = 5 * time.Minute
	maxTopics      = 64
	maxSubject     = 256
)

// Config is what the configuration file says of a sink.
type Config struct {
	Name    string   `yaml:"name"`
	Webhook *Webhook `yaml:"webhook"`
	NATS    *NATS    `yaml:"nats"`
	// Which events, as `aiosctl events` chooses them.
	Topics   []string `yaml:"topics"`
	Filter   string   `yaml:"filter"`
	Severity string   `yaml:"severity"`
	Sample   float64  `yaml:"sample"`
	Rate     float64  `yaml:"rate"`
	// From is where a sink begins that is new: "now" or "oldest".
	From string `yaml:"from"`
	// Refused is what becomes of an event that the receiver does not want:
	// "wait" or "skip".
	Refused string `yaml:"refused"`
}

// SetDefaults implements config.Defaulter.
func (c *Config) SetDefaults() { c.From, c.Refused = "now", "wait" }

// Webhook is a receiver that speaks HTTP.
type Webhook struct {
	// URL, or a file that holds it.
	URL     string `yaml:"url" config:"secret"`
	URLFile string `yaml:"url_file"`
	// Mode is "structured", one event a request, or "batched", up to Batch.
	Mode  string `yaml:"mode"`
	Batch int    `yaml:"batch"`
	// SecretFile holds the key that requests are signed with, TokenFile what is
	// sent as bearer token.
	SecretFile string        `yaml:"secret_file"`
	TokenFile  string        `yaml:"token_file"`
	Timeout    time.Duration `yaml:"timeout"`
	TLS        `yaml:",inline"`
}

// SetDefaults implements config.Defaulter.
func (w *Webhook) SetDefaults() {
	w.Mode, w.Batch, w.Timeout = "structured", DefaultBatch, DefaultTimeout
}

// TLS is whom to trust, and who to be; both are files of PEM.
type TLS struct {
	CAFile   string `yaml:"ca_file"`
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// NATS is a receiver that is a NATS server, or a stream there.
type NATS struct {
	// Servers are URLs of one cluster.
	Servers []string `yaml:"servers"`
	// Subject is what events are published under; {topic} stands for theirs.
	Subject string `yaml:"subject"`
	// JetStream has a stream acknowledge each event; else the server does.
	JetStream bool `yaml:"jetstream"`
	Batch     int  `yaml:"batch"`
	// Credentials: one of a .creds file, a token, a user with a password, or the
	// seed of an NKey.
	CredentialsFile string        `yaml:"credentials_file"`
	TokenFile       string        `yaml:"token_file"`
	User            string        `yaml:"user"`
	PasswordFile    string        `yaml:"password_file"`
	NKeyFile        string        `yaml:"nkey_file"`
	Timeout         time.Duration `yaml:"timeout"`
	TLS             `yaml:",inline"`
}

// SetDefaults implements config.Defaulter.
func (n *NATS) SetDefaults() {
	n.Subject, n.Batch, n.Timeout = "aios.{topic}", DefaultBatch, DefaultTimeout
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

// ValidName reports whether a text can be the name of a sink.
func ValidName(s string) bool { return validName.MatchString(s) }

// bad is the error of a value that makes no sense.
func bad(detail, fix string) error {
	return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Fix("%s", fix))
}

// check refuses what makes no sense, whatever is in files, and names the key.
func (c *Config) check() (key string, err error) {
	switch {
	case !ValidName(c.Name):
		return "name", bad(fmt.Sprintf("%q is no name", c.Name), "give the sink a name of 1 to 63 letters, digits, dots, dashes and underscores")
	case (c.Webhook == nil) == (c.NATS == nil):
		return "", bad("it is not said what kind of receiver it has", "write either webhook or nats")
	case len(c.Topics) > maxTopics:
		return "topics", bad("there are too many", fmt.Sprintf("name at most %d, or patterns such as agent.*", maxTopics))
	case c.From != "now" && c.From != "oldest":
		return "from", bad(fmt.Sprintf("a sink does not begin at %q", c.From), "write now or oldest")
	case c.Refused != "wait" && c.Refused != "skip":
		return "refused", bad(fmt.Sprintf("%q is not what can become of an event", c.Refused), "write wait or skip")
	}
	if err := hub.Kept(c.Topics); err != nil {
		return "topics", err
	}
	if c.Severity != "" {
		if _, err := event.ParseSeverity(c.Severity); err != nil {
			return "severity", err
		}
	}
	if c.Sample != 0 {
		if _, err := filter.NewSampler(c.Sample); err != nil {
			return "sample", err
		}
	}
	if c.Rate != 0 {
		if _, err := filter.NewLimiter(c.Rate, 0, nil); err != nil {
			return "rate", err
		}
	}
	if c.Webhook != nil {
		key, err = c.Webhook.check()
		return "webhook" + dotted(key), err
	}
	key, err = c.NATS.check()
	return "nats" + dotted(key), err
}

func dotted(key string) string {
	if key == "" {
		return ""
	}
	return "." + key
}

func (w *Webhook) check() (key string, err error) {
	switch {
	case (w.URL == "") == (w.URLFile == ""):
		return "url", bad("it is not said where events go", "write url, or url_file if the URL is a secret")
	case w.Mode != "structured" && w.Mode != "batched":
		return "mode", bad(fmt.Sprintf("%q is no mode", w.Mode), "write structured, for one event a request, or batched")
	case w.Batch < 1 || w.Batch > MaxBatch:
		return "batch", badBatch(w.Batch)
	}
	if w.URL != "" {
		if _, err := webURL(w.URL, w.TokenFile != ""); err != nil {
			return "url", err
		}
	}
	if err := badTimeout(w.Timeout); err != nil {
		return "timeout", err
	}
	return w.TLS.check()
}

// webURL reads where a webhook leads. A token is not sent in the clear to
// another host.
func webURL(text string, token bool) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Host == "", u.Scheme != "http" && u.Scheme != "https":
		return nil, bad("it is no URL of http or https", "write for example https://alerts.example.com/aios")
	case u.User != nil:
		return nil, bad("it holds a user or a password", "put a token into a file, and name that as token_file")
	case u.Fragment != "":
		return nil, bad("it has a fragment, which is not sent", "leave the # and what follows out")
	case token && u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, bad("the token would be sent in the clear", "use https")
	}
	return u, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func badBatch(n int) error {
	return bad(fmt.Sprintf("%d events cannot be sent at once", n), fmt.Sprintf("write a number from 1 to %d", MaxBatch))
}

func badTimeout(d time.Duration) error {
	if d < time.Millisecond || d > maxTimeout {
		return bad("no receiver can be asked like this", "write a duration from 1ms to "+maxTimeout.String())
	}
	return nil
}

func (t *TLS) check() (key string, err error) {
	if (t.CertFile == "") != (t.KeyFile == "") {
		return "cert_file", bad("a certificate and its key belong together", "write both cert_file and key_file, or neither")
	}
	return "", nil
}

func (n *NATS) check() (key string, err error) {
	if len(n.Servers) == 0 || len(n.Servers) > maxTopics {
		return "servers", bad("it is not said where the servers are", "write servers: [nats://HOST:4222]")
	}
	for i, s := range n.Servers {
		u, err := url.Parse(s)
		key := fmt.Sprintf("servers[%d]", i)
		switch {
		case err != nil, u.Host == "", u.Scheme != "nats" && u.Scheme != "tls":
			return key, bad("it is no URL of a NATS server", "write for example nats://127.0.0.1:4222, or tls:// for encryption")
		case u.User != nil:
			return key, bad("it holds a user, a password or a token", "name files: token_file, or user and password_file")
		}
	}
	if err := checkSubject(n.Subject); err != nil {
		return "subject", err
	}
	if n.Batch < 1 || n.Batch > MaxBatch {
		return "batch", badBatch(n.Batch)
	}
	if err := badTimeout(n.Timeout); err != nil {
		return "timeout", err
	}
	if (n.User == "") != (n.PasswordFile == "") {
		return "user", bad("a user and a password belong together", "write both user and password_file, or neither")
	}
	ways := 0
	for _, w := range []string{n.CredentialsFile, n.TokenFile, n.PasswordFile, n.NKeyFile} {
		if w != "" {
			ways++
		}
	}
	if ways > 1 {
		return "", bad("there is more than one kind of credentials", "keep one of credentials_file, token_file, password_file and nkey_file")
	}
	return n.TLS.check()
}

// checkSubject refuses what NATS does not publish under.
func checkSubject(s string) error {
	plain := strings.ReplaceAll(s, "{topic}", "topic")
	if s == "" || len(s) > maxSubject || strings.ContainsAny(plain, "{}*> \t\r\n\x00") {
		return bad(fmt.Sprintf("nothing can be published under %q", s), "write words with dots between them, and {topic} for the topic of the event: aios.{topic}")
	}
	for _, token := range strings.Split(plain, ".") {
		if token == "" {
			return bad(fmt.Sprintf("nothing can be published under %q: between two dots there is nothing", s), "write aios.{topic}")
		}
	}
	return nil
}

// subject is what an event of a topic is published under.
func (n *NATS) subject(topic string) string { return strings.ReplaceAll(n.Subject, "{topic}", topic) }
