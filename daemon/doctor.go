package daemon

import (
	"context"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/host"
	"aios.dev/aios/platform/drivers"
)

// Doctor implements the RPC.
func (d *System) Doctor(ctx context.Context, _ *apiv1.DoctorRequest) (*apiv1.DoctorResponse, error) {
	facts := host.Examine(ctx, d.paths.StateDir)
	platforms, usable := d.examinePlatforms()
	facts.Findings = append(append(platforms, facts.Findings...), d.memory.examine())
	resp := &apiv1.DoctorResponse{Usable: usable, Warning: facts.Warning()}
	for _, f := range facts.Findings {
		resp.Findings = append(resp.Findings, &apiv1.Finding{
			Name: f.Name, Status: string(f.Status), Found: f.What, Effect: f.Effect, Fix: f.Fix,
		})
	}
	return resp, nil
}

// examinePlatforms probes every platform; one that works is enough.
func (d *System) examinePlatforms() (findings []host.Finding, usable bool) {
	auto := ""
	for _, driver := range drivers.All() {
		f := host.Finding{Name: "platform " + driver.Name(), Status: host.OK, What: "works"}
		if err := driver.Probe(); err != nil {
			f.Status, f.What, f.Fix = host.Degraded, reasonOf(err), errdefs.FixOf(err)
		} else if auto == "" {
			auto = driver.Name()
			f.What = "works; --platform auto chooses it"
		}
		findings = append(findings, f)
	}
	for i, f := range findings {
		switch {
		case f.Status == host.OK:
		case auto == "":
			findings[i].Status, findings[i].Effect = host.Missing, "agents cannot run on it"
		default:
			findings[i].Effect = "agents run on " + auto
		}
	}
	return findings, auto != ""
}

// reasonOf is what went wrong, without saying again what was attempted.
func reasonOf(err error) string {
	if e, ok := err.(*errdefs.Error); ok {
		e = e.With(errdefs.Op(""), errdefs.Resource(""))
		return e.Error()
	}
	return err.Error()
}
