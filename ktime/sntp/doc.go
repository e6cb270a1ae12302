// Package sntp asks time servers what time it is, and has a ktime.Disciplined
// follow them. The host's clock is left alone: who keeps that right needs none
// of this, and who cannot trust it still gets stamps that are right.
//
// Each server is asked at an interval. Of its last answers the one counts that is
// the least uncertain: an answer that was long under way says little (the clock
// filter of RFC 5905, section 10). What a server says is a stretch of time, its
// offset with its uncertainty on either side; servers agree where these overlap,
// and only what more than half of those say that answered is believed (section
// 11.2.1, after K. Marzullo). Then the clock is stepped or slewed:
//
//   - A difference of no more than Step is slewed, at ktime.SlewRate.
//   - A bigger one is stepped: at once the first time, later only when it is seen
//     three times in a row, since it may be the network's fault.
//   - An offset beyond Limit is not believed, whoever says so.
//
// A server that sends a kiss of death is obeyed: after RATE it is asked half as
// often, after any other not again until the configuration names it anew. Before
// each server there is a circuit breaker.
//
// Key types: Config is what the configuration file says; Spec that, examined;
// Sync the work; Status what is known of it.
//
// Locks: Sync.round is held while servers are asked, Sync.mu only for a moment
// and under it. Offsets are of the clock beneath the disciplined one, the
// host's: what is to be added to it.
package sntp
