package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/config"
)

// system is an AIOS of the harness's own: a daemon with a fresh state
// directory.
type system struct {
	h     *harness
	paths config.Paths
	*client.Client
}

// startSystem starts the daemon.
func startSystem(h *harness) (*system, error) {
	paths, err := config.Resolve(filepath.Join(h.dir, "state"))
	if err != nil {
		return nil, err
	}
	s := &system{h: h, paths: paths}
	s.Client, err = s.dial(h.ctx)
	return s, err
}

// dial opens a connection, and starts the daemon when it does not run.
func (s *system) dial(ctx context.Context) (*client.Client, error) {
	c, err := client.Dial(ctx, client.Options{Paths: s.paths, Daemon: filepath.Join(s.h.bin, "aiosd")})
	if err != nil {
		return nil, err
	}
	// The first call completes the handshake, which is no part of any figure.
	if _, err := c.Version(ctx, &apiv1.VersionRequest{}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// stop ends the daemon and its domains and waits until they are gone.
func (s *system) stop() error {
	// The harness's own context may be cancelled already.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.h.ctx), 30*time.Second)
	defer cancel()
	defer s.Close()
	pids, err := s.pids(ctx)
	if err == nil {
		_, err = s.Shutdown(ctx, &apiv1.ShutdownRequest{StopDomains: true})
	}
	if err != nil {
		return errors.Join(err, s.kill())
	}
	for _, pid := range pids {
		for running(pid) {
			if ctx.Err() != nil {
				return fmt.Errorf("process %d did not end", pid)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// kill ends a daemon that no longer answers, and all that it started.
func (s *system) kill() error {
	text, err := os.ReadFile(s.paths.LockFile)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", s.paths.LockFile, err)
	}
	all, err := family([]int{pid})
	for _, p := range all {
		syscall.Kill(p, syscall.SIGKILL) // It may have ended by itself.
	}
	return err
}

// restart ends the daemon, calls between while none runs, and connects anew.
func (s *system) restart(between func() error) error {
	if err := s.stop(); err != nil {
		return err
	}
	err := between()
	c, dialErr := s.dial(s.h.ctx)
	if dialErr == nil {
		s.Client = c
	}
	return errors.Join(err, dialErr)
}

// pids returns the daemon's process and those of its domains.
func (s *system) pids(ctx context.Context) ([]int, error) {
	v, err := s.Version(ctx, &apiv1.VersionRequest{})
	if err != nil {
		return nil, err
	}
	pids := []int{int(v.Pid)}
	domains, err := s.DomainList(ctx, &apiv1.DomainListRequest{})
	if err != nil {
		return nil, err
	}
	for _, d := range domains.Domains {
		pids = append(pids, int(d.Pid))
	}
	return pids, nil
}

// importRoot makes an image of a root.
func (s *system) importRoot(ctx context.Context, name string, r *root) error {
	stream, err := s.ImageImport(ctx, &apiv1.ImageImportRequest{Name: name, Source: r.dir})
	if err != nil {
		return err
	}
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// spec is an agent of an image that leaves nothing behind.
func (s *system) spec(image string, argv ...string) *apiv1.SpawnRequest {
	return &apiv1.SpawnRequest{
		Image:    image,
		Platform: s.h.platform,
		Remove:   true,
		Process:  &apiv1.Process{Argv: argv, Env: environment},
	}
}

// attached runs an agent to its end with its streams joined to the caller, and
// returns what it printed.
func attached(ctx context.Context, c *client.Client, spec *apiv1.SpawnRequest) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // Ends the stream on every way out.
	stream, err := c.Attach(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Spawn{Spawn: spec}}); err != nil {
		return nil, err
	}
	var out, errs []byte
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		switch m := m.Msg.(type) {
		case *apiv1.AttachResponse_Stdout:
			out = append(out, m.Stdout...)
		case *apiv1.AttachResponse_Stderr:
			errs = append(errs, m.Stderr...)
		case *apiv1.AttachResponse_Detached:
			return nil, fmt.Errorf("cut off: %s", m.Detached)
		case *apiv1.AttachResponse_Exit:
			if m.Exit.Code != 0 || m.Exit.Signal != 0 {
				return nil, fmt.Errorf("the agent ended with status %d, signal %d: %s", m.Exit.Code, m.Exit.Signal, errs)
			}
			return out, nil
		}
	}
}

// cli runs aiosctl against this system, as a user would.
func (s *system) cli(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.h.bin, "aiosctl"), args...)
	cmd.Env = append(os.Environ(), config.StateDirEnv+"="+s.paths.StateDir)
	return output(ctx, cmd)
}
