package arch

import (
	"slices"
	"testing"
)

const ctl = `package main

var root = cobra.Command{Use: "aiosctl"}
var list = []cobra.Command{
	{Use: "ps [flags]", Aliases: []string{"ls"}},
	{Use: "image"},
}
`

func loadDocs(t *testing.T, fs files) *Docs {
	t.Helper()
	tree := fs.load(t)
	d, err := LoadDocs(tree.Root, tree)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDocs(t *testing.T) {
	base := files{
		"Makefile":          "V := 1\nhelp: ## x\n\techo\nvm-test:\n\techo\n.PHONY: help\n",
		"cmd/aiosctl/m.go":  ctl,
		"docs/real.md":      "",
		"out/generated.md":  "[gone](gone.md)",
		".hidden/secret.md": "[gone](gone.md)",
	}
	tests := map[string]struct {
		page string
		want []string
	}{
		"good": {page: "[a](docs/real.md) [b](docs/real.md#part) [c](#here) [d](https://x.example/y)\n" +
			"`make help`, `make vm-test`, `aiosctl ps -a`, `aiosctl ls`, make sense of aiosctl words in prose\n" +
			"```sh\n$ make help\nbin/aiosctl image ls # aiosctl help\n```\n"},
		"link":          {page: "x\n[a](docs/none.md)\n", want: []string{"README.md:2: the link docs/none.md"}},
		"target":        {page: "`make none`\n", want: []string{"\"make none\" is not a target"}},
		"variable":      {page: "`make v`\n", want: []string{"\"make v\" is not a target"}},
		"verb":          {page: "`bin/aiosctl none`\n", want: []string{"\"aiosctl none\" is not a command"}},
		"verb in block": {page: "```\n$ aiosctl none\n```\n", want: []string{"README.md:2: \"aiosctl none\""}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			fs := files{"README.md": test.page}
			for k, v := range base {
				fs[k] = v
			}
			want(t, loadDocs(t, fs).Check(), test.want...)
		})
	}
}

func TestDocsFindsEveryPage(t *testing.T) {
	d := loadDocs(t, files{"Makefile": "", "a.go": "package a", "README.md": "", "docs/deep/b.md": ""})
	if len(d.pages) != 2 || d.verbs != nil {
		t.Errorf("pages %v, verbs %v; want two pages and no verbs", d.pages, d.verbs)
	}
	d = loadDocs(t, files{"Makefile": "", "cmd/aiosctl/m.go": ctl})
	for _, verb := range []string{"ps", "ls", "image", "help", "completion"} {
		if !slices.Contains(d.verbs, verb) {
			t.Errorf("verbs %v lack %s", d.verbs, verb)
		}
	}
}
