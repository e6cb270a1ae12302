package command

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// regionVerb is the first word of a command about regions of memory.
const regionVerb = "region"

// regionRule is what can follow: what may be said with it, of which the first
// need must be.
type regionRule struct {
	op, usage, meaning string
	keys               []string
	need               int
}

var regionRules = []regionRule{
	{control.FabricList, "region list", "the regions of memory that you hold a capability to", nil, 0},
	{control.FabricCreate, "region create NAME size=SIZE [labels=LABEL+...] [keep=N] [fixed=1] [zeros=1]", "make one, within your memory; it is /aios/fabric/NAME", []string{"size", "labels", "keep", "fixed", "zeros"}, 1},
	{control.FabricShow, "region show NAME", "one region, and its versions", nil, 0},
	{control.FabricShare, "region share NAME to=AGENT [rights=RIGHT+...] [lease=DURATION]", "give an agent rights to it, to read if none are said", []string{"to", "rights", "lease"}, 1},
	{control.FabricUnshare, "region unshare NAME from=AGENT", "take back what an agent has of it: its pages are gone there", []string{"from"}, 1},
	{control.FabricRemove, "region remove NAME", "end a region of yours, for all", nil, 0},
	{control.FabricSeal, "region seal NAME", "make its contents immutable; the answer has their BLAKE3 digest", nil, 0},
	{control.FabricSnapshot, "region snapshot NAME [comment=TEXT]", "make a version of what it is now", []string{"comment"}, 0},
	{control.FabricRollback, "region rollback NAME version=N", "make it again what it was", []string{"version"}, 1},
	{control.FabricFork, "region fork NAME version=N as=NAME [labels=LABEL+...] [keep=N] [fixed=1]", "make another region of a version", []string{"version", "as", "labels", "keep", "fixed"}, 2},
	{control.FabricDiff, "region diff NAME version=N [other=N]", "which pages differ between a version and another, or now", []string{"version", "other"}, 1},
	{control.FabricCommit, "region commit NAME [comment=TEXT]", "have what a persistent one is now kept on disk, as a version", []string{"comment"}, 0},
	{control.FabricDrop, "region drop NAME version=N", "forget a version", []string{"version"}, 1},
}

// IsRegion reports whether a line is a command about regions.
func IsRegion(line string) bool {
	first, _, _ := strings.Cut(strings.TrimLeft(line, " \t"), " ")
	return strings.TrimRight(first, "\n") == regionVerb
}

func regionHelp() string {
	var b strings.Builder
	b.WriteString("\nAbout memory that agents share:\n\n")
	for _, r := range regionRules {
		b.WriteString("  " + r.usage + "\n      " + r.meaning + "\n")
	}
	return b.String()
}

// ParseRegion reads a line about regions.
func ParseRegion(line string) (*control.FabricRequest, error) {
	line, err := oneLine(line)
	if err != nil {
		return nil, err
	}
	words, err := split(line)
	if err != nil {
		return nil, err
	}
	if len(words) < 2 || words[0].value != regionVerb || words[0].key != "" {
		return nil, bad("say what is to be done with a region").With(errdefs.Op(regionVerb), errdefs.Fix("read /aios/help"))
	}
	i := slices.IndexFunc(regionRules, func(r regionRule) bool { return words[1].key == "" && r.op == words[1].value })
	if i < 0 {
		return nil, bad("nothing about regions is called %q", clip(words[1].value)).With(errdefs.Op(regionVerb), errdefs.Fix("read /aios/help"))
	}
	r := regionRules[i]
	misuse := func(format string, args ...any) error {
		return bad(format, args...).With(errdefs.Op(regionVerb+" "+r.op), errdefs.Fix("usage: %s", r.usage))
	}
	req := &control.FabricRequest{Op: r.op}
	words = words[2:]
	if r.op != control.FabricList {
		sealed := len(words) > 0 && r.op != control.FabricCreate && abi.IsDigest(words[0].value)
		if len(words) == 0 || words[0].key != "" || !abi.ValidName(words[0].value) && !sealed {
			return nil, misuse("say which region, by its name, or by its digest if it is sealed")
		}
		req.Name = words[0].value
		words = words[1:]
	}
	said := make(map[string]bool)
	for _, w := range words {
		switch {
		case !slices.Contains(r.keys, w.key):
			return nil, misuse("it does not take %q", clip(w.key+w.value))
		case said[w.key]:
			return nil, misuse("%s is said twice", w.key)
		case w.value == "":
			return nil, misuse("%s has no value", w.key)
		}
		said[w.key] = true
		if err := setRegion(req, w.key, w.value); err != nil {
			return nil, misuse("%s=%s: %v", w.key, clip(w.value), err)
		}
	}
	for _, k := range r.keys[:r.need] {
		if !said[k] {
			return nil, misuse("%s= is missing", k)
		}
	}
	return req, nil
}

func setRegion(req *control.FabricRequest, key, value string) (err error) {
	switch key {
	case "size":
		var spec capability.Spec // It knows how sizes are written.
		if spec, err = capability.ParseSpec("mem:self,bytes=" + strings.ReplaceAll(value, ",", ";")); err != nil {
			return bad("it is no size such as 64M")
		}
		req.Size = spec.Limits.Bytes
	case "labels":
		req.Labels = strings.Split(value, "+")
	case "fixed":
		if req.Fixed = value == "1"; !req.Fixed {
			return bad("say 1, or leave it out")
		}
	case "zeros":
		if req.Zeros = value == "1"; !req.Zeros {
			return bad("say 1, or leave it out")
		}
	case "keep":
		req.Keep, err = strconv.Atoi(value)
	case "version":
		req.Version, err = positive(value)
	case "other":
		req.Other, err = positive(value)
	case "rights":
		_, err = capability.ParseRights(abi.ClassRegion, value)
		req.Rights = value
	case "lease":
		if req.Lease, err = time.ParseDuration(value); err == nil && req.Lease <= 0 {
			err = bad("it is no time to come")
		}
	case "comment":
		req.Comment = strings.ReplaceAll(value, "%20", " ")
	case "to", "from", "as":
		if !abi.ValidName(value) && !(key != "as" && abi.IsAgentID(value)) {
			return bad("it is no name")
		}
		if key == "as" {
			req.As = value
		} else {
			req.Agent = value
		}
	}
	return err
}

func positive(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n == 0 {
		return 0, bad("it is no number from 1")
	}
	return int(n), nil
}

// RegionAnswer is how a reply reads: what there is, a line each, of words with
// keys.
func RegionAnswer(req *control.FabricRequest, reply control.FabricReply) string {
	var b strings.Builder
	for _, r := range reply.Regions {
		fmt.Fprintf(&b, "%s size=%d", r.Name, r.Size)
		opt := func(key, value string) {
			if value != "" && value != "0" && value != "0x0" {
				b.WriteString(" " + key + "=" + value)
			}
		}
		opt("owner", r.Owner)
		opt("rights", r.Rights)
		opt("addr", fmt.Sprintf("%#x", r.Addr))
		opt("labels", strings.Join(r.Labels, "+"))
		opt("lineage", r.Lineage)
		opt("digest", r.Digest)
		opt("resident", strconv.FormatUint(r.Resident, 10))
		opt("charged", strconv.FormatUint(r.Charged, 10))
		b.WriteByte('\n')
	}
	for _, v := range reply.Versions {
		fmt.Fprintf(&b, "version=%d age=%s charged=%d", v.Number, v.Age.Round(time.Millisecond), v.Charged)
		if v.Comment != "" {
			b.WriteString(" comment=" + strings.ReplaceAll(v.Comment, " ", "%20"))
		}
		b.WriteByte('\n')
	}
	for _, v := range reply.Stored {
		if req.Op == control.FabricCommit {
			fmt.Fprintf(&b, "committed=%d bytes=%d\n", v.Number, v.Bytes)
		}
	}
	if c := reply.Cap; c != nil && req.Op == control.FabricShare {
		fmt.Fprintf(&b, "%s %s holder=%s\n", c.ID, c.Spec, c.Agent)
	}
	if req.Op == control.FabricUnshare || req.Op == control.FabricRemove {
		fmt.Fprintf(&b, "revoked=%d\n", reply.Count)
	}
	if req.Op == control.FabricDiff {
		fmt.Fprintf(&b, "bytes=%d\n", reply.Bytes)
		for _, s := range reply.Spans {
			fmt.Fprintf(&b, "%#x-%#x\n", s[0], s[1])
		}
	}
	return b.String()
}
