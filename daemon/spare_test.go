package daemon

import (
	"testing"
	"time"
)

// TestSpareIsAwaited: a daemon does not end while a kernel process is being started
// that nobody will want, or that would be left behind.
func TestSpareIsAwaited(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	s := &spares{on: true, start: func(string) (*spare, error) {
		close(begun)
		<-goOn
		return nil, nil
	}}
	go s.make()
	<-begun
	closed := make(chan struct{})
	go func() {
		s.close()
		close(closed)
	}()
	select {
	case <-closed:
		t.Error("it ended meanwhile")
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	<-closed
}
