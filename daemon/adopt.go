package daemon

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// adoptDomains connects to the domains of an earlier daemon.
func (d *System) adoptDomains(records map[string]*record) {
	files, _ := filepath.Glob(d.domainPath("*", ".json"))
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		raw, err := os.ReadFile(f)
		var info domainInfo
		if err == nil {
			err = json.Unmarshal(raw, &info)
		}
		if err == nil {
			err = d.adopt(name, info, records)
		}
		if err != nil {
			d.log.Warn("domain is gone", "domain", name, "err", err)
			d.settleRing(name, info.Isolated)
			os.Remove(f)
		}
	}
}

// sweepDomains removes what domains that were not adopted have left.
func (d *System) sweepDomains() {
	keep := make(map[string]bool)
	for _, dom := range d.liveDomains() {
		keep[d.socketOf(dom.name)] = true
		keep[d.domainPath(dom.name, ".root")] = true
		keep[d.domainPath(dom.name, ".log")] = true
		keep[d.domainPath(dom.name, ringSuffix)] = true
	}
	// What an isolated domain that never started said; others' logs are
	// overwritten by the next domain of the name.
	logs, _ := filepath.Glob(d.domainPath("only-*", ".log"))
	rings, _ := filepath.Glob(d.domainPath("only-*", ringSuffix))
	sockets, _ := filepath.Glob(filepath.Join(filepath.Dir(d.paths.Socket), "d????????"))
	roots, _ := filepath.Glob(d.domainPath("*", ".root"))
	for _, path := range slices.Concat(sockets, roots, logs, rings) {
		if !keep[path] {
			os.RemoveAll(path)
		}
	}
}

const adoptTimeout = 5 * time.Second

func (d *System) adopt(name string, info domainInfo, records map[string]*record) error {
	dom := d.newDomain(name)
	dom.info = info // +checklocksignore: nobody else knows dom yet.
	d.mu.Lock()
	d.domains[name] = dom // First: its death, at any moment, takes it out again.
	d.mu.Unlock()
	dom.joining.Lock()
	agents, err := dom.join(info)
	if err != nil {
		killProcess(info)
		dom.bury()
		dom.joining.Unlock()
		return err
	}
	known := dom.compare(agents, records)
	dom.joining.Unlock()
	if !known {
		<-dom.gone // Whoever tells of its end is at it.
		return errdefs.New(errdefs.DomainDied, "its kernel process ended while it was adopted")
	}
	dom.rounds.start(dom, info.CheckpointEvery)
	d.spares.want()
	d.log.Info("domain adopted", "domain", name, "pid", info.PID, "agents", len(agents))
	adopted := &eventv1.DomainAdopt{Pid: int32(info.PID)}
	for _, st := range agents {
		adopted.Agents = append(adopted.Agents, st.ID)
	}
	d.emit(event.DomainAdopt, "", name, adopted)
	if info.Isolated && len(agents) == 0 { // Its agent never came to be.
		for _, r := range records {
			if r.domName == name && !r.final() && !r.heardOf {
				d.disown(r)
			}
		}
		d.stopDomain(dom)
	}
	return nil
}

// againPause lies between two attempts to connect again.
const againPause = 5 * time.Millisecond

// join connects to the kernel process that runs already, and asks which agents it
// has. A connection that is cut meanwhile is made again.
//
// +checklocks:dom.joining
func (dom *domain) join(info domainInfo) ([]control.AgentStatus, error) {
	ctx, cancel := background(adoptTimeout)
	defer cancel()
	for {
		var list control.ListReply
		err := dom.connect(ctx, info)
		if err == nil {
			err = dom.call(ctx, control.MethodList, struct{}{}, &list)
		}
		if err == nil {
			return list.Agents, nil
		}
		if ctx.Err() != nil || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
			return nil, err // Nobody listens: the process is gone.
		}
		<-after(dom.d.clock, againPause)
	}
}

// disconnected is the end of a connection. Nearly always the kernel process has
// ended. One that lives had more to say than this daemon, which was stopped or
// had no CPU, took in time: it is connected to again, and has kept what was not
// acknowledged.
func (dom *domain) disconnected(client *control.Client, info domainInfo) {
	dom.joining.Lock() // Whoever is at it connects again.
	dom.mu.Lock()
	over := dom.client != client || dom.dead
	dom.mu.Unlock()
	lives := over || !dom.stopping.Load() && dom.rejoin(info)
	dom.joining.Unlock()
	if !lives {
		dom.d.domainDied(dom)
	}
}

// rejoin reports whether the domain is connected again.
//
// +checklocks:dom.joining
func (dom *domain) rejoin(info domainInfo) bool {
	agents, err := dom.join(info)
	if err != nil {
		return false
	}
	d := dom.d
	d.mu.Lock()
	records := maps.Clone(d.agents)
	d.mu.Unlock()
	dom.compare(agents, records)
	d.log.Warn("the kernel process had cut the connection: this daemon was too slow", "domain", dom.name, "agents", len(agents))
	return true
}

// claim gives the domain the agents that its kernel process has, or reports
// false: the process has ended, and who it had is known.
func (dom *domain) claim(agents []control.AgentStatus, records map[string]*record) bool {
	dom.claiming.Lock()
	defer dom.claiming.Unlock()
	if dom.died {
		return false
	}
	for _, st := range agents {
		r := records[st.ID]
		if r == nil {
			continue
		}
		r.mu.Lock()
		if !r.state.Final() {
			r.domain = dom
			r.state = abi.StateRunning // Or paused, which the domain tells; an end is told by compare.
		}
		r.mu.Unlock()
	}
	return true
}

// orphans returns the agents of a domain whose kernel process has ended. It gets
// no others from now on.
func (dom *domain) orphans() []*record {
	dom.claiming.Lock()
	defer dom.claiming.Unlock()
	dom.died = true
	var out []*record
	for _, r := range dom.d.records() {
		r.mu.Lock()
		mine := r.domain == dom // No longer so when it has ended.
		r.mu.Unlock()
		if mine {
			out = append(out, r)
		}
	}
	return out
}

// compare brings the records into line with what the kernel process says. It
// reports false, and does nothing, when the process has ended meanwhile.
func (dom *domain) compare(agents []control.AgentStatus, records map[string]*record) bool {
	if !dom.claim(agents, records) {
		return false
	}
	for _, st := range agents {
		r := records[st.ID]
		if r == nil {
			// Its record was never written or is gone: nobody can have
			// been told of it.
			if st.Exit == nil {
				dom.discard(st.ID) // Its end is reported, and then it is forgotten.
			} else {
				dom.notify(control.MethodForget, control.AgentRequest{ID: st.ID})
			}
			continue
		}
		dom.learnUpgrade(r)
		if st.Exit != nil {
			dom.d.agentEnded(dom, control.ExitEvent{ID: st.ID, Exit: *st.Exit, Time: st.Ended})
		}
	}
	return true
}
