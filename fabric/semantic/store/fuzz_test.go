package store

import (
	"encoding/json"
	"strings"
	"testing"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/ktime"
)

// FuzzQuestion sends anything as a question: every answer is JSON, no failure is
// the service's own, and what the caller may not see is in none.
func FuzzQuestion(f *testing.F) {
	for _, q := range []string{
		`{"namespace":"n","text":"zebra","vector":[1,2],"k":5}`, `{"namespace":"n","ids":["hidden","own"]}`,
		`{"namespace":"n","id":"hidden","text":"x","if_version":0}`, `{"namespace":"n","parents":["hidden","n:hidden"],"text":"x"}`,
		`{"changes":[{"put":{"namespace":"n","text":"a"}},{"delete":{"namespace":"n","all":true}}]}`, `{"namespace":"*","text":"` + strings.Repeat("zebra ", 20) + `"}`,
		`{"namespace":"n","after":"","limit":1000,"tags":["hidden"]}`, `{"namespace":"n","vector":[1e38,1e38],"weight":1.5}`, `{}`, `[]`, `null`, `{"namespace":"n'; DROP TABLE items; --"}`,
	} {
		for i := range semantic.Ops() {
			f.Add(uint8(i), q)
		}
	}
	w := newWorld(f, ktime.Real)
	const secret = "xyzzy-secret"
	by := agent("a1", scope("c1", "n", allRights|abi.SemanticShare, "mine"))
	w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "hidden", Text: "zebra " + secret, Vector: []float32{1, 2}}, nil)
	w.must(operator, semantic.OpPut, semantic.Put{Namespace: "other", ID: "hidden", Text: "zebra " + secret}, nil)
	f.Fuzz(func(t *testing.T, op uint8, body string) {
		name := semantic.Ops()[int(op)%len(semantic.Ops())]
		reply, err := w.s.Do(t.Context(), &semantic.Request{Caller: by, Op: name, Body: json.RawMessage(body)})
		if err != nil {
			switch code := errdefs.CodeOf(err); code {
			case errdefs.Internal, errdefs.HostIO:
				t.Fatalf("%s %q: %v", name, body, err)
			}
			return
		}
		if !json.Valid(reply.Body) || strings.Contains(string(reply.Body), secret) {
			t.Fatalf("%s %q is answered with %s", name, body, reply.Body)
		}
		var items semantic.Items
		(&world{t: t, s: w.s}).must(operator, semantic.OpGet, semantic.Get{Namespace: "n", IDs: []string{"hidden"}}, &items)
		if len(items.Items) != 1 || !strings.Contains(items.Items[0].Text, secret) {
			t.Fatalf("%s %q has removed or changed what is not seen", name, body)
		}
	})
}
