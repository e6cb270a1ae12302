package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

func (a *app) imageCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image COMMAND",
		RunE:  group,
		Short: "Import, list and remove images",
		Long: `An image is the root file system of agents: one read-only file that all agents
share. The image "host", made of this host's own programs, always exists.`,
		Example: "  aiosctl image import alpine ./alpine.tar\n  aiosctl image ls\n  aiosctl run --image alpine -- sh",
	}
	cmd.AddCommand(a.imageImportCmd(), a.imageListCmd(), a.imageInspectCmd(), a.imageRemoveCmd())
	return cmd
}

func (a *app) imageImportCmd() *cobra.Command {
	var (
		replace bool
		output  string
	)
	cmd := &cobra.Command{
		Use:   "import [flags] NAME SOURCE",
		Short: "Make an image of a directory, an OCI archive or an OCI layout",
		Example: `  aiosctl image import mytools ./rootfs
  aiosctl image import alpine alpine-oci.tar
  aiosctl image import --replace alpine ./oci-layout`,
		Args: exactly(2, "the image's name or its source"),
		RunE: func(cmd *cobra.Command, args []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if err := checkName("image name", args[0]); err != nil {
				return err
			}
			source, err := filepath.Abs(args[1])
			if err != nil {
				return errdefs.Wrap(err, errdefs.HostIO, "find "+args[1])
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				stream, err := c.ImageImport(ctx, &apiv1.ImageImportRequest{Name: args[0], Source: source, Replace: replace})
				if err != nil {
					return err
				}
				img, err := a.followImport(stream)
				switch {
				case errdefs.CodeOf(err) == errdefs.ImageExists && errdefs.FixOf(err) == "":
					return errdefs.Wrap(err, errdefs.ImageExists, "", errdefs.Fix("choose another name, or give --replace"))
				case err != nil:
					return err
				}
				a.warn(img.GetWarnings())
				if json {
					return a.printJSON(viewImage(img))
				}
				_, err = fmt.Fprintf(a.stdout, "%s %s %s, %d files\n", img.GetName(), img.GetDigest(), size(uint64(img.GetSizeBytes())), img.GetFiles())
				return err
			})
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "replace an image of that name")
	outputFlag(cmd, &output, "json")
	return cmd
}

// importStream is the part of the generated stream that followImport uses.
type importStream interface {
	Recv() (*apiv1.ImageImportResponse, error)
}

// followImport shows progress until the image is there.
func (a *app) followImport(stream importStream) (*apiv1.Image, error) {
	p := a.progress()
	defer p.finish()
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return nil, errdefs.New(errdefs.Protocol, "the daemon ended the import without an image")
		}
		if err != nil {
			return nil, err
		}
		switch m := m.GetMsg().(type) {
		case *apiv1.ImageImportResponse_Progress:
			p.update(m.Progress)
		case *apiv1.ImageImportResponse_Image:
			return m.Image, nil
		}
	}
}

func (a *app) imageListCmd() *cobra.Command {
	var (
		quiet  bool
		output string
	)
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List images",
		Example: "  aiosctl image ls\n  aiosctl image ls -o json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.ImageList(ctx, &apiv1.ImageListRequest{})
				switch {
				case err != nil:
					return err
				case json:
					return a.printJSON(views(resp.GetImages(), viewImage))
				case quiet:
					for _, i := range resp.GetImages() {
						fmt.Fprintln(a.stdout, i.GetName())
					}
					return nil
				}
				return a.imageTable(resp.GetImages())
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	outputFlag(cmd, &output, "json")
	return cmd
}

// digestColumn is how much of a digest a table shows.
const digestColumn = len("sha256:") + 12

func (a *app) imageTable(images []*apiv1.Image) error {
	rows := make([][]string, 0, len(images))
	for _, i := range images {
		digest := i.GetDigest()
		if len(digest) > digestColumn {
			digest = digest[:digestColumn]
		}
		rows = append(rows, []string{
			i.GetName(), dash(digest), size(uint64(i.GetSizeBytes())), strconv.FormatUint(i.GetFiles(), 10),
			dash(i.GetSourceKind()), a.age(i.GetCreatedUnixNano()), strconv.Itoa(len(i.GetUsedBy())),
		})
	}
	return a.table([]string{"NAME", "DIGEST", "SIZE", "FILES", "SOURCE", "AGE", "AGENTS"}, rows)
}

func (a *app) imageInspectCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "inspect [flags] IMAGE…",
		Short:   "Show everything about images",
		Example: "  aiosctl image inspect host\n  aiosctl image inspect -o json alpine",
		Args:    atLeast(1, "the image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			all, shown := []imageView{}, 0
			err = a.each(cmd, args, func(ctx context.Context, c *client.Client, name string) error {
				resp, err := c.ImageInspect(ctx, &apiv1.ImageInspectRequest{Name: name})
				if err != nil {
					return err
				}
				if json {
					all = append(all, viewImage(resp.GetImage()))
					return nil
				}
				if shown++; shown > 1 {
					fmt.Fprintln(a.stdout)
				}
				return a.printImage(resp.GetImage())
			})
			if json {
				if jerr := a.printJSON(all); err == nil {
					err = jerr
				}
			}
			return err
		},
		ValidArgsFunction: a.complete(a.imageNames),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) printImage(i *apiv1.Image) error {
	f := a.facts()
	f.add("Name", i.GetName())
	f.add("Digest", i.GetDigest())
	f.add("Size", size(uint64(i.GetSizeBytes())))
	f.add("Files", strconv.FormatUint(i.GetFiles(), 10))
	f.add("Source", i.GetSourceKind())
	f.add("Created", a.when(i.GetCreatedUnixNano()))
	f.add("Architecture", i.GetArchitecture())
	f.add("Entrypoint", commandLine(i.GetEntrypoint(), false))
	f.add("Command", commandLine(i.GetCmd(), false))
	f.add("Directory", i.GetWorkingDir())
	f.add("User", i.GetUser())
	f.add("Environment", strings.Join(i.GetEnv(), " "))
	f.add("Used by", strings.Join(i.GetUsedBy(), " "))
	for _, w := range i.GetWarnings() {
		f.add("Warning", w)
	}
	return f.w.Flush()
}

func (a *app) imageRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "rm IMAGE…",
		Aliases: []string{"remove"},
		Short:   "Remove images that no agent uses",
		Example: "  aiosctl image rm alpine",
		Args:    atLeast(1, "the image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd, args, func(ctx context.Context, c *client.Client, name string) error {
				_, err := c.ImageRemove(ctx, &apiv1.ImageRemoveRequest{Name: name})
				return err
			})
		},
		ValidArgsFunction: a.complete(a.imageNames),
	}
}
