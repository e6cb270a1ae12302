// Package ntpserver is a time server for tests: a small one that speaks SNTP
// (RFC 4330) on loopback, and can be told to lie, to dawdle, to be silent or to
// send a kiss of death.
package ntpserver

import (
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/ktime"
)

// Behaviour is what a server does. The zero value tells the time of its clock.
type Behaviour struct {
	// Offset is by how much it is off.
	Offset time.Duration
	// Slow is how long a request is under way to it, and Late how long the
	// answer is.
	Slow, Late time.Duration
	// Silent has it answer nothing.
	Silent bool
	// Kiss is what it sends instead of the time: RATE, DENY, RSTR.
	Kiss string
	// Stratum is 1 unless it says otherwise; Dispersion how uncertain it is.
	Stratum    uint8
	Dispersion time.Duration
	// Unsynchronised has it say that it does not know the time itself.
	Unsynchronised bool
}

// Server is a time server.
type Server struct {
	Addr  string
	conn  *net.UDPConn
	clock ktime.Clock

	mu    sync.Mutex
	b     Behaviour
	asked int
}

// Start starts a server that tells the time of a clock, until the test ends.
func Start(t testing.TB, clock ktime.Clock) *Server {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: conn.LocalAddr().String(), conn: conn, clock: clock}
	var done sync.WaitGroup
	done.Go(s.serve)
	t.Cleanup(func() {
		conn.Close()
		done.Wait()
	})
	return s
}

// Set changes what the server does.
func (s *Server) Set(b Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = b
}

// Asked returns how many requests came.
func (s *Server) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *Server) serve() {
	var buf [512]byte
	for {
		n, from, err := s.conn.ReadFromUDP(buf[:])
		if err != nil {
			return
		}
		s.mu.Lock()
		s.asked++
		b := s.b
		s.mu.Unlock()
		if n < packetSize || b.Silent {
			continue
		}
		arrived := s.clock.Now().Add(b.Slow)
		answer := s.answer(buf[:n], b, arrived)
		wait := make(chan struct{})
		ktime.Real.AfterFunc(b.Slow+b.Late, func() { close(wait) })
		<-wait
		s.conn.WriteToUDP(answer, from)
	}
}

const packetSize = 48

// answer is RFC 4330, section 4.
func (s *Server) answer(request []byte, b Behaviour, at time.Time) []byte {
	out := make([]byte, packetSize)
	leap, stratum, reference := byte(0), max(1, b.Stratum), "TEST"
	if b.Unsynchronised {
		leap = 3
	}
	if b.Kiss != "" {
		leap, stratum, reference = 3, 0, b.Kiss
	}
	version := request[0] >> 3 & 7
	out[0] = leap<<6 | version<<3 | 4 // a server
	out[1] = stratum
	out[2] = request[2]
	out[3] = 0xec // about a microsecond
	binary.BigEndian.PutUint32(out[8:], uint32(b.Dispersion.Seconds()*(1<<16)))
	copy(out[12:16], reference)
	told := at.Add(b.Offset)
	put(out[16:], told.Add(-time.Second)) // when it was set last
	copy(out[24:32], request[40:48])
	put(out[32:], told)
	put(out[40:], told)
	return out
}

// put writes a time stamp: seconds since 1900 and a fraction of one, 32 bits each.
func put(b []byte, t time.Time) {
	const since1900 = 2_208_988_800
	binary.BigEndian.PutUint32(b, uint32(t.Unix()+since1900))
	binary.BigEndian.PutUint32(b[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
}
