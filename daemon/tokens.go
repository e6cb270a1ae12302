package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/errdefs"
)

// Operations on tokens, in the audit trail.
const (
	opTokenIssue   = "token.issue"
	opTokenRevoke  = "token.revoke"
	opTokenTrust   = "token.trust"
	opTokenUntrust = "token.untrust"
	opTokenListen  = "token.listen"
	opTokenUse     = "token.use"
)

// keyring is by what the daemon issues and accepts tokens: the files of the
// directory paths.Tokens.
type keyring struct {
	key      *token.Key
	trust    *token.Trust
	revoked  *token.Revocations
	audience string // this daemon's name in tokens
}

// keyring opens the files, and makes them, when they are first needed. While
// they cannot be read, no token is accepted.
func (d *System) keyring() (*keyring, error) {
	if k := d.keys.Load(); k != nil {
		return k, nil
	}
	d.keysMu.Lock()
	defer d.keysMu.Unlock()
	if k := d.keys.Load(); k != nil {
		return k, nil
	}
	k, err := openKeyring(d)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open the keys of tokens")
	}
	d.keys.Store(k)
	return k, nil
}

func openKeyring(d *System) (*keyring, error) {
	k := &keyring{}
	path := func(name string) string { return filepath.Join(d.paths.Tokens, name) }
	var err error
	if k.key, err = token.LoadOrCreateKey(path("key")); err != nil {
		return nil, err
	}
	if k.trust, err = token.OpenTrust(path("trusted"), k.key); err != nil {
		return nil, err
	}
	if k.revoked, err = token.OpenRevocations(path("revoked"), d.clock); err != nil {
		return nil, err
	}
	k.audience, err = audienceName(path("name"), k.key)
	return k, err
}

// audienceName is by what name other daemons address tokens to this one: the
// host's and a part of the key's ID, so that no two are the same by chance. It
// stays when the host is renamed.
func audienceName(path string, key *token.Key) (string, error) {
	raw, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(raw)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", errdefs.Wrap(err, errdefs.HostIO, "read the daemon's name", errdefs.Resource("%s", path))
	}
	host, _ := os.Hostname() // Without one, the key's ID will do.
	host = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return -1
	}, host)
	name := orElse(host[:min(len(host), 64)], "host") + "/" + key.ID().String()[1:9]
	return name, replaceFile(path, name+"\n")
}

// replaceFile writes a small file of the daemon's own.
func replaceFile(path, text string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		os.Remove(tmp)
		return diskError(err, "write", path)
	}
	return diskError(os.Rename(tmp, path), "write", path)
}

// TokenIssue implements the RPC.
func (d *System) TokenIssue(ctx context.Context, req *apiv1.TokenIssueRequest) (*apiv1.TokenIssueResponse, error) {
	k, err := d.keyring()
	if err != nil {
		return nil, err
	}
	c := token.Claims{
		Subject: req.GetSubject(), Audience: req.GetAudience(), Ops: req.GetOperations(), Agents: req.GetAgents(), MaxAgents: req.GetMaxAgents(),
	}
	if len(c.Audience) == 0 {
		c.Audience = []string{k.audience}
	}
	now := d.clock.Now()
	if req.GetLifetimeNano() != 0 { // Whole seconds, and not fewer than were asked for.
		c.Expires = now.Add(time.Duration(req.GetLifetimeNano()) + time.Second - 1).Truncate(time.Second)
	}
	if err := usable(c); err != nil {
		return nil, err
	}
	if c.Grants, err = parseGrants(req.GetGrants()); err != nil {
		return nil, err
	}
	for i, s := range c.Grants {
		if c.Grants[i].Object, err = d.namedByID(s.Object); err != nil {
			return nil, err
		}
	}
	t, err := token.Issue(k.key, c, now)
	if err != nil {
		return nil, err
	}
	by := actor(ctx)
	err = d.trail.Append(audit.Entry{
		Op: opTokenIssue, Actor: by.Name, Target: c.Subject, Cap: t.ID().String(), Spec: describe(t), Correlation: by.Correlation,
	})
	if err != nil { // What nobody would know of is not given away.
		return nil, err
	}
	return &apiv1.TokenIssueResponse{
		Token: t.Text(), Id: t.ID().String(), ExpiresUnixNano: t.Blocks()[0].Expires.UnixNano(), Audience: t.Blocks()[0].Audience,
	}, nil
}

// usable refuses a token with which nothing could be done.
func usable(c token.Claims) error {
	refuse := func(detail, fix string) error {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("issue token"), errdefs.Fix("%s", fix))
	}
	if len(c.Ops) == 0 {
		return refuse("it would allow no operation", "say which, such as --op list,inspect, or --op '*' for all")
	}
	needs := slices.ContainsFunc(c.Ops, func(op string) bool { return op == "*" || method{op: op}.agent() })
	if needs && len(c.Agents) == 0 {
		return refuse("it would extend to no agent", "say to which: --agent own for those that are spawned with it, name:GLOB, label:KEY=GLOB, or '*'")
	}
	return nil
}

// describe says what a token gives, for the audit trail.
func describe(t token.Token) string {
	b := t.Blocks()[0]
	out := []string{"op=" + strings.Join(b.Ops, ",")}
	add := func(key string, list []string) {
		for _, v := range list {
			out = append(out, key+"="+v)
		}
	}
	add("agent", b.Agents)
	add("grant", b.Grants)
	add("audience", b.Audience)
	if b.MaxAgents > 0 {
		out = append(out, fmt.Sprintf("max-agents=%d", b.MaxAgents))
	}
	return strings.Join(append(out, "expires="+b.Expires.Format(time.RFC3339)), " ")
}

// TokenRevoke implements the RPC.
func (d *System) TokenRevoke(ctx context.Context, req *apiv1.TokenRevokeRequest) (*apiv1.TokenRevokeResponse, error) {
	id, err := token.ParseID(req.GetId())
	if err != nil {
		return nil, err
	}
	k, err := d.keyring()
	if err != nil {
		return nil, err
	}
	// Even when it will not outlive the daemon, it is in force.
	err = k.revoked.Revoke(id, time.Time{})
	ended := d.endUses(ctx)
	by := actor(ctx)
	d.record(audit.Entry{Op: opTokenRevoke, Actor: by.Name, Cap: id.String(), Reason: req.GetReason(), Correlation: by.Correlation})
	if err != nil {
		return nil, err
	}
	return &apiv1.TokenRevokeResponse{Ended: uint32(ended)}, nil
}

// TokenKey implements the RPC.
func (d *System) TokenKey(context.Context, *apiv1.TokenKeyRequest) (*apiv1.TokenKeyResponse, error) {
	k, err := d.keyring()
	if err != nil {
		return nil, err
	}
	resp := &apiv1.TokenKeyResponse{
		Key: token.FormatPublic(k.key.Public()), KeyId: k.key.ID().String(), Audience: k.audience, Revoked: uint32(k.revoked.Len()),
	}
	for _, key := range k.trust.Keys() {
		resp.Trusted = append(resp.Trusted, token.FormatPublic(key))
	}
	resp.Listen, resp.Failed = d.bearers.state()
	return resp, nil
}

// TokenTrust implements the RPC.
func (d *System) TokenTrust(ctx context.Context, req *apiv1.TokenTrustRequest) (*apiv1.TokenTrustResponse, error) {
	k, err := d.keyring()
	if err != nil {
		return nil, err
	}
	by := actor(ctx)
	e := audit.Entry{Op: opTokenTrust, Actor: by.Name, Correlation: by.Correlation}
	var id token.KeyID
	if req.GetRemove() {
		e.Op = opTokenUntrust
		if id, err = k.trusted(req.GetKey()); err == nil {
			err = k.trust.Remove(id)
		}
	} else {
		key, perr := token.ParsePublic(req.GetKey())
		if perr != nil {
			return nil, perr
		}
		id, err = k.trust.Add(key)
	}
	if err != nil {
		return nil, err
	}
	if req.GetRemove() {
		d.endUses(ctx)
	}
	e.Target = id.String()
	d.record(e)
	return &apiv1.TokenTrustResponse{KeyId: id.String()}, nil
}

// trusted finds the ID of a key that is named by its text or its ID.
func (k *keyring) trusted(name string) (token.KeyID, error) {
	for _, key := range k.trust.Keys() {
		if id := token.KeyIDOf(key); id.String() == name || token.FormatPublic(key) == name {
			return id, nil
		}
	}
	return token.KeyID{}, errdefs.New(errdefs.NotFound, "no such key is trusted", errdefs.Op("remove key"), errdefs.Resource("%.80q", name),
		errdefs.Fix("`aiosctl token ls` lists them; the daemon's own key cannot be removed"))
}

// TokenCheck implements the RPC.
func (d *System) TokenCheck(_ context.Context, req *apiv1.TokenCheckRequest) (*apiv1.TokenCheckResponse, error) {
	if _, err := d.bearerOf(req.GetToken()); err != nil {
		return &apiv1.TokenCheckResponse{Code: string(errdefs.CodeOf(err)), Why: err.Error()}, nil
	}
	return &apiv1.TokenCheckResponse{}, nil
}
