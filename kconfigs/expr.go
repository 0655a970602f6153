package kconfigs

import (
	"regexp"
	"strings"
)

var token = regexp.MustCompile(`\$\([^()]*(?:\([^()]*\)[^()]*)*\)|"[^"]*"|'[^']*'|&&|\|\||!=|<=|>=|[()!=<>]|[A-Za-z0-9_.-]+`)

var symbol = regexp.MustCompile(`^[A-Za-z0-9_]*[A-Z][A-Za-z0-9_]*$`)

// parser evaluates an expression of the Kconfig language: 0 for n, 1 for m,
// 2 for y. What the shell would be asked, $(cc-option,...), counts as y.
type parser struct {
	tokens []string
	c      config
}

func (k kconfig) eval(e string, c config) int {
	p := &parser{token.FindAllString(e, -1), c}
	if len(p.tokens) == 0 {
		return 2
	}
	return p.or()
}

func (p *parser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *parser) next() string {
	t := p.peek()
	if t != "" {
		p.tokens = p.tokens[1:]
	}
	return t
}

func (p *parser) or() int {
	v := p.and()
	for p.peek() == "||" {
		p.next()
		v = max(v, p.and())
	}
	return v
}

func (p *parser) and() int {
	v := p.not()
	for p.peek() == "&&" {
		p.next()
		v = min(v, p.not())
	}
	return v
}

func (p *parser) not() int {
	switch p.peek() {
	case "!":
		p.next()
		return 2 - p.not()
	case "(":
		p.next()
		v := p.or()
		p.next()
		return v
	}
	t := p.next()
	left, v := p.value(t)
	switch op := p.peek(); op {
	case "=", "!=":
		p.next()
		right, _ := p.value(p.next())
		if (left == right) == (op == "=") {
			return 2
		}
		return 0
	case "<", "<=", ">", ">=":
		// Versions of compilers: the probe that set them was Kconfig's.
		p.next()
		p.next()
		return 2
	}
	return v
}

// value returns what a word stands for, as text and as n, m or y.
func (p *parser) value(t string) (text string, v int) {
	switch {
	case t == "y" || t == "m" || t == "n":
		return t, rank(t)
	case strings.HasPrefix(t, "$"):
		return "y", 2
	case strings.HasPrefix(t, `"`) || strings.HasPrefix(t, "'"):
		t = t[1 : len(t)-1]
		return t, rank(t)
	case symbol.MatchString(t):
		text := strings.Trim(p.c.get(t), `"`)
		return text, rank(text)
	}
	return t, 2
}

// conjuncts splits an expression at the && that no parenthesis encloses, when
// that is all it is made of.
func conjuncts(e string) (parts []string) {
	depth, from := 0, 0
	for _, at := range token.FindAllStringIndex(e, -1) {
		switch t := e[at[0]:at[1]]; {
		case t == "(":
			depth++
		case t == ")":
			depth--
		case t == "||" && depth == 0:
			return []string{strings.TrimSpace(e)}
		case t == "&&" && depth == 0:
			parts = append(parts, strings.TrimSpace(e[from:at[0]]))
			from = at[1]
		}
	}
	return append(parts, strings.TrimSpace(e[from:]))
}

// symbols returns the options an expression names.
func symbols(e string) (names []string) {
	for _, t := range token.FindAllString(e, -1) {
		if symbol.MatchString(t) {
			names = append(names, t)
		}
	}
	return names
}

// annotate writes the value behind each option, as menuconfig does.
func annotate(e string, c config) string {
	return token.ReplaceAllStringFunc(strings.Join(strings.Fields(e), " "), func(t string) string {
		if symbol.MatchString(t) {
			return t + " [=" + c.get(t) + "]"
		}
		return t
	})
}
