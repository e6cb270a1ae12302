package capability

import (
	"slices"
	"strings"
)

// Namespace splits the name of an object of class semantic,
// NAMESPACE[@TAG[+TAG]...], into the pattern of namespaces and the tags that
// items must bear to be there for the holder.
//
// The tags are part of the object because they can be compared: a capability
// that is derived has the same tags or more, and a lesser pattern.
func (o Object) Namespace() (pattern string, tags []string) {
	pattern, list, tagged := strings.Cut(o.Name, "@")
	if tagged {
		tags = strings.Split(list, "+")
	}
	return pattern, tags
}

// NamespaceCovers reports whether every namespace that part matches is one that
// whole matches: "*" all, "a/*" whatever is below a, and not a.
func NamespaceCovers(whole, part string) bool {
	if whole == "*" || whole == part {
		return true
	}
	stem, pattern := strings.CutSuffix(whole, "*")
	return pattern && strings.HasPrefix(part, stem)
}

// maxNamespace bounds the name of a namespace.
const maxNamespace = 128

// ValidNamespace reports whether n names a namespace, or is a pattern of them:
// parts of letters, digits, '.', '_' and '-' with '/' between them, of which the
// last may be '*'.
func ValidNamespace(n string) bool {
	if len(n) > maxNamespace {
		return false
	}
	parts := strings.Split(n, "/")
	for i, p := range parts {
		if !validPart(p) && !(p == "*" && i == len(parts)-1) {
			return false
		}
	}
	return true
}

// ValidTag reports whether t can be a tag: letters, digits, '.', '_', '-', '='
// and '/', 64 bytes at most.
func ValidTag(t string) bool {
	return len(t) <= 64 && validPart(strings.NewReplacer("=", "_", "/", "_").Replace(t))
}

// validPart reports whether p is made of letters, digits, '.', '_' and '-', and
// is neither empty nor "." nor "..".
func validPart(p string) bool {
	return p != "." && p != ".." && validWord(strings.ReplaceAll(p, ".", "_"))
}

// badNamespace says what is wrong with the name of an object of class semantic.
func badNamespace(name string) string {
	pattern, list, tagged := strings.Cut(name, "@")
	if !ValidNamespace(pattern) {
		return "it is not a namespace"
	}
	if !tagged {
		return ""
	}
	tags := strings.Split(list, "+")
	for i, t := range tags {
		if !ValidTag(t) {
			return "what follows '@' is not a list of tags"
		}
		if i > 0 && tags[i-1] >= t {
			return "the tags are not in order, each once"
		}
	}
	if !slices.IsSorted(tags) {
		return "the tags are not in order"
	}
	return ""
}
