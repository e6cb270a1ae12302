package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// wanted are the modules the machine needs; their dependencies come along.
var wanted = []string{"kvm-amd"}

// kernel is an unpacked kernel package.
type kernel struct {
	image   string            // path of the bootable image
	modules map[string]string // by name, path of the module
}

// findKernel returns a Debian kernel package: the one in AIOS_VM_KERNEL, or
// from the cache, or downloaded into it.
func findKernel(ctx context.Context, step func(string, ...any)) (string, error) {
	if pkg := os.Getenv("AIOS_VM_KERNEL"); pkg != "" {
		return filepath.Abs(pkg)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory: %w; set XDG_CACHE_HOME", err)
	}
	cache = filepath.Join(cache, "aios", "vm")
	if pkg, err := cachedKernel(cache); err != nil || pkg != "" {
		return pkg, err
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "--important", "linux-image-amd64").Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache does not know linux-image-amd64: %w; set AIOS_VM_KERNEL to a linux-image .deb", err)
	}
	name := regexp.MustCompile(`linux-image-[0-9][-+.~0-9a-z]*-amd64`).FindString(string(out))
	if name == "" {
		return "", errors.New("apt-cache names no kernel package; set AIOS_VM_KERNEL to a linux-image .deb")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	// Downloaded beside the cache, so that a broken download is not taken
	// for a package.
	dir, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	step("downloading %s", name)
	cmd := exec.CommandContext(ctx, "apt-get", "download", "-q", name)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("apt-get download %s: %w\n%s", name, err, bytes.TrimSpace(out))
	}
	pkg, err := cachedKernel(dir)
	if err != nil || pkg == "" {
		return "", fmt.Errorf("apt-get download %s left no package: %w", name, err)
	}
	kept := filepath.Join(cache, filepath.Base(pkg))
	return kept, os.Rename(pkg, kept)
}

// cachedKernel returns the last kernel package in dir, or "".
func cachedKernel(dir string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, "linux-image-*.deb"))
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[len(found)-1], nil
}

// unpackKernel takes the image and the modules with their dependencies out of
// a package.
func unpackKernel(ctx context.Context, pkg, dir string) (*kernel, error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", pkg)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	all := filepath.Join(dir, "modules")
	k := &kernel{modules: make(map[string]string)}
	err = errors.Join(os.Mkdir(all, 0o755), k.unpack(tar.NewReader(pipe), dir, all), cmd.Wait())
	if err == nil && k.image == "" {
		err = errors.New("it has no boot/vmlinuz")
	}
	return k, err
}

func (k *kernel) unpack(archive *tar.Reader, dir, modules string) error {
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		base := filepath.Base(h.Name)
		var to string
		switch {
		case strings.Contains(h.Name, "/boot/vmlinuz-"):
			to = filepath.Join(dir, "vmlinuz")
			k.image = to
		case moduleFile.MatchString(base):
			to = filepath.Join(modules, base)
			k.modules[moduleName(base)] = to
		default:
			continue
		}
		if err := writeFile(to, func(w io.Writer) error { _, err := io.Copy(w, archive); return err }); err != nil {
			return err
		}
	}
}

var moduleFile = regexp.MustCompile(`\.ko(\.xz|\.zst|\.gz)?$`)

// moduleName is what the kernel calls the module in that file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(file, ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// order returns the files of the named modules behind those of the modules
// that they depend on.
func (k *kernel) order(names []string) (files []string, err error) {
	seen := make(map[string]bool)
	var visit func(name string) error
	visit = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if seen[name] {
			return nil
		}
		seen[name] = true
		file, ok := k.modules[name]
		if !ok {
			return fmt.Errorf("the kernel package has no module %s", name)
		}
		file, err := decompress(file)
		if err != nil {
			return err
		}
		deps, err := dependencies(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, d := range deps {
			if err := visit(d); err != nil {
				return err
			}
		}
		files = append(files, file)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// decompress returns a plain copy of a compressed module: newer packages
// carry those.
func decompress(file string) (string, error) {
	tools := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}
	tool, ok := tools[filepath.Ext(file)]
	if !ok {
		return file, nil
	}
	plain := strings.TrimSuffix(file, filepath.Ext(file))
	out, err := exec.Command(tool, "-dc", file).Output()
	if err != nil {
		return "", fmt.Errorf("%s -dc %s: %w", tool, file, err)
	}
	return plain, os.WriteFile(plain, out, 0o644)
}

// dependencies reads what a module says it depends on.
func dependencies(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no module: it has no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
