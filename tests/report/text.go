package report

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable makes s safe to show: what a guest printed may hold anything.
// Newlines and tabs stay; other control characters, and bytes that are no
// UTF-8, become \x1b or \u202e.
func printable(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '\n' || r == '\t':
			b.WriteRune(r)
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.Is(unicode.C, r) || r == '\u2028' || r == '\u2029' || r == '\uFFFE' || r == '\uFFFF':
			if r < 0x100 {
				fmt.Fprintf(&b, `\x%02x`, r)
			} else {
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// oneLine is printable without line breaks.
func oneLine(s string) string {
	return strings.Join(strings.Fields(printable(s)), " ")
}

// firstLine is the first line of s that says something.
func firstLine(s string) string {
	for line := range strings.Lines(s) {
		if l := oneLine(line); l != "" {
			return l
		}
	}
	return ""
}
