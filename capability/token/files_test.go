package token

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	key, err := LoadOrCreateKey(path)
	must(t, err)
	again, err := LoadOrCreateKey(path)
	must(t, err)
	if key.ID() != again.ID() || !key.Public().Equal(again.Public()) || key.ID() == testKey(1).ID() {
		t.Errorf("made %v, read %v", key, again)
	}
	text, err := os.ReadFile(path)
	must(t, err)
	if s := fmt.Sprintf("%v %+v %#v", key, key, key); strings.Contains(s, strings.TrimSpace(string(text))[12:]) || !strings.Contains(s, key.ID().String()) {
		t.Errorf("prints %s", s)
	}
	tok, err := Issue(key, claims(t), start)
	must(t, err)
	_, err = Verify(tok, Policy{Trust: func(KeyID) (ed25519.PublicKey, bool) { return again.Public(), true }, Audience: "host-a", Now: start})
	must(t, err)
	must(t, os.Chmod(path, 0o644))
	_, err = LoadOrCreateKey(path)
	wantCode(t, "readable for all", err, errdefs.Denied)
	must(t, os.WriteFile(path, []byte("nonsense"), 0o600))
	must(t, os.Chmod(path, 0o600))
	_, err = LoadOrCreateKey(path)
	wantCode(t, "damaged", err, errdefs.InvalidArgument)
	_, err = LoadOrCreateKey(filepath.Join(path, "below"))
	if err == nil {
		t.Error("made a key below a file")
	}
}

func TestPublicKeyText(t *testing.T) {
	text := FormatPublic(testKey(1).Public())
	key, err := ParsePublic(text)
	if err != nil || !testKey(1).Public().Equal(key) {
		t.Errorf("%s read as %x, %v", text, key, err)
	}
	for _, bad := range []string{"", text[:len(text)-1], text + "A", "aios1key." + text[9:], text[:20] + "\n" + text[20:]} {
		_, err := ParsePublic(bad)
		wantCode(t, fmt.Sprintf("%q", bad), err, errdefs.InvalidArgument)
	}
}

func TestTrust(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trust")
	tr, err := OpenTrust(path, testKey(1))
	must(t, err)
	id, err := tr.Add(testKey(2).Public())
	must(t, err)
	_, err = tr.Add(testKey(3).Public())
	must(t, err)
	_, err = tr.Add(ed25519.PublicKey{1})
	wantCode(t, "no key", err, errdefs.InvalidArgument)
	must(t, tr.Remove(id))
	wantCode(t, "remove twice", tr.Remove(id), errdefs.NotFound)
	wantCode(t, "remove own", tr.Remove(testKey(1).ID()), errdefs.NotFound)
	tr, err = OpenTrust(path, testKey(1))
	must(t, err)
	for n, want := range map[byte]bool{1: true, 2: false, 3: true} {
		if key, ok := tr.Key(testKey(n).ID()); ok != want || ok && !testKey(n).Public().Equal(key) {
			t.Errorf("key %d: %v", n, ok)
		}
	}
	if keys := tr.Keys(); len(keys) != 1 {
		t.Errorf("keys %x", keys)
	}
	must(t, os.WriteFile(path, []byte("x\n"), 0o600))
	_, err = OpenTrust(path, testKey(1))
	wantCode(t, "damaged", err, errdefs.InvalidArgument)
}

func TestRevocations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "revoked")
	clock := ktime.NewFake(start)
	open := func() *Revocations {
		t.Helper()
		r, err := OpenRevocations(path, clock)
		must(t, err)
		t.Cleanup(func() { r.Close() })
		return r
	}
	r := open()
	short, long, unknown := ID{1}, ID{2}, ID{3}
	must(t, r.Revoke(short, start.Add(time.Hour)))
	must(t, r.Revoke(long, start.Add(100*24*time.Hour)))
	must(t, r.Revoke(unknown, time.Time{}))
	must(t, r.Revoke(short, start.Add(time.Minute))) // Known for longer already.
	check := func(r *Revocations, want ...ID) {
		t.Helper()
		for _, id := range want {
			if !r.Revoked(id) {
				t.Errorf("%v is not revoked", id)
			}
		}
		if r.Len() != len(want) || r.Revoked(ID{9}) {
			t.Errorf("%d are revoked, want %d", r.Len(), len(want))
		}
	}
	check(r, short, long, unknown)
	must(t, r.Close())
	check(open(), short, long, unknown)

	// A line that was not written to its end was never promised.
	data, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, append(data, (revocation{1, 1}).line(ID{7})[:30]...), 0o600))
	r = open()
	check(r, short, long, unknown)
	must(t, r.Revoke(ID{8}, start.Add(time.Hour)))
	check(open(), short, long, unknown, ID{8})

	clock.Advance(time.Hour + Retain + time.Second)
	must(t, r.Prune())
	check(r, long, unknown)
	check(open(), long, unknown)
	clock.Advance(100 * 24 * time.Hour)
	check(open(), unknown)
	clock.Advance(MaxLifetime)
	check(open())
}

func TestRevocationsDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "revoked")
	r, err := OpenRevocations(path, ktime.NewFake(start))
	must(t, err)
	for i := range byte(3) {
		must(t, r.Revoke(ID{i}, start.Add(time.Hour)))
	}
	must(t, r.Close())
	data, err := os.ReadFile(path)
	must(t, err)
	for i := range len(data) - 1 { // Without its last newline the last line is incomplete.
		bad := append([]byte{}, data...)
		bad[i] ^= 1
		must(t, os.WriteFile(path, bad, 0o600))
		r, err := OpenRevocations(path, ktime.NewFake(start))
		if err == nil {
			r.Close()
			t.Fatalf("byte %d of %q changed to %q, and nobody noticed", i, data[i], bad[i])
		}
		wantCode(t, "damaged", err, errdefs.HostIO)
	}
}

func TestRevokeThatIsNotOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "revoked")
	r, err := OpenRevocations(path, ktime.NewFake(start))
	must(t, err)
	must(t, r.Revoke(ID{1}, start.Add(time.Hour)))
	must(t, r.file.Close()) // As a disk that refuses.
	if err := r.Revoke(ID{2}, start.Add(time.Hour)); !errors.Is(err, errdefs.HostIO) {
		t.Fatalf("revoked on a disk that refuses: %v", err)
	}
	if !r.Revoked(ID{2}) {
		t.Error("what could not be written is not in force")
	}
	must(t, r.Revoke(ID{2}, start.Add(time.Hour)))
	must(t, r.Close())
	if r, err = OpenRevocations(path, ktime.NewFake(start)); err != nil || !r.Revoked(ID{1}) || !r.Revoked(ID{2}) {
		t.Errorf("read back: %v", err)
	}
	must(t, r.Close())
}
