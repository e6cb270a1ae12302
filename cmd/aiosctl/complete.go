package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

// completeTimeout bounds what pressing TAB may wait for.
const completeTimeout = time.Second

// lister asks a running daemon for names.
type lister func(context.Context, *client.Client) ([]string, error)

func (a *app) names(l lister) []string {
	ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
	defer cancel()
	c, err := a.dial(ctx, true) // Pressing TAB starts no daemon.
	if err != nil {
		return nil
	}
	defer c.Close()
	names, err := l(ctx, c)
	if err != nil {
		return nil
	}
	return names
}

// complete offers names for every argument, each once.
func (a *app) complete(l lister) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for _, n := range a.names(l) {
			if strings.HasPrefix(n, prefix) && !slices.Contains(args, n) {
				out = append(out, n)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFirst offers names for the first argument only.
func (a *app) completeFirst(l lister) cobra.CompletionFunc {
	each := a.complete(l)
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return each(cmd, args, prefix)
	}
}

func (a *app) completeFlag(cmd *cobra.Command, flag string, l lister) {
	// It fails only for a flag that does not exist, which help tests notice.
	_ = cmd.RegisterFlagCompletionFunc(flag, a.complete(l))
}

func (a *app) allAgents(ctx context.Context, c *client.Client) ([]string, error) {
	return agentNames(ctx, c, true)
}

func (a *app) runningAgents(ctx context.Context, c *client.Client) ([]string, error) {
	return agentNames(ctx, c, false)
}

func agentNames(ctx context.Context, c *client.Client, all bool) ([]string, error) {
	resp, err := c.List(ctx, &apiv1.ListRequest{All: all})
	var out []string
	for _, g := range resp.GetAgents() {
		if g.GetName() != "" {
			out = append(out, g.GetName())
		} else {
			out = append(out, g.GetId())
		}
	}
	return out, err
}

func (a *app) imageNames(ctx context.Context, c *client.Client) ([]string, error) {
	resp, err := c.ImageList(ctx, &apiv1.ImageListRequest{})
	var out []string
	for _, i := range resp.GetImages() {
		out = append(out, i.GetName())
	}
	return out, err
}

func (a *app) domainNames(ctx context.Context, c *client.Client) ([]string, error) {
	resp, err := c.DomainList(ctx, &apiv1.DomainListRequest{})
	var out []string
	for _, d := range resp.GetDomains() {
		out = append(out, d.GetName())
	}
	return out, err
}
