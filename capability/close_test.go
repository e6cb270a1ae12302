package capability

import (
	"testing"
	"time"

	"aios.dev/aios/errdefs"
)

// Whoever tries, and however: who is closed gets nothing more, and can lose.
func TestCloseHolder(t *testing.T) {
	w := newWorld(t, Options{}, "giver", "closed", "other")
	root := w.mint("giver", "mem:self,bytes=64M")
	leased := w.give(w.mint("giver", "fs:/d:read+write"), "closed", Change{Lease: ptr(time.Hour)})
	own := w.mint("closed", "cpu:self,weight=50")
	net, err := ParseSpec("net:loopback")
	w.must(err)
	w.CloseHolder("closed")
	if !w.HolderClosed("closed") || w.HolderClosed("giver") || w.HolderClosed("nobody") {
		t.Error("who is closed is not known")
	}
	_, err = w.Mint("closed", net, daemon)
	refused(t, err, errdefs.AgentSealed)
	_, err = w.Delegate(root, "closed", Change{}, false, daemon)
	refused(t, err, errdefs.AgentSealed)
	_, err = w.Delegate(root, "closed", Change{}, true, Actor{Name: "giver"})
	refused(t, err, errdefs.AgentSealed)
	_, err = w.Inherit(root, "closed", Change{}, daemon)
	refused(t, err, errdefs.AgentSealed)
	_, err = w.MintRemoteImage("closed", net, root.ID(), daemon)
	refused(t, err, errdefs.AgentSealed)
	refused(t, w.Renew(leased, 2*time.Hour, daemon), errdefs.AgentSealed)
	more := own.Spec()
	more.Limits.Weight = 100
	refused(t, w.Amend(own, more.Object, more.Limits, daemon), errdefs.AgentSealed)
	if left, _ := root.Left(KindBytes); left != 64<<20 {
		t.Errorf("%d bytes are left of what nobody got", left)
	}
	// It can narrow what it has for itself, hand it on, and has it taken away.
	w.give(leased, "closed", Change{})
	w.give(leased, "other", Change{Rights: ptr(leased.Spec().Rights)})
	if _, err := w.Revoke(leased, true, daemon, "a test"); err != nil {
		t.Error(err)
	}
	if n := len(w.List("closed")); n != 1 {
		t.Errorf("it holds %d capabilities", n)
	}
}
