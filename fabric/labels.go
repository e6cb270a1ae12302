package fabric

import (
	"slices"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// maxLabels is how many a region has.
const maxLabels = 16

// LabelInfo is a label that means something to the kernel.
type LabelInfo struct {
	Label   string
	Meaning string
}

// secret keeps what it is on from agents that could send it out.
const secret = "secret"

var labels = []LabelInfo{
	{secret, "no agent that has network beyond its own loopback gets at it, and who has it gets no such network"},
}

// Labels are those that mean something to the kernel; others say something to
// people and programs only.
func Labels() []LabelInfo { return labels }

// CheckLabels returns labels sorted and each once, or says what is wrong with
// one. A label is a name, or two with '=' between them, such as origin=crawler.
func CheckLabels(in []string) ([]string, error) {
	out := slices.Clone(in)
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) > maxLabels {
		return nil, errdefs.Newf(errdefs.InvalidArgument, "it has more than %d labels", maxLabels).With(errdefs.Fix("leave some out"))
	}
	for _, l := range out {
		key, value, valued := strings.Cut(l, "=")
		if !abi.ValidName(key) || valued && !abi.ValidName(value) {
			return nil, errdefs.New(errdefs.InvalidArgument, "it is not a label", errdefs.Resource("%q", l),
				errdefs.Fix("write a name, or two such as origin=crawler"))
		}
	}
	return out, nil
}

// Secret says whether the region is kept from agents with network.
func (r *Region) Secret() bool { return slices.Contains(r.labels, secret) }

// MayReach says whether an agent may get at the region, by its labels; network is
// whether the agent could send what it holds to somewhere else.
func (r *Region) MayReach(agent string, network bool) error {
	if !network || !r.Secret() {
		return nil
	}
	return errdefs.New(errdefs.LabelDenied, "it is secret, and the agent has network", errdefs.Resource("region %s, agent %s", r.name, agent),
		errdefs.Fix("take the network from the agent first: revoke its grants of net:*"))
}
