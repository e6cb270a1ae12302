package config

import (
	"strconv"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/klog"
)

// Environment variables of the daemon about logs. The kernel processes that it
// starts have the same settings.
const (
	LogFormatEnv = "AIOS_LOG_FORMAT" // "text" or "json": of what is written to files
	LogLevelEnv  = "AIOS_LOG_LEVEL"  // SUBSYSTEM=LEVEL,…
)

// Log is how the daemon and its kernel processes log.
type Log struct {
	JSON   bool
	Levels string // as klog.ParseSettings reads them
}

// ResolveLog reads the settings from the environment.
func (h Host) ResolveLog() (Log, error) {
	l := Log{Levels: h.Getenv(LogLevelEnv)}
	switch f := h.Getenv(LogFormatEnv); f {
	case "", "text":
	case "json":
		l.JSON = true
	default:
		return l, errdefs.New(errdefs.ConfigInvalid, "it is no format of a log", errdefs.Op("read "+LogFormatEnv), errdefs.Resource("%s", strconv.Quote(f)),
			errdefs.Fix("set it to text or json, or leave it out"))
	}
	if _, err := klog.ParseSettings(l.Levels); err != nil {
		return l, errdefs.Wrap(err, errdefs.ConfigInvalid, "read "+LogLevelEnv)
	}
	return l, nil
}
