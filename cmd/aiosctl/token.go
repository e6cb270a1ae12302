package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

func (a *app) tokenCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Issue, narrow and revoke tokens for programs and other hosts",
		Long: `A token is authority in a string: whoever has it may do what it says. Its holder can
narrow it without a daemon; nobody can widen it. Keep tokens in files of mode 0600.

Commands run with a token, and do what it allows, when --token-file or AIOS_TOKEN is
set; --connect or AIOS_CONNECT names the address of another daemon.`,
		Example: `  aiosctl token listen tcp:127.0.0.1:7070
  aiosctl token issue --subject ci --for 8h --op spawn,attach,list --agent own --grant fs:/data:ro --out ci.token
  aiosctl --connect tcp:127.0.0.1:7070 --token-file ci.token ps
  aiosctl token attenuate - --op list < ci.token
  aiosctl token revoke - --reason "no longer needed" < ci.token`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(a.tokenIssueCmd(), a.tokenAttenuateCmd(), a.tokenSealCmd(), a.tokenShowCmd(), a.tokenRevokeCmd(),
		a.tokenLsCmd(), a.tokenKeyCmd(), a.tokenTrustCmd(), a.tokenListenCmd())
	return cmd
}

// maxTokenFile bounds what is read in search of a token.
const maxTokenFile = 64 << 10

// secret returns the token that commands show, "" for none.
func (a *app) secret() (string, error) {
	if a.tokenFile == "" {
		t, _ := a.getenv("AIOS_TOKEN")
		return strings.TrimSpace(t), nil
	}
	f, err := os.Open(a.tokenFile)
	if err != nil {
		return "", errdefs.Wrap(err, errdefs.InvalidArgument, "--token-file", errdefs.Fix("name a file with a token"))
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 != 0 {
		return "", invalid("--token-file", a.tokenFile, "others can read the token: mode "+fi.Mode().Perm().String(), "chmod 600 it; if somebody did, revoke the token")
	}
	return readToken(f)
}

func readToken(r io.Reader) (string, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxTokenFile))
	if err != nil {
		return "", errdefs.Wrap(err, errdefs.HostIO, "read token")
	}
	text := strings.TrimSpace(string(raw))
	if text == "" {
		return "", errdefs.New(errdefs.InvalidArgument, "there is no token", errdefs.Op("read token"), errdefs.Fix("put in what `aiosctl token issue` printed"))
	}
	return text, nil
}

// tokenArg is the token that a command is about: its argument, standard input
// for "-", or the one that commands show.
func (a *app) tokenArg(args []string) (token.Token, error) {
	text, err := "-", error(nil)
	if len(args) > 0 {
		text = args[0]
	} else if text, err = a.secret(); err == nil && text == "" {
		err = errdefs.New(errdefs.InvalidArgument, "no token is given", errdefs.Op("read token"),
			errdefs.Fix("write - and give it on standard input, or use --token-file or AIOS_TOKEN"))
	}
	if err == nil && text == "-" {
		text, err = readToken(a.stdin)
	}
	if err != nil {
		return token.Token{}, err
	}
	return token.Parse(text)
}

// tokenFlags are what issuing and narrowing have in common.
type tokenFlags struct {
	ops, agents, grants, audience []string
	maxAgents                     uint32
	out                           string
}

func (f *tokenFlags) register(cmd *cobra.Command, verb string) {
	fs := cmd.Flags()
	fs.StringSliceVar(&f.ops, "op", nil, verb+" the `OPERATIONS`, separated by commas, '*' for all")
	fs.StringArrayVar(&f.agents, "agent", nil, verb+" agents that match `PATTERN`: own, id:ID, name:GLOB, label:KEY=GLOB or '*'")
	fs.StringArrayVar(&f.grants, "grant", nil, verb+" giving agents `CLASS:OBJECT[:RIGHTS][,KEY=VALUE]…`, such as fs:/data:ro")
	fs.StringSliceVar(&f.audience, "audience", nil, verb+" use at the daemon `NAME`, as its `aiosctl token key` prints it; '*' for any")
	fs.Uint32Var(&f.maxAgents, "max-agents", 0, verb+" at most `N` agents at once that were spawned with it")
	fs.StringVar(&f.out, "out", "", "write the token to a new `FILE` of mode 0600, not to standard output")
	names := []string{"*"}
	for _, o := range token.Ops() {
		names = append(names, o.Name+"\t"+o.Meaning)
	}
	_ = cmd.RegisterFlagCompletionFunc("op", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

// print gives a token out: it alone is on standard output.
func (a *app) print(text, out string) error {
	if out == "" {
		_, err := fmt.Fprintln(a.stdout, text)
		return err
	}
	f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, text)
		err = errors.Join(err, f.Close())
	}
	return errdefs.Wrap(err, errdefs.HostIO, "--out", errdefs.Fix("name a file that does not exist, in a directory that you can write to"))
}

func (a *app) tokenIssueCmd() *cobra.Command {
	var (
		f        tokenFlags
		subject  string
		lifetime time.Duration
	)
	cmd := &cobra.Command{
		Use:   "issue [flags]",
		Short: "Issue a token",
		Long: "Issue prints a token that allows what the flags say, and nothing else. What it is for, its\n" +
			"ID and its end are printed to standard error. The operations are:\n\n" + operations(),
		Example: `  aiosctl token issue --subject ci --for 8h --op spawn,attach,list,logs --agent own --grant fs:/data:ro --out ci.token
  aiosctl token issue --subject build2 --for 24h --op spawn,wait --agent own --audience build2/1a2b3c4d --max-agents 4`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			grants, err := parseGrants(f.grants)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.TokenIssue(ctx, &apiv1.TokenIssueRequest{
					Subject: subject, Audience: f.audience, LifetimeNano: int64(lifetime), Operations: f.ops, Agents: f.agents,
					Grants: grants, MaxAgents: f.maxAgents,
				})
				if err != nil {
					return err
				}
				if err := a.print(resp.GetToken(), f.out); err != nil {
					return err
				}
				fmt.Fprintf(a.stderr, "%s for %s, until %s, accepted by %s\n", resp.GetId(), printable(subject),
					a.until(time.Unix(0, resp.GetExpiresUnixNano())), strings.Join(resp.GetAudience(), ", "))
				return nil
			})
		},
	}
	f.register(cmd, "allow")
	cmd.Flags().StringVar(&subject, "subject", "", "`WHO` it is for, in the audit trail")
	cmd.Flags().DurationVar(&lifetime, "for", time.Hour, "`TIME` after which it ends, such as 30m or 24h")
	return cmd
}

// operations is a list for people.
func operations() string {
	var b strings.Builder
	for _, o := range token.Ops() {
		fmt.Fprintf(&b, "  %-8s %s\n", o.Name, o.Meaning)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// until is a moment in the future.
func (a *app) until(t time.Time) string {
	return fmt.Sprintf("%s (%s)", t.In(a.zone).Format(time.RFC3339), shortDuration(t.Sub(a.clock.Now())))
}

func (a *app) tokenAttenuateCmd() *cobra.Command {
	var (
		f       tokenFlags
		expires string
	)
	cmd := &cobra.Command{
		Use:   "attenuate [flags] [TOKEN | -]",
		Short: "Make a token that allows less; no daemon is needed",
		Long: `Attenuate prints a token that allows what the given one does and the flags say as well;
what no flag mentions stays as it was, and an empty value takes all of it away. The token is
read from standard input for -, and is the one that commands show when it is left out.`,
		Example: `  aiosctl token attenuate - --op list,logs --agent name:web-* --expires 10m < ci.token
  aiosctl --token-file ci.token token attenuate --grant fs:/data/in:ro --out in.token`,
		Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.restriction(cmd)
			if err != nil {
				return err
			}
			if expires != "" {
				if r.Expires, err = a.deadline("--expires", expires); err != nil {
					return err
				}
			}
			t, err := a.tokenArg(args)
			if err != nil {
				return err
			}
			if t, err = token.Attenuate(t, r); err != nil {
				return err
			}
			if err := a.print(t.Text(), f.out); err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "%s\n", t.ID())
			return nil
		},
	}
	f.register(cmd, "only")
	cmd.Flags().StringVar(&expires, "expires", "", "`TIME` at which it ends: a duration from now such as 10m, or RFC 3339")
	return cmd
}

// restriction is what the flags that were given say.
func (f *tokenFlags) restriction(cmd *cobra.Command) (token.Restriction, error) {
	list := func(flag string, values []string) []string {
		if !cmd.Flags().Changed(flag) {
			return nil
		}
		return slices.DeleteFunc(append([]string{}, values...), func(v string) bool { return v == "" })
	}
	r := token.Restriction{
		Ops: list("op", f.ops), Agents: list("agent", f.agents), Audience: list("audience", f.audience), MaxAgents: f.maxAgents,
	}
	texts := list("grant", f.grants)
	if texts == nil {
		return r, nil
	}
	grants, err := parseGrants(texts)
	if err != nil {
		return r, err
	}
	r.Grants = []capability.Spec{}
	for _, g := range grants {
		s, err := capability.ParseSpec(g)
		if err != nil {
			return r, err
		}
		if n := agentOf(s.Object); n != "" && !abi.IsAgentID(n) {
			return r, invalid("--grant", g, "here nobody knows which agent that is", "write its ID, which `aiosctl ps` prints")
		}
		r.Grants = append(r.Grants, s)
	}
	return r, nil
}

// agentOf returns the agent that an object names, "" if it names none.
func agentOf(o capability.Object) string {
	name := ""
	switch o.Class {
	case abi.ClassAgent:
		name = strings.TrimPrefix(o.Name, "*")
	case abi.ClassEvent:
		if _, name = o.Topic(); name == "self" {
			name = ""
		}
	}
	return name
}

// deadline reads a time, or a duration after now.
func (a *app) deadline(flag, s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return a.clock.Now().Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, invalid(flag, s, "neither a duration nor a time", "write 10m for ten minutes from now, or 2026-01-31T12:00:00Z")
	}
	return t, nil
}

func (a *app) tokenSealCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:     "seal [flags] [TOKEN | -]",
		Short:   "Make a token that allows the same and cannot be narrowed; no daemon is needed",
		Example: "  aiosctl token seal - < ci.token",
		Args:    atMost(1),
		RunE: func(_ *cobra.Command, args []string) error {
			t, err := a.tokenArg(args)
			if err != nil {
				return err
			}
			if t, err = token.Seal(t); err != nil {
				return err
			}
			return a.print(t.Text(), out)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "write the token to a new `FILE` of mode 0600, not to standard output")
	return cmd
}

func (a *app) tokenRevokeCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "revoke [flags] {ID | TOKEN | -}",
		Short: "End a token, all that were made from it, and what is being done with them",
		Long: `Revoke ends the token with an ID and everything that was made from it, at this daemon. When it
returns, calls that were under way with them have ended. A token that was narrowed has an ID
of its own: to end what it was made from too, revoke the ID of that.`,
		Example: `  aiosctl token revoke t0123456789abcdef0123456789abcdef --reason "laptop was stolen"
  aiosctl token revoke - < ci.token`,
		Args: exactly(1, "the ID or the token"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := args[0]
			if _, err := token.ParseID(id); err != nil {
				if id != "-" && !strings.HasPrefix(id, token.Prefix) {
					return err
				}
				t, err := a.tokenArg(args)
				if err != nil {
					return err
				}
				id = t.ID().String()
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.TokenRevoke(ctx, &apiv1.TokenRevokeRequest{Id: id, Reason: reason})
				if err != nil {
					return err
				}
				fmt.Fprintf(a.stdout, "revoked %s", id)
				switch n := resp.GetEnded(); n {
				case 0:
				case 1:
					fmt.Fprint(a.stdout, ", and ended 1 call")
				default:
					fmt.Fprintf(a.stdout, ", and ended %d calls", n)
				}
				fmt.Fprintln(a.stdout)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`WHY`, for the audit trail")
	return cmd
}

func (a *app) tokenTrustCmd() *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use:   "trust [flags] KEY",
		Short: "Accept tokens of another daemon's key, or no longer",
		Long: `Trust accepts tokens that were issued with a public key and name this daemon, or *, as their
audience. Who has the key can issue tokens for everything that tokens can allow.`,
		Example: `  aiosctl token trust aios1pub.e5kEmX6LH4p0YHN1I6Ojg0yKXDmW9kBmC7fR8yH0J3w
  aiosctl token trust --remove kd15c94eab6a1ffd2`,
		Args: exactly(1, "the key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !remove {
				if _, err := token.ParsePublic(args[0]); err != nil {
					return err
				}
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.TokenTrust(ctx, &apiv1.TokenTrustRequest{Key: args[0], Remove: remove})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(a.stdout, resp.GetKeyId())
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "no longer accept them; the key's ID will do")
	return cmd
}

func (a *app) tokenListenCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "listen {unix:PATH | tcp:ADDRESS:PORT | off}",
		Short: "Serve bearers of tokens at an address, now and whenever the daemon runs",
		Long: `Listen opens a second address, at which every call needs a token and it does not matter who
makes it. There is no encryption, so a TCP address must be of the loopback interface: other
hosts come through an SSH tunnel. Tokens work on the daemon's own socket too, for those who may
use that.`,
		Example: `  aiosctl token listen tcp:127.0.0.1:7070
  aiosctl token listen unix:/run/aios-door/sock
  aiosctl token listen off`,
		Args: exactly(1, "the address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.TokenListen(ctx, &apiv1.TokenListenRequest{Address: args[0]})
				if err == nil && resp.GetAddress() != "" {
					_, err = fmt.Fprintln(a.stdout, resp.GetAddress())
				}
				return err
			})
		},
		ValidArgs: []string{"off"},
	}
}
