package daemon

import (
	"context"
	"sort"

	"google.golang.org/grpc"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/images"
)

// imageNamed is Get of the store, remembered until an import or a removal:
// nobody else changes the store while the daemon runs.
func (d *System) imageNamed(name string) (images.Image, error) {
	if img, ok := d.known.Load(name); ok {
		return img.(images.Image), nil
	}
	img, err := d.images.Get(name)
	if err == nil {
		d.known.Store(name, img)
	}
	return img, err
}

// ImageImport implements the RPC.
func (d *System) ImageImport(req *apiv1.ImageImportRequest, rpc grpc.ServerStreamingServer[apiv1.ImageImportResponse]) error {
	var sendErr error
	defer d.known.Clear()
	img, err := d.images.Import(rpc.Context(), req.GetName(), req.GetSource(), images.ImportOptions{
		Replace: req.GetReplace(),
		Progress: func(phase images.Phase, done, total int64) {
			if sendErr == nil {
				sendErr = rpc.Send(&apiv1.ImageImportResponse{Msg: &apiv1.ImageImportResponse_Progress{
					Progress: &apiv1.ImageProgress{Phase: string(phase), Done: done, Total: total},
				}})
			}
		},
	})
	if err != nil {
		return err
	}
	return rpc.Send(&apiv1.ImageImportResponse{Msg: &apiv1.ImageImportResponse_Image{Image: d.imageProto(img)}})
}

// ImageList implements the RPC.
func (d *System) ImageList(ctx context.Context, _ *apiv1.ImageListRequest) (*apiv1.ImageListResponse, error) {
	list, err := d.images.List()
	if err != nil {
		return nil, err
	}
	resp := &apiv1.ImageListResponse{}
	if host, err := d.hostImage(ctx); err == nil { // Else whoever uses it hears why.
		resp.Images = append(resp.Images, d.imageProto(host))
	}
	for _, img := range list {
		resp.Images = append(resp.Images, d.imageProto(img))
	}
	return resp, nil
}

// ImageInspect implements the RPC.
func (d *System) ImageInspect(ctx context.Context, req *apiv1.ImageInspectRequest) (*apiv1.ImageInspectResponse, error) {
	if req.GetName() == images.HostName {
		img, err := d.hostImage(ctx)
		if err != nil {
			return nil, err
		}
		return &apiv1.ImageInspectResponse{Image: d.imageProto(img)}, nil
	}
	img, err := d.images.Get(req.GetName())
	if err != nil {
		return nil, err
	}
	return &apiv1.ImageInspectResponse{Image: d.imageProto(img)}, nil
}

// hostImage describes the host image.
func (d *System) hostImage(ctx context.Context) (images.Image, error) {
	h, f, err := d.images.HostImage(ctx, images.HostOptions{})
	if err != nil {
		return images.Image{}, err
	}
	f.Close()
	h.Image.Config.Env = h.Env
	return h.Image, nil
}

// ImageRemove implements the RPC.
func (d *System) ImageRemove(_ context.Context, req *apiv1.ImageRemoveRequest) (*apiv1.ImageRemoveResponse, error) {
	if req.GetName() == images.HostName {
		return nil, errdefs.New(errdefs.InvalidArgument, "the host image is built in and cannot be removed")
	}
	defer d.known.Clear()
	return &apiv1.ImageRemoveResponse{}, d.images.Remove(req.GetName(), func(img images.Image) []string {
		return d.usersOf(img.Name)
	})
}

// usersOf returns the agents that have not ended and run the named image.
func (d *System) usersOf(image string) []string {
	var out []string
	for _, r := range d.records() {
		if imageName(r.spec()) == image && !r.final() {
			out = append(out, r.label())
		}
	}
	sort.Strings(out)
	return out
}

func (d *System) imageProto(img images.Image) *apiv1.Image {
	return &apiv1.Image{
		Name: img.Name, Digest: img.Digest, SizeBytes: img.Size, CreatedUnixNano: img.Created.UnixNano(),
		SourceKind: string(img.Kind), Files: uint64(img.Files), Architecture: img.Config.Architecture,
		Env: img.Config.Env, Entrypoint: img.Config.Entrypoint, Cmd: img.Config.Cmd,
		WorkingDir: img.Config.WorkingDir, User: img.Config.User,
		Warnings: img.Warnings, UsedBy: d.usersOf(img.Name),
	}
}
