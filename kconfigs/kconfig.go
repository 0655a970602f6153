package kconfigs

import (
	"bufio"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
)

// kconfig is what the Kconfig files of a tree say about dependencies, read to
// explain why an option was lost. Kconfig itself decides; this only finds words
// for it. Language: Documentation/kbuild/kconfig-language.rst.
type kconfig map[string]*option

// option is one symbol. It may be defined in several places.
type option struct {
	places  []place
	selects []selector // who selects it
}

// place is one definition.
type place struct {
	at      string   // "fs/smb/server/Kconfig:1"
	depends []string // expressions that must all hold, those around it first
	prompt  bool     // a person can set it
}

// selector is an option that turns another one on.
type selector struct{ name, cond string }

// readKconfig reads Kconfig and the files it sources for one architecture.
func readKconfig(tree fs.FS, srcarch string) (kconfig, error) {
	r := &reader{tree: tree, srcarch: srcarch, k: kconfig{}}
	return r.k, r.file("Kconfig")
}

// reader keeps the blocks that enclose the line it is at.
type reader struct {
	tree    fs.FS
	srcarch string
	k       kconfig
	blocks  []*[]string // dependencies of open if, menu and choice blocks
	name    string      // option that attributes belong to; "" inside a block's head
	place   int         // index of its definition
	own     *[]string   // where `depends on` goes
}

var (
	attribute = regexp.MustCompile(`^(bool|tristate|int|hex|string|prompt|def_bool|def_tristate)\b\s*(.*)$`)
	// The condition of a prompt stands behind its text.
	promptIf = regexp.MustCompile(`^("(?:[^"\\]|\\.)*"|'[^']*')(?:\s+if\s+(.*))?$`)
)

func (r *reader) file(name string) error {
	f, err := r.tree.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	help := -1 // indent of the help text we are in; 0 when its first line is to come
	for no := 1; in.Scan(); no++ {
		l := in.Text()
		if help >= 0 {
			if strings.TrimSpace(l) == "" {
				continue
			}
			n := indent(l)
			if help == 0 && n > 0 {
				help = n
			}
			if n >= help && n > 0 {
				continue
			}
			help = -1
		}
		at := fmt.Sprintf("%s:%d", name, no)
		for strings.HasSuffix(l, "\\") && in.Scan() {
			no++
			l = strings.TrimSuffix(l, "\\") + " " + in.Text()
		}
		l = strings.TrimSpace(uncomment(l))
		word, rest, _ := strings.Cut(strings.ReplaceAll(l, "\t", " "), " ")
		rest = strings.TrimSpace(rest)
		switch word {
		case "help":
			help = 0
		case "source":
			file := strings.NewReplacer("$(SRCARCH)", r.srcarch, "$(srctree)/", "").Replace(strings.Trim(rest, `"`))
			if err := r.file(file); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
		default:
			r.line(word, rest, l, at)
		}
	}
	return in.Err()
}

// line takes one statement that is neither help nor source.
func (r *reader) line(word, rest, l, at string) {
	switch word {
	case "config", "menuconfig":
		o := r.option(rest)
		p := place{at: at}
		for _, b := range r.blocks {
			p.depends = append(p.depends, *b...)
		}
		o.places = append(o.places, p)
		r.name, r.place = rest, len(o.places)-1
		r.own = &o.places[r.place].depends
	case "if":
		r.open(rest)
	case "menu", "choice":
		r.open()
	case "comment":
		// Its `depends on` belongs to nothing that we look at.
		r.name, r.own = "", new([]string)
	case "endif", "endmenu", "endchoice":
		if len(r.blocks) > 0 {
			r.blocks = r.blocks[:len(r.blocks)-1]
		}
		r.name, r.own = "", nil
	case "depends":
		e := strings.TrimSpace(strings.TrimPrefix(rest, "on"))
		if on, cond, ok := strings.Cut(e, " if "); ok {
			e = "!(" + cond + ") || (" + on + ")"
		}
		if r.own != nil {
			*r.own = append(*r.own, e)
		}
	case "select":
		to, cond, _ := strings.Cut(rest, " if ")
		if r.name != "" {
			o := r.option(strings.TrimSpace(to))
			o.selects = append(o.selects, selector{r.name, strings.TrimSpace(cond)})
		}
	default:
		m := attribute.FindStringSubmatch(l)
		if m == nil || r.name == "" {
			return
		}
		if p := promptIf.FindStringSubmatch(m[2]); p != nil && !strings.HasPrefix(m[1], "def_") {
			d := &r.k[r.name].places[r.place]
			d.prompt = true
			if p[2] != "" {
				d.depends = append(d.depends, p[2])
			}
		}
	}
}

func (r *reader) open(depends ...string) {
	r.blocks = append(r.blocks, &depends)
	r.name, r.own = "", &depends
}

func (r *reader) option(name string) *option {
	if r.k[name] == nil {
		r.k[name] = &option{}
	}
	return r.k[name]
}

// indent returns the column of the first word, with tabs of eight.
func indent(l string) (n int) {
	for _, c := range l {
		switch c {
		case ' ':
			n++
		case '\t':
			n += 8 - n%8
		default:
			return n
		}
	}
	return n
}

// uncomment cuts a # and what follows, unless it stands in quotes.
func uncomment(l string) string {
	var quote rune
	for i, c := range l {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '#':
			return l[:i]
		}
	}
	return l
}

// knows says whether a Kconfig file defines an option.
func (k kconfig) knows(name string) bool { return k[name] != nil && len(k[name].places) > 0 }

// why explains a lost line, a sentence a string.
func (k kconfig) why(l line, c config) []string {
	o := k[l.name]
	switch {
	case !k.knows(l.name):
		return []string{"no Kconfig file of this kernel knows " + l.name}
	case rank(l.value) < rank(c.get(l.name)):
		var by []string
		for _, s := range o.selects {
			if c.get(s.name) != "n" && k.eval(s.cond, c) > 0 {
				by = append(by, s.name+" [="+c.get(s.name)+"]")
			}
		}
		if len(by) > 0 {
			return []string{"selected by " + strings.Join(by, ", ")}
		}
		return []string{"it is on by default and has no prompt, or is the member of a choice"}
	}
	why := k.unmet(l.name, c, map[string]bool{})
	if len(why) > 0 {
		return why
	}
	for _, p := range o.places {
		if p.prompt {
			return []string{"its dependencies are met (" + p.at + "): another member of its choice may be set, or the value is out of range"}
		}
	}
	var by []string
	for _, s := range o.selects {
		by = append(by, s.name)
	}
	if len(by) == 0 {
		return []string{"it has no prompt and nothing selects it (" + o.places[0].at + ")"}
	}
	return []string{"it has no prompt (" + o.places[0].at + "); it is selected by " + strings.Join(by, ", ")}
}

// unmet returns what an option's definitions depend on and do not have, and
// then the same of the options that are off because of it.
func (k kconfig) unmet(name string, c config, seen map[string]bool) (why []string) {
	o := k[name]
	if o == nil || seen[name] {
		return nil
	}
	seen[name] = true
	var next []string
	for _, p := range o.places {
		for _, d := range p.depends {
			for _, e := range conjuncts(d) {
				if k.eval(e, c) > 0 {
					continue
				}
				why = append(why, fmt.Sprintf("%s (%s) depends on %s", name, p.at, annotate(e, c)))
				for _, s := range symbols(e) {
					if c.get(s) == "n" {
						next = append(next, s)
					}
				}
			}
		}
	}
	for _, s := range next {
		if !k.knows(s) {
			why = append(why, "no Kconfig file of this kernel knows "+s)
			continue
		}
		why = append(why, k.unmet(s, c, seen)...)
	}
	return why
}

// rank orders the values of an option: n, m, everything else.
func rank(v string) int {
	switch v {
	case "n":
		return 0
	case "m":
		return 1
	}
	return 2
}
