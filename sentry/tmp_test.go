package sentry
import "testing"
func TestTmp(t *testing.T) {
	bomb := spawn(t, []string{"sh", "-c", "(while :; do sleep 1000 & done); exec sleep 1000"}, tasks(40))
	eventually(t, func() bool { return inspect(t, bomb.id).Tasks >= 30 })
	t.Logf("%+v", inspect(t, bomb.id))
	o,e,x := spawn(t, []string{"sh", "-c", "ulimit -u; for i in 1 2 3; do sleep 5 & done; ps"}, tasks(40)).output()
	t.Log(o,e,x)
	t.Logf("%+v", inspect(t, bomb.id))
}
