// Package account is the ledger of what an agent uses, and of how much it may
// use.
//
// Key types:
//
//   - Ledger has one entry for each Resource of one agent: what is used now,
//     the most that ever was, a soft limit, which is reported when it is
//     reached, and a hard limit, which Charge does not pass.
//   - Bucket meters a rate: it says how long to wait.
//   - Snapshot is everything about one agent, for people and programs outside.
//
// There is no lock: entries and buckets are atomic words, changed by
// compare-and-swap, so a charge neither blocks nor allocates, and limits may
// change while charges are made. The function that hears of crossings runs on
// the goroutine that crossed, without anything held.
//
// Units: bytes, operations, nanoseconds of CPU time, and plain numbers of
// tasks and files. Rates are per second, CPU quotas in thousandths of a CPU.
//
// The package must not import anything but ktime: it knows no agent and no
// kernel.
package account
