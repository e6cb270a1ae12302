package main

import apiv1 "aios.dev/aios/api/v1"

// itemView is what -o json shows of an item of semantic memory. Times are seconds
// since 1970.
type itemView struct {
	Namespace  string       `json:"namespace"`
	ID         string       `json:"id"`
	Version    int64        `json:"version"`
	Text       string       `json:"text"`
	Vector     []float32    `json:"vector,omitempty"`
	Tags       []string     `json:"tags"`
	Created    float64      `json:"created"`
	Updated    float64      `json:"updated"`
	Expires    float64      `json:"expires,omitempty"`
	Agent      string       `json:"agent,omitempty"`
	AgentName  string       `json:"agent_name,omitempty"`
	Domain     string       `json:"domain,omitempty"`
	Capability string       `json:"capability,omitempty"`
	Parents    []parentView `json:"parents,omitempty"`
}

type parentView struct {
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	Version   int64  `json:"version"`
}

type hitView struct {
	itemView
	Score  float64  `json:"score"`
	Cosine *float64 `json:"cosine,omitempty"`
	BM25   *float64 `json:"bm25,omitempty"`
}

type namespaceView struct {
	Name       string `json:"namespace"`
	Items      uint32 `json:"items"`
	Dimensions uint32 `json:"dimensions"`
}

type memoryStatsView struct {
	Items           uint64            `json:"items"`
	Bytes           uint64            `json:"bytes"`
	StoreBytes      uint64            `json:"store_bytes"`
	Vectors         uint64            `json:"vectors"`
	Unlinked        uint64            `json:"unlinked"`
	OpenedInSeconds float64           `json:"opened_in_seconds"`
	Agents          []memoryUsageView `json:"agents"`
}

type memoryUsageView struct {
	Agent     string `json:"agent"`
	AgentName string `json:"agent_name,omitempty"`
	Items     uint64 `json:"items"`
	Bytes     uint64 `json:"bytes"`
}

func viewItem(it *apiv1.MemoryItem) itemView {
	return itemView{
		it.GetNamespace(), it.GetId(), it.GetVersion(), it.GetText(), it.GetVector(), orEmpty(it.GetTags()), it.GetCreated(), it.GetUpdated(), it.GetExpires(),
		it.GetAgent(), it.GetAgentName(), it.GetDomain(), it.GetCapability(),
		views(it.GetParents(), func(p *apiv1.MemoryParent) parentView { return parentView{p.GetNamespace(), p.GetId(), p.GetVersion()} }),
	}
}

func viewHit(h *apiv1.MemoryHit) hitView {
	return hitView{viewItem(h.GetItem()), h.GetScore(), h.Cosine, h.Bm25}
}
