package ctlfs

import "strings"

func (s *session) hint() ([]byte, error) {
	hint, err := s.auth.Hint(s.agent)
	return []byte(hint + "\n"), err
}

// orderHint carries out what was written to the file.
func (s *session) orderHint(text string) error {
	return s.auth.SetHint(s.agent, strings.TrimSuffix(text, "\n"))
}
