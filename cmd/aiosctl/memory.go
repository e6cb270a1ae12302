package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) memoryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "memory",
		Short: "What agents remember: search, read, write and remove items of semantic memory",
		Long: `Memory shows and changes semantic memory: items with a text, a vector and tags in namespaces, which agents
that hold a capability of class semantic reach at /aios/semantic.sock. They outlive their agents.`,
		Example: `  aiosctl memory put notes "the cat sleeps on the keyboard" --tag animals
  aiosctl memory search notes cat
  aiosctl memory ls
  aiosctl run --grant semantic:notes:read+write -- python3 agent.py`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(a.memoryPutCmd(), a.memoryGetCmd(), a.memorySearchCmd(), a.memoryLsCmd(), a.memoryRmCmd(), a.memoryStatsCmd())
	return cmd
}

// parseVector reads the value of --vector: a JSON array of numbers, or @FILE.
func parseVector(text string) ([]float32, error) {
	if text == "" {
		return nil, nil
	}
	if file, ok := strings.CutPrefix(text, "@"); ok {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, invalid("--vector", file, err.Error(), "name a file that holds a JSON array of numbers")
		}
		text = string(b)
	}
	var v []float32
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, invalid("--vector", cutText(text), "it is not an array of numbers: "+err.Error(), "write one as in '[0.1, -0.2]', or @FILE")
	}
	return v, nil
}

func (a *app) memoryPutCmd() *cobra.Command {
	var put apiv1.MemoryPut
	var ttl time.Duration
	var vector, output string
	var ifVersion int64
	cmd := &cobra.Command{
		Use:   "put [flags] NAMESPACE TEXT",
		Short: "Write an item",
		Long: `Put writes an item, or puts it in the place of the one with that ID, of which a version is kept. It prints
the ID.`,
		Example: "  aiosctl memory put notes \"the cat sleeps on the keyboard\" --tag animals --ttl 24h\n  aiosctl memory put notes \"\" --id v1 --vector @embedding.json",
		Args:    exactly(2, "the namespace and the text"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if put.Vector, err = parseVector(vector); err != nil {
				return err
			}
			put.Namespace, put.Text, put.TtlSeconds = args[0], args[1], ttl.Seconds()
			if cmd.Flags().Changed("if-version") {
				put.IfVersion = &ifVersion
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.MemoryPut(ctx, &apiv1.MemoryPutRequest{Items: []*apiv1.MemoryPut{&put}})
				if err != nil {
					return err
				}
				done := resp.GetItems()[0]
				if asJSON {
					return a.printJSON(map[string]any{"id": done.GetId(), "version": done.GetVersion()})
				}
				fmt.Fprintln(a.stdout, done.GetId())
				return nil
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&put.Id, "id", "", "call it `ID`, by default something new")
	fs.StringArrayVar(&put.Tags, "tag", nil, "give it `TAG`")
	fs.DurationVar(&ttl, "ttl", 0, "forget it after `TIME`")
	fs.StringArrayVar(&put.Parents, "parent", nil, "note that it was made from the item `ID`, or NAMESPACE:ID")
	fs.Int64Var(&ifVersion, "if-version", 0, "only if the item has version `N`; 0: if there is none")
	fs.StringVar(&vector, "vector", "", "its vector: a `JSON` array of numbers, or @FILE")
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) memoryGetCmd() *cobra.Command {
	var output string
	var vectors bool
	cmd := &cobra.Command{
		Use:     "get [flags] NAMESPACE ID",
		Short:   "Show an item, and the earlier versions of it that are kept",
		Example: "  aiosctl memory get notes 2f1c\n  aiosctl memory get notes 2f1c --vectors -o json",
		Args:    exactly(2, "the namespace and the ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.MemoryGet(ctx, &apiv1.MemoryGetRequest{Namespace: args[0], Id: args[1], Vectors: vectors})
				switch {
				case err != nil:
					return err
				case asJSON:
					return a.printJSON(views(resp.GetVersions(), viewItem))
				}
				return a.printItem(resp.GetVersions())
			})
		},
	}
	cmd.Flags().BoolVar(&vectors, "vectors", false, "with their vectors, in JSON")
	outputFlag(cmd, &output, "json")
	return cmd
}

// printItem shows an item, and its earlier versions.
func (a *app) printItem(versions []*apiv1.MemoryItem) error {
	it := versions[0]
	var parents []string
	for _, p := range it.GetParents() {
		parents = append(parents, p.GetNamespace()+":"+p.GetId())
	}
	if err := a.table([]string{"WHAT", "VALUE"}, [][]string{
		{"item", it.GetNamespace() + ":" + printable(it.GetId())}, {"version", strconv.FormatInt(it.GetVersion(), 10)},
		{"text", printable(it.GetText())}, {"tags", dash(strings.Join(it.GetTags(), ","))}, {"written by", writer(it)},
		{"by capability", dash(it.GetCapability())}, {"made from", dash(strings.Join(parents, ","))},
		{"created", unixTime(it.GetCreated())}, {"changed", unixTime(it.GetUpdated())}, {"expires", unixTime(it.GetExpires())},
	}); err != nil || len(versions) == 1 {
		return err
	}
	fmt.Fprintln(a.stdout)
	var rows [][]string
	for _, v := range versions[1:] {
		rows = append(rows, []string{strconv.FormatInt(v.GetVersion(), 10), unixTime(v.GetUpdated()), writer(v), cutText(v.GetText())})
	}
	return a.table([]string{"BEFORE", "WRITTEN", "BY", "TEXT"}, rows)
}

// writer is who wrote a version.
func writer(it *apiv1.MemoryItem) string {
	if it.GetAgent() == "" {
		return "operator"
	}
	return orElse(it.GetAgentName(), it.GetAgent())
}

func unixTime(s float64) string {
	if s == 0 {
		return "-"
	}
	return time.UnixMicro(int64(s * 1e6)).Format(time.DateTime)
}

// cutText is a text as a column of a table has it.
func cutText(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		s = string(r[:most-1]) + "…"
	}
	return printable(s)
}

func (a *app) memorySearchCmd() *cobra.Command {
	var req apiv1.MemorySearchRequest
	var vector, output string
	var weight float64
	cmd := &cobra.Command{
		Use:   "search [flags] NAMESPACE [TEXT]",
		Short: "Find the items that are nearest to a text, a vector or both",
		Long: `Search ranks items by the words of the text (BM25), by the nearness of the vector (cosine), or by both, whose
ranks are then made one. NAMESPACE is a name or a pattern, such as notes/* or *.`,
		Example: "  aiosctl memory search notes \"sleeping cats\"\n  aiosctl memory search '*' cats --vector @embedding.json -k 5 --tag animals",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if req.Vector, err = parseVector(vector); err != nil {
				return err
			}
			if req.Namespace = args[0]; len(args) > 1 {
				req.Text = args[1]
			}
			if cmd.Flags().Changed("weight") {
				req.Weight = &weight
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.MemorySearch(ctx, &req)
				switch {
				case err != nil:
					return err
				case asJSON:
					return a.printJSON(views(resp.GetHits(), viewHit))
				}
				var rows [][]string
				for _, h := range resp.GetHits() {
					it := h.GetItem()
					rows = append(rows, []string{
						strconv.FormatFloat(h.GetScore(), 'f', 4, 64), measure(h.Bm25), measure(h.Cosine), it.GetNamespace(), printable(it.GetId()),
						writer(it), dash(strings.Join(it.GetTags(), ",")), cutText(it.GetText()),
					})
				}
				return a.table([]string{"SCORE", "BM25", "COSINE", "NAMESPACE", "ID", "BY", "TAGS", "TEXT"}, rows)
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&vector, "vector", "", "a `JSON` array of numbers, or @FILE")
	fs.Uint32VarP(&req.K, "count", "k", 0, "find `N` (default 10)")
	fs.StringArrayVar(&req.Tags, "tag", nil, "only what has `TAG`")
	fs.StringVar(&req.Mode, "mode", "", "rank by `MODE`: hybrid, text or vector (default by what is given)")
	fs.BoolVar(&req.Exact, "exact", false, "compare with every vector, instead of walking their graph")
	fs.Float64Var(&weight, "weight", 0, "so much of a hybrid rank is the vector's: `SHARE`, from 0 to 1 (default 0.5)")
	outputFlag(cmd, &output, "json")
	return cmd
}

func measure(x *float64) string {
	if x == nil {
		return "-"
	}
	return strconv.FormatFloat(*x, 'f', 3, 64)
}

func (a *app) memoryLsCmd() *cobra.Command {
	var req apiv1.MemoryListRequest
	var output string
	cmd := &cobra.Command{
		Use:     "ls [flags] [NAMESPACE]",
		Short:   "List the namespaces, or the items of one",
		Example: "  aiosctl memory ls\n  aiosctl memory ls notes --tag animals -o json",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				if len(args) == 0 {
					return a.listNamespaces(ctx, c, asJSON)
				}
				req.Namespace = args[0]
				return a.listItems(ctx, c, &req, asJSON)
			})
		},
		ValidArgsFunction: a.completeFirst(a.namespaceNames),
	}
	cmd.Flags().StringArrayVar(&req.Tags, "tag", nil, "only what has `TAG`")
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) listNamespaces(ctx context.Context, c *client.Client, asJSON bool) error {
	resp, err := c.MemoryNamespaces(ctx, &apiv1.MemoryNamespacesRequest{})
	if err != nil {
		return err
	}
	if asJSON {
		return a.printJSON(views(resp.GetNamespaces(), func(n *apiv1.MemoryNamespace) namespaceView {
			return namespaceView{n.GetName(), n.GetItems(), n.GetDimensions()}
		}))
	}
	var rows [][]string
	for _, n := range resp.GetNamespaces() {
		rows = append(rows, []string{n.GetName(), strconv.Itoa(int(n.GetItems())), strconv.Itoa(int(n.GetDimensions()))})
	}
	return a.table([]string{"NAMESPACE", "ITEMS", "DIMENSIONS"}, rows)
}

// listItems lists a namespace, page by page.
func (a *app) listItems(ctx context.Context, c *client.Client, req *apiv1.MemoryListRequest, asJSON bool) error {
	var all []*apiv1.MemoryItem
	for {
		resp, err := c.MemoryList(ctx, req)
		if err != nil {
			return err
		}
		all = append(all, resp.GetItems()...)
		if req.After = resp.GetNext(); req.After == "" {
			break
		}
	}
	if asJSON {
		return a.printJSON(views(all, viewItem))
	}
	var rows [][]string
	for _, it := range all {
		rows = append(rows, []string{printable(it.GetId()), unixTime(it.GetUpdated()), unixTime(it.GetExpires()), writer(it), dash(strings.Join(it.GetTags(), ",")), cutText(it.GetText())})
	}
	return a.table([]string{"ID", "CHANGED", "EXPIRES", "BY", "TAGS", "TEXT"}, rows)
}

func (a *app) namespaceNames(ctx context.Context, c *client.Client) ([]string, error) {
	resp, err := c.MemoryNamespaces(ctx, &apiv1.MemoryNamespacesRequest{})
	var out []string
	for _, n := range resp.GetNamespaces() {
		out = append(out, n.GetName())
	}
	return out, err
}

func (a *app) memoryRmCmd() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "rm [flags] NAMESPACE [ID...]",
		Short:   "Remove items, with their earlier versions",
		Example: "  aiosctl memory rm notes 2f1c\n  aiosctl memory rm notes --all",
		Args:    atLeast(1, "the namespace"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 1) {
				return usage(cmd, "name items, or give --all")
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.MemoryRemove(ctx, &apiv1.MemoryRemoveRequest{Namespace: args[0], Ids: args[1:], All: all})
				if err != nil {
					return err
				}
				fmt.Fprintf(a.stdout, "removed %d\n", resp.GetRemoved())
				return nil
			})
		},
		ValidArgsFunction: a.completeFirst(a.namespaceNames),
	}
	cmd.Flags().BoolVar(&all, "all", false, "all that there are")
	return cmd
}

func (a *app) memoryStatsCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "stats [flags]",
		Short:   "How semantic memory is, and who has written how much",
		Example: "  aiosctl memory stats\n  aiosctl memory stats -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				st, err := c.MemoryStats(ctx, &apiv1.MemoryStatsRequest{})
				switch {
				case err != nil:
					return err
				case asJSON:
					return a.printJSON(memoryStatsView{
						st.GetItems(), st.GetBytes(), st.GetStoreBytes(), st.GetVectors(), st.GetUnlinked(), st.GetOpenedInSeconds(),
						views(st.GetAgents(), func(u *apiv1.MemoryUsage) memoryUsageView {
							return memoryUsageView{u.GetAgent(), u.GetAgentName(), u.GetItems(), u.GetBytes()}
						}),
					})
				}
				return a.printMemoryStats(st)
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) printMemoryStats(st *apiv1.MemoryStatsResponse) error {
	count := func(n uint64) string { return strconv.FormatUint(n, 10) }
	if err := a.table([]string{"WHAT", "VALUE"}, [][]string{
		{"items", count(st.GetItems())}, {"written", size(st.GetBytes())}, {"on disk", size(st.GetStoreBytes())}, {"vectors", count(st.GetVectors())},
		{"not in a graph yet", count(st.GetUnlinked())}, {"opened in", strconv.FormatFloat(st.GetOpenedInSeconds(), 'f', 2, 64) + "s"},
	}); err != nil || len(st.GetAgents()) == 0 {
		return err
	}
	fmt.Fprintln(a.stdout)
	var rows [][]string
	for _, u := range st.GetAgents() {
		rows = append(rows, []string{orElse(orElse(u.GetAgentName(), u.GetAgent()), "operator"), count(u.GetItems()), size(u.GetBytes())})
	}
	return a.table([]string{"WRITTEN BY", "ITEMS", "BYTES"}, rows)
}
