package daemon

import (
	"testing"

	apiv1 "aios.dev/aios/api/v1"
)

func TestDomainsOfImagesOnly(t *testing.T) {
	for _, test := range []struct {
		spec *apiv1.SpawnRequest
		want bool
	}{
		{&apiv1.SpawnRequest{Isolated: true, Image: "alpine"}, true},
		{&apiv1.SpawnRequest{Isolated: true, Image: "alpine", Grants: []string{"net:loopback", "mem:self,bytes=64M"}}, true},
		{&apiv1.SpawnRequest{Image: "alpine"}, false},
		{&apiv1.SpawnRequest{Isolated: true}, false},
		{&apiv1.SpawnRequest{Isolated: true, Image: "host"}, false},
		{&apiv1.SpawnRequest{Isolated: true, Image: "alpine", Mounts: []*apiv1.Mount{{}}}, false},
		{&apiv1.SpawnRequest{Isolated: true, Image: "alpine", Grants: []string{"net:loopback", "fs:/data:ro"}}, false},
		{&apiv1.SpawnRequest{Isolated: true, Image: "alpine", Grants: []string{"nonsense"}}, false},
	} {
		if got := imagesOnly(test.spec); got != test.want {
			t.Errorf("%v: %v", test.spec, got)
		}
	}
}
