package daemon

import (
	"context"
	"encoding/json"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/fabric/semantic"
)

// memoryService serves the API's service Memory.
type memoryService struct {
	apiv1.UnimplementedMemoryServer
	d *System
}

// ask asks for an operator; the answer goes into out.
func (s *memoryService) ask(ctx context.Context, op string, params, out any) error {
	body, err := json.Marshal(params)
	if err != nil {
		return errdefs.Wrap(err, errdefs.InvalidArgument, "memory "+op)
	}
	reply, err := s.d.memory.ask(ctx, &semantic.Request{
		Caller: semantic.Caller{Scopes: []semantic.Scope{semantic.Operator()}}, Op: op, Body: body,
	})
	if err != nil {
		return err
	}
	s.tell(ctx, op, reply)
	return errdefs.Wrap(json.Unmarshal(reply.Body, out), errdefs.Protocol, "memory "+op)
}

// tell publishes and records what an operator has done.
func (s *memoryService) tell(ctx context.Context, op string, reply *semantic.Reply) {
	t := event.SemanticRead
	switch {
	case op == semantic.OpDelete:
		t = event.SemanticDelete
	case semantic.Writes(op):
		t = event.SemanticWrite
	case reply.Namespace == "":
		return
	}
	by := actor(ctx)
	s.d.emit(t, "", "", &eventv1.Semantic{
		Op: op, Namespace: event.Text(reply.Namespace), Items: uint32(reply.Seen + reply.Changed), By: by.Name,
		HeldItems: reply.Usage.Items, HeldBytes: reply.Usage.Bytes,
	})
	if semantic.Writes(op) {
		s.d.record(audit.Entry{Op: "memory." + op, Actor: by.Name, Correlation: by.Correlation, Target: reply.Namespace})
	}
}

func memoryItem(it *semantic.Item) *apiv1.MemoryItem {
	p := it.Provenance
	out := &apiv1.MemoryItem{
		Namespace: it.Namespace, Id: it.ID, Version: it.Version, Text: it.Text, Vector: it.Vector, Tags: it.Tags,
		Created: it.Created, Updated: it.Updated, Expires: it.Expires,
		Agent: p.Agent, AgentName: p.Name, Domain: p.Domain, Capability: p.Capability,
	}
	for _, parent := range p.Parents {
		out.Parents = append(out.Parents, &apiv1.MemoryParent{Namespace: parent.Namespace, Id: parent.ID, Version: parent.Version})
	}
	return out
}

func memoryItems(list []semantic.Item) (out []*apiv1.MemoryItem) {
	for i := range list {
		out = append(out, memoryItem(&list[i]))
	}
	return out
}

// MemoryPut implements the RPC.
func (s *memoryService) MemoryPut(ctx context.Context, req *apiv1.MemoryPutRequest) (*apiv1.MemoryPutResponse, error) {
	var b semantic.Batch
	for _, it := range req.GetItems() {
		b.Changes = append(b.Changes, semantic.Change{Put: &semantic.Put{
			Namespace: it.GetNamespace(), ID: it.GetId(), Text: it.GetText(), Vector: it.GetVector(), Tags: it.GetTags(),
			TTL: it.GetTtlSeconds(), Parents: it.GetParents(), IfVersion: it.IfVersion,
		}})
	}
	var done semantic.Batched
	if err := s.ask(ctx, semantic.OpBatch, b, &done); err != nil {
		return nil, err
	}
	resp := &apiv1.MemoryPutResponse{}
	for _, r := range done.Results {
		resp.Items = append(resp.Items, &apiv1.MemoryWritten{Id: r.Put.ID, Version: r.Put.Version})
	}
	return resp, nil
}

// MemoryGet implements the RPC.
func (s *memoryService) MemoryGet(ctx context.Context, req *apiv1.MemoryGetRequest) (*apiv1.MemoryGetResponse, error) {
	var items semantic.Items
	err := s.ask(ctx, semantic.OpHistory, semantic.History{Namespace: req.GetNamespace(), ID: req.GetId(), Vectors: req.GetVectors()}, &items)
	return &apiv1.MemoryGetResponse{Versions: memoryItems(items.Items)}, err
}

// MemorySearch implements the RPC.
func (s *memoryService) MemorySearch(ctx context.Context, req *apiv1.MemorySearchRequest) (*apiv1.MemorySearchResponse, error) {
	var hits semantic.Hits
	err := s.ask(ctx, semantic.OpSearch, semantic.Search{
		Namespace: req.GetNamespace(), Text: req.GetText(), Vector: req.GetVector(), K: int(req.GetK()), Mode: req.GetMode(),
		Tags: req.GetTags(), Exact: req.GetExact(), Weight: req.Weight,
	}, &hits)
	resp := &apiv1.MemorySearchResponse{}
	for i := range hits.Hits {
		h := &hits.Hits[i]
		resp.Hits = append(resp.Hits, &apiv1.MemoryHit{Item: memoryItem(&h.Item), Score: h.Score, Cosine: h.Cosine, Bm25: h.BM25})
	}
	return resp, err
}

// MemoryList implements the RPC.
func (s *memoryService) MemoryList(ctx context.Context, req *apiv1.MemoryListRequest) (*apiv1.MemoryListResponse, error) {
	var items semantic.Items
	err := s.ask(ctx, semantic.OpList, semantic.List{
		Namespace: req.GetNamespace(), Tags: req.GetTags(), After: req.GetAfter(), Limit: int(req.GetLimit()),
	}, &items)
	return &apiv1.MemoryListResponse{Items: memoryItems(items.Items), Next: items.Next}, err
}

// MemoryRemove implements the RPC.
func (s *memoryService) MemoryRemove(ctx context.Context, req *apiv1.MemoryRemoveRequest) (*apiv1.MemoryRemoveResponse, error) {
	resp := &apiv1.MemoryRemoveResponse{}
	for {
		var done semantic.Deleted
		err := s.ask(ctx, semantic.OpDelete, semantic.Delete{Namespace: req.GetNamespace(), IDs: req.GetIds(), All: req.GetAll()}, &done)
		resp.Removed += uint32(done.Deleted)
		if err != nil || !req.GetAll() || done.Deleted == 0 {
			return resp, err
		}
	}
}

// MemoryNamespaces implements the RPC.
func (s *memoryService) MemoryNamespaces(ctx context.Context, _ *apiv1.MemoryNamespacesRequest) (*apiv1.MemoryNamespacesResponse, error) {
	var all semantic.Namespaces
	err := s.ask(ctx, semantic.OpNamespaces, struct{}{}, &all)
	resp := &apiv1.MemoryNamespacesResponse{}
	for _, n := range all.Namespaces {
		resp.Namespaces = append(resp.Namespaces, &apiv1.MemoryNamespace{Name: n.Name, Items: uint32(n.Items), Dimensions: uint32(n.Dimensions)})
	}
	return resp, err
}

// MemoryStats implements the RPC.
func (s *memoryService) MemoryStats(ctx context.Context, _ *apiv1.MemoryStatsRequest) (*apiv1.MemoryStatsResponse, error) {
	var st semantic.Stats
	err := s.ask(ctx, semantic.OpStats, struct{}{}, &st)
	resp := &apiv1.MemoryStatsResponse{
		Items: st.Usage.Items, Bytes: st.Usage.Bytes, StoreBytes: uint64(st.Store), Vectors: uint64(st.Vectors), Unlinked: uint64(st.Unlinked),
		OpenedInSeconds: st.OpenedIn,
	}
	for _, a := range st.Agents {
		resp.Agents = append(resp.Agents, &apiv1.MemoryUsage{Agent: a.Agent, AgentName: a.Name, Items: a.Items, Bytes: a.Bytes})
	}
	return resp, err
}
