package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/kdb/gdbstub"
)

const (
	// readUsual is how much of memory is shown when it is not said, and memoryMost
	// how much can be shown or written at once, in bytes.
	readUsual  = 64
	memoryMost = 1 << 20
)

// memoryOptions is what `debug --read` or `--write` was asked for.
type memoryOptions struct {
	agent       string
	pid         int32
	read, write string
}

// memory reads or writes memory of an agent, which stands still meanwhile, as gdb
// does.
func (a *app) memory(cmd *cobra.Command, o memoryOptions) error {
	addr, n, data, err := o.parse()
	if err != nil {
		return err
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		d, err := c.Debug(ctx, o.agent, o.pid)
		if err != nil {
			return a.suggest(ctx, c, err, o.agent)
		}
		defer d.Close()
		g, _, err := gdbstub.Dial(d)
		if err != nil {
			return err
		}
		if len(g.Threads) == 0 {
			return errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", o.agent))
		}
		t := g.Threads[0]
		if data != nil {
			err = g.WriteMemory(t, addr, data)
		} else {
			data, err = g.ReadMemory(t, addr, n)
		}
		if gone := g.Detach(); err == nil {
			err = gone // It goes on by the time that this returns, whatever came of it.
		}
		if errdefs.CodeOf(err) == errdefs.InvalidArgument {
			return errdefs.Wrap(err, errdefs.InvalidArgument, "debug", errdefs.Fix("`aiosctl debug %s maps` shows what there is", o.agent))
		}
		if err != nil || o.write != "" {
			return err
		}
		a.printMemory(addr, data)
		if len(data) < n {
			fmt.Fprintf(a.stderr, "aiosctl: only %d of %d bytes are there\n", len(data), n)
		}
		return nil
	})
}

// parse reads ADDRESS[,LENGTH], or ADDRESS=HEX.
func (o memoryOptions) parse() (addr uint64, n int, data []byte, err error) {
	text, rest, more := strings.Cut(o.read, ",")
	if o.write != "" {
		text, rest, more = strings.Cut(o.write, "=")
	}
	addr, bad := strconv.ParseUint(text, 0, 64)
	n = readUsual
	switch {
	case o.write != "":
		if data, err = hex.DecodeString(strings.TrimPrefix(rest, "0x")); bad != nil || err != nil || !more || len(data) == 0 || len(data) > memoryMost {
			return 0, 0, nil, invalid("--write", o.write, "not an address and bytes", "write ADDRESS=BYTES, such as 0x4c9010=2a000000: up to 1 MiB in hexadecimal, in the order of memory")
		}
	default:
		if more && bad == nil {
			var long uint64
			long, bad = strconv.ParseUint(rest, 0, 32)
			n = int(long)
		}
		if bad != nil || n < 1 || n > memoryMost {
			return 0, 0, nil, invalid("--read", o.read, "not an address and a length", "write ADDRESS or ADDRESS,LENGTH, such as 0x4c9010,16; at most 1 MiB")
		}
	}
	return addr, n, data, nil
}

// printMemory shows bytes, and as text what is that.
func (a *app) printMemory(addr uint64, data []byte) {
	const wide = 16
	for at := 0; at < len(data); at += wide {
		row := data[at:min(at+wide, len(data))]
		text := make([]byte, len(row))
		for i, b := range row {
			if text[i] = b; b < ' ' || b > '~' {
				text[i] = '.'
			}
		}
		fmt.Fprintf(a.stdout, "%#014x  %-*s  %s\n", addr+uint64(at), 3*wide-1, fmt.Sprintf("% x", row), text)
	}
}
