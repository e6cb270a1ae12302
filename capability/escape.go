package capability

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"aios.dev/aios/errdefs"
)

const hexDigits = "0123456789ABCDEF"

var errEscape = errdefs.New(errdefs.CapabilityInvalid, "'%' is not followed by two hexadecimal digits")

// escape writes a name so that it holds neither the separators of a grant nor
// a space nor anything that does not print.
func escape(name string) string {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == ':' || c == ',' || c == '%' {
			return escapeFrom(name, i)
		}
	}
	return name
}

func escapeFrom(name string, i int) string {
	var b strings.Builder
	b.WriteString(name[:i])
	for i < len(name) {
		r, n := utf8.DecodeRuneInString(name[i:])
		bad := r == utf8.RuneError && n == 1
		if bad || r == ':' || r == ',' || r == '%' || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			for _, c := range []byte(name[i : i+n]) {
				b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
			}
		} else {
			b.WriteString(name[i : i+n])
		}
		i += n
	}
	return b.String()
}

// unescape undoes escape.
func unescape(text string) (string, error) {
	if strings.IndexByte(text, '%') < 0 {
		return text, nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '%' {
			if i+2 >= len(text) {
				return "", errEscape
			}
			hi, lo := hexValue(text[i+1]), hexValue(text[i+2])
			if hi < 0 || lo < 0 {
				return "", errEscape
			}
			c = byte(hi<<4 | lo)
			i += 2
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

func hexValue(c byte) int { return strings.IndexByte(hexDigits, upper(c)) }

func upper(c byte) byte {
	if c >= 'a' && c <= 'f' {
		return c - ('a' - 'A')
	}
	return c
}
