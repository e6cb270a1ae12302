package sink

import (
	"context"
	"maps"
	"reflect"
	"slices"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/filter"
)

// Spec is a sink that can be started.
type Spec struct {
	cfg    Config
	files  files
	filter *filter.Filter
	floor  event.Severity
}

// Compile examines a configuration and reads the files that it names. If
// something is wrong, key says which value.
func (c *Config) Compile() (s *Spec, key string, err error) {
	if key, err := c.check(); err != nil {
		return nil, key, err
	}
	s = &Spec{cfg: *c, files: make(files)}
	if c.Filter != "" {
		if s.filter, err = filter.Compile(c.Filter); err != nil {
			return nil, "filter", err
		}
	}
	if c.Severity != "" {
		if s.floor, err = event.ParseSeverity(c.Severity); err != nil {
			return nil, "severity", err
		}
	}
	if c.Webhook != nil {
		key, err = s.readWebhook(c.Webhook)
		return s, "webhook" + dotted(key), err
	}
	key, err = s.readNATS(c.NATS)
	return s, "nats" + dotted(key), err
}

// Name is that of the sink.
func (s *Spec) Name() string { return s.cfg.Name }

// Same reports whether two sinks are the same in everything.
func (s *Spec) Same(o *Spec) bool {
	return reflect.DeepEqual(s.cfg, o.cfg) && maps.EqualFunc(s.files, o.files, slices.Equal[[]byte])
}

// kind is that of the receiver.
func (s *Spec) kind() string {
	if s.cfg.Webhook != nil {
		return "webhook"
	}
	return "nats"
}

// shown is where events go, as it may be told.
func (s *Spec) shown() string {
	if s.cfg.Webhook == nil {
		return shownServers(s.cfg.NATS.Servers)
	}
	text := s.cfg.Webhook.URL
	if text == "" {
		text = s.files.text("url_file")
	}
	u, err := webURL(text, false)
	if err != nil {
		return ""
	}
	return shownURL(u)
}

// batch is how many events are sent at once.
func (s *Spec) batch() int {
	switch {
	case s.cfg.NATS != nil:
		return s.cfg.NATS.Batch
	case s.cfg.Webhook.Mode == "batched":
		return s.cfg.Webhook.Batch
	}
	return 1
}

// message is an event on its way.
type message struct {
	id, topic string
	json      []byte
}

// target is where events go.
type target interface {
	// send hands events over, in this order. It returns nil when the receiver
	// has taken all of them, SINK_REFUSED when it will never take one of them,
	// and SINK_FAILED when it may take them later.
	send(ctx context.Context, batch []message) error
	// close ends the connection.
	close()
}

// target connects to the receiver, or begins to.
func (s *Spec) target() (target, error) {
	if s.cfg.Webhook != nil {
		return newWebhook(s)
	}
	return newNATS(s)
}

// failed is the error of a receiver that may take events later.
func failed(detail, fix string, opts ...errdefs.Option) error {
	return errdefs.New(errdefs.SinkFailed, detail, append(opts, errdefs.Fix("%s", fix))...)
}

// refused is the error of a receiver that does not want an event.
func refused(detail, fix string) error {
	return errdefs.New(errdefs.SinkRefused, detail, errdefs.Fix("%s", fix))
}
