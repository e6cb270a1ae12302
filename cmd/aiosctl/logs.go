package main

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) logsCmd() *cobra.Command {
	var (
		req        apiv1.LogsRequest
		timestamps bool
	)
	cmd := &cobra.Command{
		Use:   "logs [flags] AGENT",
		Short: "Show what an agent wrote",
		Long: `Logs prints what an agent's processes wrote to their output and error, each to the
same stream here. With -f it goes on until the agent ends.`,
		Example: `  aiosctl logs web
  aiosctl logs -f --tail 20 web
  aiosctl logs --timestamps --stderr web`,
		Args: exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Agent = args[0]
			if req.TailLines < 0 {
				return usage(cmd, "--tail is negative")
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				stream, err := c.Logs(ctx, &req)
				if err != nil {
					return err
				}
				out, errOut := io.Writer(a.stdout), io.Writer(a.stderr)
				var stamps [2]stamper
				if timestamps {
					stamps = [2]stamper{{w: out}, {w: errOut}}
				}
				for {
					m, err := stream.Recv()
					if err == io.EOF {
						return nil
					}
					if err != nil {
						return a.suggest(ctx, c, err, req.Agent)
					}
					i, w := 0, out
					if m.GetStderr() {
						i, w = 1, errOut
					}
					if timestamps {
						stamps[i].at = m.GetTimeUnixNano()
						w = &stamps[i]
					}
					if _, err := w.Write(m.GetData()); err != nil {
						return err
					}
				}
			})
		},
		ValidArgsFunction: a.completeFirst(a.allAgents),
	}
	f := cmd.Flags()
	f.BoolVarP(&req.Follow, "follow", "f", false, "go on until the agent ends")
	f.Int64VarP(&req.TailLines, "tail", "n", 0, "only the last `N` lines (0: all that is kept)")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "put the time before each line")
	f.BoolVar(&req.Stdout, "stdout", false, "only standard output")
	f.BoolVar(&req.Stderr, "stderr", false, "only standard error")
	return cmd
}

// stamper writes the time at the start of every line.
type stamper struct {
	w      io.Writer
	at     int64
	inLine bool
}

func (s *stamper) Write(p []byte) (int, error) {
	var out bytes.Buffer
	for rest := p; len(rest) > 0; {
		if !s.inLine {
			out.WriteString(time.Unix(0, s.at).UTC().Format("2006-01-02T15:04:05.000000Z "))
		}
		line, after, found := bytes.Cut(rest, []byte{'\n'})
		out.Write(line)
		if found {
			out.WriteByte('\n')
		}
		s.inLine, rest = !found, after
	}
	_, err := s.w.Write(out.Bytes())
	return len(p), err
}
