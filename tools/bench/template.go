package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

// warmImports is what the program of the template has done when it is warm.
const warmImports = "import json, asyncio, urllib.request"

// templateCopies is how many copies are weighed together.
const templateCopies = 50

// template measures how soon a program runs that begins from a template, from the
// request to its first line; beside it, in the same rounds, from a template that makes
// nothing ahead, and the same program in a fresh agent; and what copies take of the
// host's memory.
func (h *harness) template() error {
	if h.aios == nil {
		return nil
	}
	name := "bench-python"
	warm := h.aios.spec("", "python3", "-c", warmImports+`
import os, sys
fd = os.open("/aios/self/template", os.O_WRONLY)
os.write(fd, b"ready")
print("ready", flush=True)
sys.stdin.read()`)
	if _, err := h.aios.TemplateCreate(h.ctx, &apiv1.TemplateCreateRequest{Name: name, Spec: warm}); err != nil {
		return err
	}
	defer h.aios.TemplateRemove(context.WithoutCancel(h.ctx), &apiv1.TemplateRemoveRequest{Template: name})
	const lazy = "bench-lazy"
	warm.Template = &apiv1.TemplatePolicy{Ahead: new(uint32)}
	if _, err := h.aios.TemplateCreate(h.ctx, &apiv1.TemplateCreateRequest{Name: lazy, Spec: warm}); err != nil {
		return err
	}
	defer h.aios.TemplateRemove(context.WithoutCancel(h.ctx), &apiv1.TemplateRemoveRequest{Template: lazy})
	until := func(spec func() *apiv1.SpawnRequest) func(context.Context) (map[string]float64, error) {
		return func(ctx context.Context) (map[string]float64, error) {
			began := time.Now()
			s, err := h.aios.converse(ctx, spec())
			if err != nil {
				return nil, err
			}
			defer s.close()
			line, ok, err := s.line()
			took := time.Since(began)
			if err != nil || !ok || line != "ready" {
				return nil, fmt.Errorf("it said %q: %v", line, err)
			}
			return map[string]float64{elapsed: milliseconds(took)}, nil
		}
	}
	from := func(name string) func() *apiv1.SpawnRequest {
		return func() *apiv1.SpawnRequest { return h.copyOf(name) }
	}
	fresh := func() *apiv1.SpawnRequest {
		return h.aios.spec("", "python3", "-c", warmImports+`
import sys
print("ready", flush=True)
sys.stdin.read()`)
	}
	const own, bare = aios, "fresh"
	got := h.compare(max(20, h.rounds), []contender{{own, until(from(name))}, {lazy, until(from(lazy))}, {bare, until(fresh)}})[elapsed]
	if len(got[own]) == 0 || len(got[bare]) == 0 {
		return fmt.Errorf("nothing was measured")
	}
	h.table.add(row{Figure: "template: python begins, to its first line", Unit: "ms", Runs: len(got[own]),
		Values: ours(percentile(got[own], 50)), P99: ours(percentile(got[own], 99)), Goal: &goal{Limit: 4}})
	if len(got[lazy]) > 0 {
		h.table.add(row{Figure: "template: the same with nothing made ahead", Unit: "ms", Runs: len(got[lazy]),
			Values: ours(percentile(got[lazy], 50)), P99: ours(percentile(got[lazy], 99))})
	}
	h.table.add(row{Figure: "template: the same in a fresh agent", Unit: "ms", Runs: len(got[bare]),
		Values: ours(percentile(got[bare], 50)), P99: ours(percentile(got[bare], 99))})
	h.table.note("template: a fresh agent takes %.1f times as long", percentile(got[bare], 50)/percentile(got[own], 50))
	// One that waits for its job, and one that has run to its first line.
	if err := h.weighCopies("of one of %d copies that wait for their input", "sys.stdin.read()"); err != nil {
		return err
	}
	return h.weighCopies("of one of %d copies that have written a line", `fd = os.open("/aios/self/template", os.O_WRONLY)
os.write(fd, b"ready")
print("ready", flush=True)
sys.stdin.read()`)
}

// copyOf asks for an agent that begins from a template.
func (h *harness) copyOf(name string) *apiv1.SpawnRequest {
	return &apiv1.SpawnRequest{From: name, Process: &apiv1.Process{}, Remove: true}
}

// weighCopies starts copies of a template that does what code says when it is warm, and
// weighs them.
func (h *harness) weighCopies(what, code string) error {
	name := "bench-weighed"
	spec := h.aios.spec("", "python3", "-c", warmImports+", os, sys\n"+code)
	if _, err := h.aios.TemplateCreate(h.ctx, &apiv1.TemplateCreateRequest{Name: name, Spec: spec}); err != nil {
		return err
	}
	defer h.aios.TemplateRemove(context.WithoutCancel(h.ctx), &apiv1.TemplateRemoveRequest{Template: name})
	pids, err := h.aios.pids(h.ctx)
	if err != nil {
		return err
	}
	before, err := settled(h.ctx, pids, usage{})
	if err != nil {
		return err
	}
	var all []*agentSpeaker
	defer func() {
		for _, s := range all {
			s.close()
		}
	}()
	for range templateCopies {
		s, err := h.aios.converse(h.ctx, h.copyOf(name))
		if err != nil {
			return err
		}
		all = append(all, s)
		if !strings.Contains(code, "print") {
			continue
		}
		if line, ok, err := s.line(); err != nil || !ok || line != "ready" {
			return fmt.Errorf("it said %q: %v", line, err)
		}
	}
	during, err := measure(pids)
	if err != nil {
		return err
	}
	h.table.add(row{Figure: fmt.Sprintf("template: host memory "+what, len(all)), Unit: "MiB",
		Values: ours(mebibytes(during.pss-before.pss) / float64(len(all))), Goal: &goal{Limit: 3}})
	return nil
}
