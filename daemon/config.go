package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event/alert"
	"aios.dev/aios/event/journal"
	"aios.dev/aios/event/sink"
	"aios.dev/aios/klog"
	"aios.dev/aios/ktime/sntp"
	"aios.dev/aios/lifecycle"
)

// configVersion is that of the schema below. A file names the one it was
// written for.
const configVersion = 1

// Config is what the configuration file can say.
type Config struct {
	Version int                `yaml:"version"`
	Log     LogConfig          `yaml:"log"`
	Journal JournalConfig      `yaml:"journal"`
	Sinks   []sink.Config      `yaml:"sinks"`
	Alerts  []alert.Config     `yaml:"alerts"`
	Time    *sntp.Config       `yaml:"time"`
	Hooks   []lifecycle.Config `yaml:"hooks"`
	Domains DomainsConfig      `yaml:"domains"`
}

// DomainsConfig is how domains are started.
type DomainsConfig struct {
	// Spare says whether a kernel process is kept ready for the next domain: on, or
	// off; "" is on.
	Spare string `yaml:"spare" config:"restart"`
}

// LogConfig is how the daemon and its kernel processes log, unless the
// environment says otherwise.
type LogConfig struct {
	Format string `yaml:"format" config:"restart"`
	Levels string `yaml:"levels" config:"restart"`
}

// JournalConfig bounds the journal of events; zero stands for the journal's
// own bounds.
type JournalConfig struct {
	Size config.Size   `yaml:"size" config:"restart"`
	Age  time.Duration `yaml:"age" config:"restart"`
}

// Least bounds of the journal.
const (
	leastJournal    = 2 * journal.SegmentBytes
	leastJournalAge = time.Minute
)

// settings are a configuration that was read and examined.
type settings struct {
	Config
	exists bool // there is a file
	sinks  []*sink.Spec
	alerts []*alert.Rule
	time   *sntp.Spec // nil: no servers
	hooks  []hookSpec
}

// CheckConfig reads the configuration file as a daemon does, and says what is
// wrong with it. It reports whether there is one.
func CheckConfig(paths config.Paths) (exists bool, err error) {
	s, err := readSettings(paths)
	return s != nil && s.exists, err
}

// readSettings reads the configuration file and examines all of it; it changes
// nothing.
func readSettings(paths config.Paths) (*settings, error) {
	s := new(settings)
	if paths.Config == "" {
		return s, nil
	}
	doc, err := config.ReadFile(paths.Config)
	if errors.Is(err, fs.ErrNotExist) && !paths.ConfigNamed {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := doc.Decode(&s.Config); err != nil {
		return nil, err
	}
	s.exists = true
	if err := s.examine(doc); err != nil {
		return nil, err
	}
	return s, nil
}

// examine refuses values that make no sense.
func (s *settings) examine(doc *config.Document) error {
	bad := func(key, detail, fix string) error {
		return doc.Fail(key, errdefs.New(errdefs.InvalidArgument, detail, errdefs.Fix("%s", fix)))
	}
	switch {
	case !doc.Has("version"):
		return bad("version", "the file does not say for which version of the schema it was written", fmt.Sprintf("begin it with the line version: %d", configVersion))
	case s.Version != configVersion:
		return bad("version", fmt.Sprintf("this release reads version %d, not %d", configVersion, s.Version), "run the release that the file was written for, or rewrite the file")
	case s.Log.Format != "" && s.Log.Format != "text" && s.Log.Format != "json":
		return bad("log.format", fmt.Sprintf("%q is no format of a log", s.Log.Format), "write text or json")
	case s.Journal.Size != 0 && s.Journal.Size < leastJournal:
		return bad("journal.size", "less than two files of the journal", "give at least 16M")
	case s.Journal.Age != 0 && s.Journal.Age < leastJournalAge:
		return bad("journal.age", "events would be gone before anybody can read them", "give at least 1m")
	case s.Domains.Spare != "" && s.Domains.Spare != "on" && s.Domains.Spare != "off":
		return bad("domains.spare", fmt.Sprintf("%q is neither on nor off", s.Domains.Spare), "write on or off")
	}
	if _, err := klog.ParseSettings(s.Log.Levels); err != nil {
		return doc.Fail("log.levels", err)
	}
	if err := s.compileSinks(doc); err != nil {
		return err
	}
	if err := s.compileAlerts(doc); err != nil {
		return err
	}
	if err := s.compileHooks(doc); err != nil {
		return err
	}
	return s.compileTime(doc)
}

// logging is how to log: what the environment says counts before the file.
func (s *settings) logging(h config.Host) (config.Log, error) {
	l, err := h.ResolveLog()
	if err != nil {
		return l, err
	}
	if h.Getenv(config.LogFormatEnv) == "" {
		l.JSON = s.Log.Format == "json"
	}
	if l.Levels == "" {
		l.Levels = s.Log.Levels
	}
	return l, nil
}
