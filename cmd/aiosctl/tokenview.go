package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

// Like view.go, a stable interface: fields are only ever added.

type tokenBlockView struct {
	ID        string     `json:"id"`
	Issuer    string     `json:"issuer,omitempty"`
	Subject   string     `json:"subject,omitempty"`
	Issued    *time.Time `json:"issued,omitempty"`
	NotBefore *time.Time `json:"not_before,omitempty"`
	Expires   *time.Time `json:"expires,omitempty"`
	Audience  []string   `json:"audience"` // null: not restricted
	Ops       []string   `json:"operations"`
	Agents    []string   `json:"agents"`
	Grants    []string   `json:"grants"`
	MaxAgents uint32     `json:"max_agents,omitempty"`
}

type tokenView struct {
	ID     string           `json:"id"`
	Sealed bool             `json:"sealed"`
	Blocks []tokenBlockView `json:"blocks"`
	Check  tokenCheckView   `json:"check"`
}

type tokenCheckView struct {
	State string `json:"state"` // accepted, refused or unchecked
	Code  string `json:"code,omitempty"`
	Why   string `json:"why,omitempty"`
}

type tokenKeyView struct {
	Key      string             `json:"key"`
	KeyID    string             `json:"key_id"`
	Audience string             `json:"audience"`
	Listen   string             `json:"listen,omitempty"`
	Failed   string             `json:"failed,omitempty"`
	Revoked  uint32             `json:"revoked"`
	Trusted  []tokenTrustedView `json:"trusted"`
}

type tokenTrustedView struct {
	KeyID string `json:"key_id"`
	Key   string `json:"key"`
}

func viewMoment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func viewTokenBlock(b token.Block) tokenBlockView {
	v := tokenBlockView{
		ID: b.ID.String(), Subject: b.Subject, Issued: viewMoment(b.Issued), NotBefore: viewMoment(b.NotBefore), Expires: viewMoment(b.Expires),
		Audience: b.Audience, Ops: b.Ops, Agents: b.Agents, Grants: b.Grants, MaxAgents: b.MaxAgents,
	}
	if b.Subject != "" {
		v.Issuer = b.Issuer.String()
	}
	return v
}

func viewTokenKey(r *apiv1.TokenKeyResponse) tokenKeyView {
	v := tokenKeyView{
		Key: r.GetKey(), KeyID: r.GetKeyId(), Audience: r.GetAudience(), Listen: r.GetListen(), Failed: r.GetFailed(),
		Revoked: r.GetRevoked(), Trusted: []tokenTrustedView{},
	}
	for _, k := range r.GetTrusted() {
		id := ""
		if key, err := token.ParsePublic(k); err == nil {
			id = token.KeyIDOf(key).String()
		}
		v.Trusted = append(v.Trusted, tokenTrustedView{id, k})
	}
	return v
}

func (a *app) tokenShowCmd() *cobra.Command {
	var key, output string
	cmd := &cobra.Command{
		Use:   "show [flags] [TOKEN | -]",
		Short: "Print what a token says, and whether it is accepted",
		Long: `Show prints what each block of a token says. A token allows what all of its blocks allow. Whether
it is accepted is asked of the daemon, if one runs; it starts none. With --key, only the
signatures are checked, here.`,
		Example: "  aiosctl token show - < ci.token\n  aiosctl --token-file ci.token token show -o json",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			t, err := a.tokenArg(args)
			if err != nil {
				return err
			}
			v := tokenView{ID: t.ID().String(), Sealed: t.Sealed()}
			for _, b := range t.Blocks() {
				v.Blocks = append(v.Blocks, viewTokenBlock(b))
			}
			if key != "" {
				v.Check, err = checkSignatures(t, key)
			} else {
				v.Check, err = a.checkToken(cmd.Context(), t)
			}
			if err != nil {
				return err
			}
			if json {
				return a.printJSON(v)
			}
			return a.printToken(v)
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "check the signatures with the public `KEY` of the issuer")
	outputFlag(cmd, &output, "json")
	return cmd
}

// checkSignatures says whether a token is what the holder of a key signed.
func checkSignatures(t token.Token, key string) (tokenCheckView, error) {
	public, err := token.ParsePublic(key)
	if err != nil {
		return tokenCheckView{}, err
	}
	first := t.Blocks()[0]
	_, err = token.Verify(t, token.Policy{
		Trust:    func(id token.KeyID) (ed25519.PublicKey, bool) { return public, id == token.KeyIDOf(public) },
		Audience: first.Audience[0], Now: first.Issued,
	})
	// The rest is not asked: only the daemon that is meant can say.
	if err == nil || errdefs.CodeOf(err) != errdefs.TokenInvalid {
		return tokenCheckView{State: "unchecked", Why: "the signatures are right"}, nil
	}
	return tokenCheckView{State: "refused", Code: string(errdefs.TokenInvalid), Why: err.Error()}, nil
}

// checkToken asks the daemon, if one runs, whether it would accept a token. At
// another address that is asked with the token that is shown there.
func (a *app) checkToken(ctx context.Context, t token.Token) (tokenCheckView, error) {
	a.tokenless = a.address() == ""
	c, err := a.dial(ctx, true)
	if errdefs.CodeOf(err) == errdefs.DaemonUnreachable {
		return tokenCheckView{State: "unchecked", Why: "no daemon runs here"}, nil
	}
	if err != nil {
		return tokenCheckView{}, err
	}
	defer c.Close()
	resp, err := c.TokenCheck(ctx, &apiv1.TokenCheckRequest{Token: t.Text()})
	switch {
	case errdefs.CodeOf(err) == errdefs.Denied:
		return tokenCheckView{State: "unchecked", Why: "the token that is shown does not allow to ask"}, nil
	case err != nil:
		return tokenCheckView{}, err
	case resp.GetCode() != "":
		return tokenCheckView{State: "refused", Code: resp.GetCode(), Why: resp.GetWhy()}, nil
	}
	return tokenCheckView{State: "accepted"}, nil
}

func (a *app) printToken(v tokenView) error {
	f := a.facts()
	for i, b := range v.Blocks {
		if i == 0 {
			f.add("Token", b.ID)
			f.add("For", b.Subject)
			f.add("Issued", b.Issued.In(a.zone).Format(time.RFC3339)+" with "+b.Issuer)
		} else {
			f.add("Narrowed", b.ID)
		}
		if b.NotBefore != nil {
			f.add("  from", b.NotBefore.In(a.zone).Format(time.RFC3339))
		}
		if b.Expires != nil {
			f.add("  until", a.until(*b.Expires))
		}
		for _, l := range []struct {
			name string
			list []string
		}{{"  accepted by", b.Audience}, {"  operations", b.Ops}, {"  agents", b.Agents}, {"  grants", b.Grants}} {
			switch {
			case len(l.list) > 0:
				f.add(l.name, printable(strings.Join(l.list, " ")))
			case i == 0 || l.list != nil:
				f.add(l.name, "none")
			}
		}
		if b.MaxAgents > 0 {
			f.add("  at once", fmt.Sprintf("%d agents", b.MaxAgents))
		}
	}
	if v.Sealed {
		f.add("Sealed", "it cannot be narrowed")
	}
	check := v.Check.State
	if v.Check.Why != "" {
		check += ": " + printable(v.Check.Why)
	}
	if v.Check.Code != "" {
		check += " (" + v.Check.Code + ")"
	}
	f.add("Check", check)
	return f.w.Flush()
}

// tokenKey fetches what the daemon issues and accepts tokens by.
func (a *app) tokenKey(cmd *cobra.Command, output string, show func(tokenKeyView) error) error {
	json, err := a.wantsJSON(output)
	if err != nil {
		return err
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		resp, err := c.TokenKey(ctx, &apiv1.TokenKeyRequest{})
		if err != nil {
			return err
		}
		v := viewTokenKey(resp)
		if json {
			return a.printJSON(v)
		}
		return show(v)
	})
}

func (a *app) tokenKeyCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "key [flags]",
		Short: "Print the daemon's public key, its name in tokens, and where it serves bearers",
		Example: `  aiosctl token key
  aiosctl token key -o json | jq -r .key`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.tokenKey(cmd, output, func(v tokenKeyView) error {
				f := a.facts()
				f.add("Key", v.Key)
				f.add("ID", v.KeyID)
				f.add("Audience", v.Audience)
				listen := "nowhere else; see `aiosctl token listen --help`"
				if v.Listen != "" {
					listen = v.Listen
				}
				if v.Failed != "" {
					listen += ", which failed: " + v.Failed
				}
				f.add("Listening", listen)
				return f.w.Flush()
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) tokenLsCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List the keys whose tokens are accepted, and count revoked tokens",
		Long: `The daemon keeps no list of the tokens that were issued: what they allow is in them. Who issued
and used which is in the audit trail.`,
		Example: "  aiosctl token ls\n  aiosctl audit query --op 'token.*'",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.tokenKey(cmd, output, func(v tokenKeyView) error {
				rows := [][]string{{v.KeyID, v.Key, "its own"}}
				for _, k := range v.Trusted {
					rows = append(rows, []string{k.KeyID, k.Key, "trusted"})
				}
				if err := a.table([]string{"ID", "KEY", "WHY"}, rows); err != nil {
					return err
				}
				_, err := fmt.Fprintf(a.stdout, "revoked tokens: %d\n", v.Revoked)
				return err
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}
