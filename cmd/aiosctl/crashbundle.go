package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) crashBundleCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "bundle DOMAIN",
		Short: "Dump the kernel process of a domain, which goes on",
		Long: `Bundle collects what tells about a domain's kernel process in one dump: the stacks of
all its goroutines, its agents, its log and what it wrote, recent events, configuration
and build. When a kernel process dies, such a dump is made by itself, with what the
process wrote last in place of the stacks.`,
		Example: "  aiosctl crash bundle default\n  aiosctl crash get -m goroutines.txt c2 - | less",
		Args:    exactly(1, "the domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.CrashBundle(ctx, &apiv1.CrashBundleRequest{Domain: args[0]})
				if err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, resp.GetCrash().GetId())
				return nil
			})
		},
		ValidArgsFunction: a.completeFirst(a.domainNames),
	}
}
