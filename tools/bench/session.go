package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"google.golang.org/grpc"

	apiv1 "aios.dev/aios/api/v1"
)

// speaker is a program in a box, which reads lines and writes lines.
type speaker interface {
	send(line string) error
	// line returns the next line; ok is false when the program has ended.
	line() (line string, ok bool, err error)
	// close ends the program by the end of its input, unless it has ended.
	close()
}

// ask sends a line and returns the answer.
func ask(s speaker, line string) (string, error) {
	if err := s.send(line); err != nil {
		return "", err
	}
	answer, ok, err := s.line()
	if err == nil && !ok {
		err = fmt.Errorf("the program ended instead of answering %q", line)
	}
	return answer, err
}

// expect sends a line, to which there is one right answer.
func expect(s speaker, line, want string) error {
	answer, err := ask(s, line)
	if err == nil && answer != want {
		err = fmt.Errorf("the answer to %q is %q, not %q", line, answer, want)
	}
	return err
}

// drain reads to the program's end.
func drain(s speaker) {
	for {
		if _, ok, err := s.line(); err != nil || !ok {
			return
		}
	}
}

// agentSpeaker is one in an agent.
type agentSpeaker struct {
	id     string
	stream grpc.BidiStreamingClient[apiv1.AttachRequest, apiv1.AttachResponse]
	cancel context.CancelFunc
	rest   string // what was read beyond a line
	ended  bool
}

// converse starts an agent to speak with.
func (s *system) converse(ctx context.Context, spec *apiv1.SpawnRequest) (*agentSpeaker, error) {
	spec.Process.Stdin = true
	ctx, cancel := context.WithCancel(ctx)
	stream, err := s.Attach(ctx)
	if err == nil {
		err = stream.Send(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Spawn{Spawn: spec}})
	}
	var first *apiv1.AttachResponse
	if err == nil {
		first, err = stream.Recv()
	}
	if err == nil && first.GetStarted() == nil {
		err = fmt.Errorf("an agent's stream began with %v", first)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &agentSpeaker{id: first.GetStarted().GetId(), stream: stream, cancel: cancel}, nil
}

func (a *agentSpeaker) send(line string) error {
	return a.stream.Send(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Stdin{Stdin: []byte(line + "\n")}})
}

func (a *agentSpeaker) line() (string, bool, error) {
	var complaint strings.Builder
	for {
		if before, after, found := strings.Cut(a.rest, "\n"); found {
			a.rest = after
			return before, true, nil
		}
		m, err := a.stream.Recv()
		if err != nil {
			return "", false, err
		}
		switch m := m.Msg.(type) {
		case *apiv1.AttachResponse_Stdout:
			a.rest += string(m.Stdout)
		case *apiv1.AttachResponse_Stderr:
			complaint.Write(m.Stderr)
		case *apiv1.AttachResponse_Detached:
			return "", false, fmt.Errorf("cut off: %s", m.Detached)
		case *apiv1.AttachResponse_Exit:
			a.ended = true
			if complaint.Len() > 0 {
				return "", false, fmt.Errorf("the program ended: %s", firstLine(complaint.String()))
			}
			return "", false, nil
		}
	}
}

func (a *agentSpeaker) close() {
	if !a.ended && a.stream.Send(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_StdinClosed{StdinClosed: true}}) == nil {
		drain(a)
	}
	a.cancel()
}

// processSpeaker is one in a peer's box.
type processSpeaker struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	discard func()
	ended   bool
}

// converse starts a box to speak with.
func (p *peer) converse(ctx context.Context, b box) (*processSpeaker, error) {
	b.group = fmt.Sprint("-", p.serial.Load())
	cmd, discard, err := p.command(ctx, b)
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &processSpeaker{cmd: cmd, in: in, out: bufio.NewReader(out), discard: discard}, cmd.Start()
}

func (p *processSpeaker) send(line string) error {
	_, err := io.WriteString(p.in, line+"\n")
	return err
}

func (p *processSpeaker) line() (string, bool, error) {
	line, err := p.out.ReadString('\n')
	switch {
	case err == io.EOF:
		if !p.ended {
			p.ended = true
			p.cmd.Wait() // How it ended does not matter.
		}
		return "", false, nil
	case err != nil:
		return "", false, err
	}
	return strings.TrimSuffix(line, "\n"), true, nil
}

func (p *processSpeaker) close() {
	p.in.Close()
	drain(p)
	p.discard()
}

// pace is what the steady program says of a while.
type pace struct {
	count    float64 // pieces of work done
	p50, p99 float64 // nanoseconds that one took
}

func parsePace(line string) (p pace, err error) {
	if _, err = fmt.Sscanf(line, "%g %g %g", &p.count, &p.p50, &p.p99); err != nil || p.count == 0 {
		return p, fmt.Errorf("a steady program answers %q", line)
	}
	return p, nil
}

// paceOf lets the steady program work for so many milliseconds.
func paceOf(s speaker, ms int) (pace, error) {
	line, err := ask(s, fmt.Sprint(ms))
	if err != nil {
		return pace{}, err
	}
	return parsePace(line)
}
