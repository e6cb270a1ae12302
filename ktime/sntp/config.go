package sntp

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/errdefs"
)

// Config is what the configuration file says of time servers.
type Config struct {
	// Servers are host names or addresses, with :PORT unless that is 123.
	Servers []string `yaml:"servers"`
	// Interval is how often each is asked.
	Interval time.Duration `yaml:"interval"`
	// Step is the difference above which the clock is stepped, not slewed.
	Step time.Duration `yaml:"step"`
	// Limit is the offset to the host's clock above which nobody is believed.
	Limit time.Duration `yaml:"limit"`
}

// Bounds and defaults.
const (
	MaxServers      = 16
	DefaultInterval = 64 * time.Second
	DefaultStep     = 128 * time.Millisecond
	DefaultLimit    = time.Hour
	leastInterval   = 15 * time.Second // RFC 4330, section 10
	mostInterval    = 24 * time.Hour
	leastStep       = time.Millisecond
)

// SetDefaults implements config.Defaulter.
func (c *Config) SetDefaults() {
	c.Interval, c.Step, c.Limit = DefaultInterval, DefaultStep, DefaultLimit
}

// Spec is a Config that makes sense.
type Spec struct{ Config }

// Same reports whether s and o say the same.
func (s *Spec) Same(o *Spec) bool {
	return slices.Equal(s.Servers, o.Servers) && s.Interval == o.Interval && s.Step == o.Step && s.Limit == o.Limit
}

// Compile examines c. Of one that makes no sense it names the key.
func (c Config) Compile() (s *Spec, key string, err error) {
	bad := func(key, detail, fix string) (*Spec, string, error) {
		return nil, key, errdefs.New(errdefs.InvalidArgument, detail, errdefs.Fix("%s", fix))
	}
	if len(c.Servers) > MaxServers {
		return bad("servers", "there are too many", fmt.Sprintf("name at most %d; four that are independent are enough", MaxServers))
	}
	for i, name := range c.Servers {
		if !validServer(name) {
			return bad("servers", fmt.Sprintf("%q is no server", name), "write a host name or an address, with :PORT unless that is 123, and IPv6 in brackets then")
		}
		if slices.Contains(c.Servers[:i], name) {
			return bad("servers", name+" is there twice", "name each once: its word would count double")
		}
	}
	switch {
	case c.Interval < leastInterval || c.Interval > mostInterval:
		return bad("interval", "servers are asked neither so often nor so rarely", fmt.Sprintf("write from %v to %v", leastInterval, mostInterval))
	case c.Step < leastStep:
		return bad("step", "no network is so exact", fmt.Sprintf("write at least %v", leastStep))
	case c.Limit < c.Step:
		return bad("limit", "it is less than what is stepped", "write more, such as 1h")
	}
	return &Spec{c}, "", nil
}

// validServer reports whether s is a host, or one with a port.
func validServer(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host = s
	} else if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return false
	}
	if net.ParseIP(host) != nil {
		return true
	}
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		bad := func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		}
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, bad) {
			return false
		}
	}
	return true
}
