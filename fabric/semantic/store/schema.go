package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/url"
	"path/filepath"

	_ "modernc.org/sqlite" // SQLite, in Go

	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/internal/safefile"
)

// schemaVersion is what the file says of its form.
const schemaVersion = 2

// The vector comes last, so that what reads the rest passes over its pages.
const schema = `
CREATE TABLE namespaces (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, dims INTEGER NOT NULL);
CREATE TABLE high (version INTEGER NOT NULL);
INSERT INTO high VALUES (0);
CREATE TABLE items (
	key INTEGER PRIMARY KEY, ns INTEGER NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, created INTEGER NOT NULL,
	expires INTEGER NOT NULL, tags TEXT NOT NULL, agent TEXT NOT NULL, name TEXT NOT NULL, domain TEXT NOT NULL, cap TEXT NOT NULL,
	parents TEXT NOT NULL, bytes INTEGER NOT NULL, text TEXT NOT NULL, vector BLOB, UNIQUE (ns, id));
CREATE INDEX items_expires ON items (expires) WHERE expires <> 0;
CREATE TABLE versions (
	key INTEGER NOT NULL, ns INTEGER NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, created INTEGER NOT NULL,
	expires INTEGER NOT NULL, tags TEXT NOT NULL, agent TEXT NOT NULL, name TEXT NOT NULL, domain TEXT NOT NULL, cap TEXT NOT NULL,
	parents TEXT NOT NULL, bytes INTEGER NOT NULL, text TEXT NOT NULL, vector BLOB, UNIQUE (key, version));
`

// indexes came with version 2: from them alone a store is opened that has saved its
// own, without a look at the items.
const indexes = `
CREATE INDEX items_versions ON items (ns, version);
CREATE INDEX items_usage ON items (agent, cap, name, bytes);
CREATE INDEX versions_usage ON versions (agent, cap, name, bytes);
PRAGMA user_version = 2;
`

// columns are those of a row, in the order of scan.
const columns = "key, ns, id, version, created, expires, tags, agent, name, domain, cap, parents, bytes, text"

// row is an item, or an earlier version of one, as the file has it.
type row struct {
	key, ns          int64
	id               string
	version          int64
	created, expires int64
	tags             []string
	agent, name      string
	domain, cap      string
	parents          []semantic.Parent
	bytes            int64
	text             string
	vector           []byte
}

// scanner is a row of an answer of SQLite.
type scanner interface{ Scan(into ...any) error }

// scan reads a row, and its vector if that was asked for.
func (r *row) scan(from scanner, vector bool) error {
	var tags, parents string
	into := []any{&r.key, &r.ns, &r.id, &r.version, &r.created, &r.expires, &tags, &r.agent, &r.name, &r.domain, &r.cap, &parents, &r.bytes, &r.text}
	if vector {
		into = append(into, &r.vector)
	}
	if err := from.Scan(into...); err != nil {
		return err
	}
	r.tags, r.parents = nil, nil
	if err := unlist(tags, &r.tags); err != nil {
		return err
	}
	return unlist(parents, &r.parents)
}

func unlist(text string, into any) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), into)
}

func list[T any](of []T) string {
	if len(of) == 0 {
		return ""
	}
	b, _ := json.Marshal(of) // Of strings and numbers.
	return string(b)
}

// item is the row as callers see it.
func (r *row) item(namespace string, vectors bool) semantic.Item {
	it := semantic.Item{
		Namespace: namespace, ID: r.id, Version: r.version, Text: r.text, Tags: r.tags,
		Created: seconds(r.created), Updated: seconds(r.version), Expires: seconds(r.expires),
		Provenance: semantic.Provenance{Agent: r.agent, Name: r.name, Domain: r.domain, Capability: r.cap, Parents: r.parents},
	}
	if vectors {
		it.Vector = unpack(r.vector)
	}
	return it
}

func seconds(micro int64) float64 { return float64(micro) / 1e6 }

// size is what a version counts for.
func size(text string, vector int, tags []string, id string) int64 {
	n := len(text) + 4*vector + len(id)
	for _, t := range tags {
		n += len(t)
	}
	return int64(n)
}

func pack(v []float32) []byte {
	if len(v) == 0 {
		return nil
	}
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

func unpack(b []byte) []float32 {
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

func broken(err error, op string) error {
	return safefile.Fail(err, "memory "+op, "memory.db")
}

// openFile opens the file in dir, and makes it if there is none. The first is for
// the writer, the second for readers.
func openFile(dir string) (write, read *sql.DB, err error) {
	dsn := func(more string) string {
		u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.Join(dir, "memory.db")}).EscapedPath()}
		return u.String() + "?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=temp_store(MEMORY)" +
			"&_pragma=cache_size(-16000)&_pragma=foreign_keys(0)&_txlock=immediate" + more
	}
	if write, err = sql.Open("sqlite", dsn("")); err != nil {
		return nil, nil, broken(err, "open")
	}
	write.SetMaxOpenConns(1)
	var version int
	if err := write.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		write.Close()
		return nil, nil, broken(err, "open")
	}
	switch version {
	case schemaVersion:
	case 0:
		err = reform(write, schema+indexes)
	case 1:
		err = reform(write, indexes)
	default:
		write.Close()
		return nil, nil, errdefs.Newf(errdefs.Unsupported, "the store is of version %d, this AIOS knows %d", version, schemaVersion).
			With(errdefs.Op("memory open"), errdefs.Fix("use the AIOS that wrote it, or a newer one"))
	}
	if err != nil {
		write.Close()
		return nil, nil, broken(err, "create")
	}
	if read, err = sql.Open("sqlite", dsn("&_pragma=query_only(1)")); err != nil {
		write.Close()
		return nil, nil, broken(err, "open")
	}
	read.SetMaxOpenConns(4)
	read.SetMaxIdleConns(4)
	return write, read, nil
}

// reform changes the form of the file, all or nothing.
func reform(db *sql.DB, statements string) error {
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // Nothing once it is committed.
	if _, err := tx.Exec(statements); err != nil {
		return err
	}
	return tx.Commit()
}
