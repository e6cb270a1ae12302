package client

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

func TestJoinCarriesStreamsAndStatus(t *testing.T) {
	for _, tc := range []struct {
		code, signal int32
		want         int
	}{{0, 0, 0}, {3, 0, 3}, {255, 0, 255}, {0, 9, 137}, {0, 15, 143}} {
		f := serve(t, func(s serverStream) error {
			if err := begin(s, false); err != nil {
				return err
			}
			in, err := input(s)
			if err != nil {
				return err
			}
			s.Send(output(strings.ToUpper(string(in))))
			s.Send(&apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Stderr{Stderr: []byte("warned")}})
			return s.Send(exit(tc.code, tc.signal))
		})
		var out, errOut bytes.Buffer
		text := strings.Repeat("some input\n", 40_000)
		o, err := f.dial(t).Join(within(t), spawn("tr"), Streams{Stdin: strings.NewReader(text), Stdout: &out, Stderr: &errOut})
		if err != nil {
			t.Fatal(err)
		}
		if o.Status() != tc.want || out.String() != strings.ToUpper(text) || errOut.String() != "warned" {
			t.Errorf("status %d, want %d; %d bytes out, error output %q", o.Status(), tc.want, out.Len(), errOut.String())
		}
		if o.Started.GetId() != "a000000000001" {
			t.Errorf("started as %v", o.Started)
		}
	}
}

func TestInputWaitsForAProcessThatDoesNotRead(t *testing.T) {
	in := new(endless)
	f := serve(t, func(s serverStream) error {
		if err := begin(s, false); err != nil {
			return err
		}
		for last := -1; last != in.taken(); time.Sleep(100 * time.Millisecond) {
			last = in.taken()
		}
		return s.Send(exit(0, 0))
	})
	if _, err := f.dial(t).Join(within(t), spawn("sleep"), Streams{Stdin: in, Stdout: io.Discard, Stderr: io.Discard}); err != nil {
		t.Fatal(err)
	}
	if n := in.taken(); n == 0 || n > 2<<20 {
		t.Errorf("%d bytes were taken of an input that the process never read", n)
	}
}

// raise sends a signal to this process, which Join must catch.
func raise(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := unix.Kill(os.Getpid(), sig); err != nil {
		t.Fatal(err)
	}
}

func TestSignalsPassAJammedStream(t *testing.T) {
	in := new(endless)
	var f *scripted
	f = serve(t, func(s serverStream) error {
		if err := begin(s, false); err != nil {
			return err
		}
		for last := -1; last != in.taken(); time.Sleep(50 * time.Millisecond) {
			last = in.taken()
		}
		raise(t, unix.SIGUSR1)
		r := <-f.signals
		if r.Agent != "a000000000001" || r.ExecId != 3 || r.Signal != int32(unix.SIGUSR1) {
			t.Errorf("got %v", r)
		}
		return s.Send(exit(0, int32(unix.SIGUSR1)))
	})
	o, err := f.dial(t).Join(within(t), spawn("sleep"), Streams{Stdin: in, Stdout: io.Discard, Stderr: io.Discard, ForwardSignals: true})
	if err != nil || o.Status() != 138 {
		t.Errorf("status %d, %v", o.Status(), err)
	}
}

func TestAnInterruptBeforeTheStartGivesUp(t *testing.T) {
	gone := make(chan struct{})
	f := serve(t, func(s serverStream) error {
		defer close(gone)
		if _, err := s.Recv(); err != nil {
			return err
		}
		raise(t, unix.SIGINT)
		<-s.Context().Done()
		return s.Context().Err()
	})
	o, err := f.dial(t).Join(within(t), spawn("x"), Streams{Stdout: io.Discard, Stderr: io.Discard, ForwardSignals: true})
	if err != nil || o.Status() != 130 || o.Started != nil {
		t.Errorf("%+v, %v", o, err)
	}
	<-gone // The daemon has been told.
}

func TestInsistingLeavesAProcessThatDoesNotReact(t *testing.T) {
	var f *scripted
	f = serve(t, func(s serverStream) error {
		if err := begin(s, false); err != nil {
			return err
		}
		input(s) // From here on the client knows that the process runs.
		for range insist {
			raise(t, unix.SIGINT)
			if r := <-f.signals; r.Signal != int32(unix.SIGINT) {
				t.Errorf("got %v", r)
			}
		}
		<-s.Context().Done()
		return nil
	})
	o, err := f.dial(t).Join(within(t), spawn("x"), Streams{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, ForwardSignals: true})
	if err != nil || o.Signal != unix.SIGINT || o.Exit != nil || o.Started == nil {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestABrokenOutputIsToldToAnOwnedProcess(t *testing.T) {
	f := serve(t, func(s serverStream) error {
		if err := begin(s, false); err != nil {
			return err
		}
		s.Send(output("nobody reads this"))
		for {
			m, err := s.Recv()
			if err != nil {
				return err
			}
			if m.GetOutputClosed() == 1 {
				return s.Send(exit(0, int32(unix.SIGPIPE)))
			}
		}
	})
	o, err := f.dial(t).Join(within(t), spawn("yes"), Streams{Stdout: brokenPipe(t), Stderr: io.Discard, Own: true})
	if err != nil || o.Status() != 141 {
		t.Errorf("status %d, %v", o.Status(), err)
	}
}

func TestABrokenOutputReachesAnOwnedProcessBesideAJammedStream(t *testing.T) {
	in := new(endless)
	var f *scripted
	f = serve(t, func(s serverStream) error {
		if err := begin(s, false); err != nil {
			return err
		}
		for last := -1; last != in.taken(); time.Sleep(50 * time.Millisecond) {
			last = in.taken()
		}
		s.Send(output("nobody reads this"))
		r := <-f.signals
		return s.Send(exit(0, r.Signal))
	})
	o, err := f.dial(t).Join(within(t), spawn("yes"), Streams{Stdin: in, Stdout: brokenPipe(t), Stderr: io.Discard, Own: true})
	if err != nil || o.Status() != 141 {
		t.Errorf("status %d, %v", o.Status(), err)
	}
}

func TestABrokenOutputCutsAnAttach(t *testing.T) {
	f := serve(t, func(s serverStream) error {
		if err := begin(s, false); err != nil {
			return err
		}
		s.Send(output("nobody reads this"))
		<-s.Context().Done()
		return nil
	})
	o, err := f.dial(t).Join(within(t), spawn("x"), Streams{Stdout: brokenPipe(t), Stderr: io.Discard})
	if err != nil || o.Status() != 141 || o.Exit != nil {
		t.Errorf("%+v, %v", o, err)
	}
}

// full is a device without space.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, unix.ENOSPC }

func TestAFullOutputIsAnError(t *testing.T) {
	f := serve(t, func(s serverStream) error {
		if err := begin(s, false); err != nil {
			return err
		}
		s.Send(output("x"))
		return s.Send(exit(0, 0))
	})
	_, err := f.dial(t).Join(within(t), spawn("x"), Streams{Stdout: full{}, Stderr: io.Discard, Own: true})
	if errdefs.CodeOf(err) != errdefs.HostIO || !strings.Contains(err.Error(), "standard output") {
		t.Errorf("got %v", err)
	}
}

func TestADaemonThatDiesLeavesTheAgent(t *testing.T) {
	var f *scripted
	f = serve(t, func(s serverStream) error {
		if err := begin(s, false); err != nil {
			return err
		}
		input(s) // From here on the client knows that the process runs.
		go f.grpc.Stop()
		<-s.Context().Done()
		return s.Context().Err()
	})
	o, err := f.dial(t).Join(within(t), spawn("x"), Streams{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
	if errdefs.CodeOf(err) != errdefs.DaemonUnreachable || !strings.Contains(err.Error(), "goes on running") ||
		!strings.Contains(errdefs.FixOf(err), "aiosctl attach a000000000001") {
		t.Errorf("%+v, %v; fix: %s", o, err, errdefs.FixOf(err))
	}
}

func TestJoinRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		attach func(serverStream) error
		want   errdefs.Code
	}{
		"refused": {func(s serverStream) error {
			s.Recv()
			return errdefs.New(errdefs.ProgramNotFound, "no such program")
		}, errdefs.ProgramNotFound},
		"ended without a word": {func(s serverStream) error { s.Recv(); return nil }, errdefs.Protocol},
		"started twice": {func(s serverStream) error {
			begin(s, false)
			s.Send(started(false))
			<-s.Context().Done()
			return nil
		}, errdefs.Protocol},
		"domain died": {func(s serverStream) error {
			begin(s, false)
			return errdefs.New(errdefs.DomainDied, "its kernel is gone")
		}, errdefs.DomainDied},
	} {
		_, err := serve(t, tc.attach).dial(t).Join(within(t), spawn("x"), Streams{Stdout: io.Discard, Stderr: io.Discard})
		if errdefs.CodeOf(err) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheDaemonMayCutTheStreams(t *testing.T) {
	f := serve(t, func(s serverStream) error {
		begin(s, false)
		return s.Send(&apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Detached{Detached: "another client took over"}})
	})
	o, err := f.dial(t).Join(within(t), spawn("x"), Streams{Stdout: io.Discard, Stderr: io.Discard})
	if errdefs.CodeOf(err) != errdefs.WrongState || !strings.Contains(err.Error(), "another client took over; the agent goes on") || errdefs.FixOf(err) == "" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestACancelledJoinReturns(t *testing.T) {
	ctx, cancel := context.WithCancel(within(t))
	f := serve(t, func(s serverStream) error {
		begin(s, false)
		cancel()
		<-s.Context().Done()
		return nil
	})
	if _, err := f.dial(t).Join(ctx, spawn("x"), Streams{Stdout: io.Discard, Stderr: io.Discard}); err == nil {
		t.Error("no error")
	}
}

func TestExecDetached(t *testing.T) {
	f := serve(t, func(s serverStream) error {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if e := m.GetExec(); !e.GetDetach() || e.GetAgent() != "web" {
			t.Errorf("got %v", m)
		}
		return s.Send(started(false))
	})
	info, err := f.dial(t).Exec(within(t), &apiv1.ExecRequest{Agent: "web"})
	if err != nil || info.GetExecId() != 3 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestDetachKeys(t *testing.T) {
	const p, q = "\x10", "\x11"
	for _, tc := range []struct {
		typed  []string
		passed string
		detach bool
	}{
		{[]string{"abc"}, "abc", false},
		{[]string{"a" + p + q + "b"}, "a", true},
		{[]string{"a" + p, q}, "a", true},
		{[]string{p, "x"}, p + "x", false},
		{[]string{p, p, q}, p, true},
		{[]string{q + p + "a" + p}, q + p + "a", false},
		{[]string{p + p + p + "z"}, p + p + p + "z", false},
	} {
		var k detachKeys
		var got []byte
		detach := false
		for _, chunk := range tc.typed {
			var out []byte
			out, detach = k.scan([]byte(chunk))
			got = append(got, out...)
		}
		if string(got) != tc.passed || detach != tc.detach {
			t.Errorf("%q: passed %q, detach %v", tc.typed, got, detach)
		}
	}
}
