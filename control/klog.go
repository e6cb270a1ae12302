package control

import "aios.dev/aios/klog"

// MethodKlogLevels changes the levels of a kernel process' log, and asks for
// those of all its subsystems: KlogLevels in, KlogLevels out.
const MethodKlogLevels = "klog.levels"

// KlogLevels is levels of subsystems.
type KlogLevels struct {
	Levels []KlogLevel `json:"levels,omitempty"`
}

// KlogLevel is the level of a subsystem, by name, and what it has logged.
type KlogLevel struct {
	Subsystem  string `json:"subsystem"`
	Level      string `json:"level"`
	Written    uint64 `json:"written,omitempty"`
	Suppressed uint64 `json:"suppressed,omitempty"`
}

// KlogEnded is the last message of a kernel process that ended because it was
// asked to. A log that ends otherwise is that of a crash.
const KlogEnded = "the domain ends"

// SetKlogLevels changes levels of l and returns those of all its subsystems.
// What is wrong with one of them leaves all as they were.
func SetKlogLevels(l *klog.Log, set KlogLevels) (KlogLevels, error) {
	settings := make([]klog.Setting, len(set.Levels))
	for i, s := range set.Levels {
		level, err := klog.ParseLevel(s.Level)
		if err != nil {
			return KlogLevels{}, err
		}
		settings[i] = klog.Setting{Subsystem: s.Subsystem, Level: level}
	}
	if err := l.SetLevels(settings...); err != nil {
		return KlogLevels{}, err
	}
	var out KlogLevels
	for _, s := range l.Subsystems() {
		out.Levels = append(out.Levels, KlogLevel{s.Name, klog.LevelName(s.Level), s.Written, s.Suppressed})
	}
	return out, nil
}
