package semantic

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"unicode/utf8"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

func bad(what, detail, fix string) error {
	return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("memory"), errdefs.Resource("%.80s", what), errdefs.Fix("%s", fix))
}

// Decode reads the parameters of an operation, strictly.
func Decode(body []byte, into any) error {
	if len(body) == 0 {
		body = []byte("{}")
	}
	if len(body) > MaxBody {
		return bad("", "it is longer than 1 MiB", "split it")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return bad("", "it is not what the operation takes: "+err.Error(), "send one JSON object with the fields that the operation has")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("", "something follows the JSON object", "send one JSON object")
	}
	return nil
}

// Check refuses what cannot be put, and brings the tags in order.
func (p *Put) Check() error {
	if err := CheckNamespace(p.Namespace); err != nil {
		return err
	}
	if p.ID != "" {
		if err := CheckID(p.ID); err != nil {
			return err
		}
	}
	switch {
	case p.Text == "" && len(p.Vector) == 0:
		return bad(p.ID, "the item has neither a text nor a vector", "give it at least one")
	case len(p.Text) > MaxText:
		return bad(p.ID, "the text is longer than 64 KiB", "make several items of it")
	case !utf8.ValidString(p.Text):
		return bad(p.ID, "the text is not UTF-8", "send text as UTF-8")
	case !(p.TTL >= 0 && p.TTL <= MaxTTL):
		return bad(p.ID, "the ttl is not a number of seconds from 0 to ten years", "leave it out to keep the item for ever")
	case len(p.Parents) > MaxParents:
		return bad(p.ID, "there are more than 32 parents", "name those that matter")
	case p.IfVersion != nil && *p.IfVersion < 0:
		return bad(p.ID, "no version is negative", "give the version that was read, or 0 if there must be none")
	}
	if err := CheckVector(p.Vector); err != nil {
		return err
	}
	var err error
	p.Tags, err = CheckTags(p.Tags)
	return err
}

// CheckID refuses what cannot be the ID of an item.
func CheckID(id string) error {
	ok := id != "" && len(id) <= MaxID && utf8.ValidString(id)
	for i := range len(id) {
		ok = ok && id[i] > ' ' && id[i] != 0x7f
	}
	if !ok {
		return bad(id, "it is not an ID of an item", "write 1 to 128 bytes of UTF-8 without blanks")
	}
	return nil
}

// CheckTags brings tags in order, each once.
func CheckTags(tags []string) ([]string, error) {
	if len(tags) > MaxTags {
		return nil, bad("", "there are more than 32 tags", "use fewer")
	}
	for _, t := range tags {
		if !capability.ValidTag(t) {
			return nil, bad(t, "it is not a tag", "write 1 to 64 letters, digits, '.', '_', '-', '=' and '/'")
		}
	}
	tags = slices.Clone(tags)
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// CheckVector refuses vectors that have no direction.
func CheckVector(v []float32) error {
	if len(v) == 0 {
		return nil
	}
	if len(v) > MaxDims {
		return bad("", "the vector has more than 4096 dimensions", "use fewer")
	}
	var sum float64
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	if !(sum > 0) || math.IsInf(sum, 0) {
		return bad("", "the vector has no direction: it is zero, or not of finite numbers", "send what the embedding gave")
	}
	return nil
}

// Check refuses what cannot be removed.
func (d *Delete) Check() error {
	if err := CheckNamespace(d.Namespace); err != nil {
		return err
	}
	if d.All == (len(d.IDs) > 0) {
		return bad(d.Namespace, "it names no items, or names some beside all", "give ids, or all")
	}
	if d.IfVersion != nil && len(d.IDs) != 1 {
		return bad(d.Namespace, "if_version is of one item", "remove one item at a time, or use a batch")
	}
	return checkIDs(d.IDs)
}

func checkIDs(ids []string) error {
	if len(ids) > MaxIDs {
		return bad("", "there are more than 256 ids", "ask for fewer at a time")
	}
	for _, id := range ids {
		if err := CheckID(id); err != nil {
			return err
		}
	}
	return nil
}

// Check refuses what cannot be got.
func (g *Get) Check() error {
	if err := CheckNamespace(g.Namespace); err != nil {
		return err
	}
	return checkIDs(g.IDs)
}

// Check refuses what cannot be listed, and puts defaults in place.
func (l *List) Check() (err error) {
	if err := CheckNamespace(l.Namespace); err != nil {
		return err
	}
	if l.Limit == 0 {
		l.Limit = 100
	}
	if l.Limit < 0 || l.Limit > MaxList {
		return bad("", "the limit is not from 1 to 1000", "ask for a page at a time")
	}
	l.Tags, err = CheckTags(l.Tags)
	return err
}

// Check refuses what cannot be searched, and puts defaults in place.
func (q *Search) Check() (err error) {
	if q.Namespace == "" {
		q.Namespace = "*"
	}
	if !capability.ValidNamespace(q.Namespace) {
		return bad(q.Namespace, "it is neither a namespace nor a pattern of them", "write one as in notes or notes/*")
	}
	if q.K == 0 {
		q.K = 10
	}
	switch {
	case q.K < 0 || q.K > MaxResults:
		return bad("", "k is not from 1 to 100", "ask for fewer")
	case len(q.Text) > MaxQuery:
		return bad("", "the text is longer than 4 KiB", "search for what matters of it")
	case q.Weight != nil && !(*q.Weight >= 0 && *q.Weight <= 1):
		return bad("", "the weight is not from 0 to 1", "leave it out for 0.5")
	case q.Text == "" && len(q.Vector) == 0:
		return bad("", "there is neither a text nor a vector to search for", "give one, or both")
	}
	switch q.Mode {
	case "":
		switch {
		case q.Text == "":
			q.Mode = ModeVector
		case len(q.Vector) == 0:
			q.Mode = ModeText
		default:
			q.Mode = ModeHybrid
		}
	case ModeText, ModeVector, ModeHybrid:
		if q.Text == "" && q.Mode != ModeVector || len(q.Vector) == 0 && q.Mode != ModeText {
			return bad(q.Mode, "what this mode searches for was not given", "leave out mode")
		}
	default:
		return bad(q.Mode, "there is no such mode", "write hybrid, text or vector")
	}
	if err := CheckVector(q.Vector); err != nil {
		return err
	}
	q.Tags, err = CheckTags(q.Tags)
	return err
}

// Check refuses a transaction that cannot be made.
func (b *Batch) Check() error {
	if len(b.Changes) == 0 || len(b.Changes) > MaxBatch {
		return bad("", "a transaction has 1 to 256 changes", "split it")
	}
	for i := range b.Changes {
		c := &b.Changes[i]
		var err error
		switch {
		case c.Put != nil && c.Delete == nil:
			err = c.Put.Check()
		case c.Delete != nil && c.Put == nil:
			err = c.Delete.Check()
		default:
			err = bad("", "a change is one put or one delete", "write {\"put\": …} or {\"delete\": …}")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Check refuses what has no history.
func (h *History) Check() error {
	if err := CheckNamespace(h.Namespace); err != nil {
		return err
	}
	return CheckID(h.ID)
}
