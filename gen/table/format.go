package table

import "strings"

// commentColumn is where comments stand if the line leaves the room.
const commentColumn = 48

// Format returns the table as it is written: statements in the first column, rows
// indented by four, the cells of a declaration aligned.
func (f *File) Format() string {
	var b strings.Builder
	lines := f.Lines
	for i := 0; i < len(lines); {
		j := i + 1
		if len(lines[i].Cells) > 0 && lines[i].Row {
			for j < len(lines) && len(lines[j].Cells) > 0 && lines[j].Row {
				j++
			}
			rows(&b, lines[i:j])
		} else {
			l := lines[i]
			finish(&b, strings.Join(l.Cells, " "), l, commentColumn)
		}
		i = j
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// rows writes a block of rows: the first two or three cells in columns.
func rows(b *strings.Builder, lines []Line) {
	width := [3]int{}
	columns := func(l Line) int {
		if l.Cells[0] == "data" || len(l.Cells) < 2 {
			return 0
		}
		return min(3, len(l.Cells)-1)
	}
	for _, l := range lines {
		for k := range columns(l) {
			width[k] = max(width[k], len(l.Cells[k]))
		}
	}
	texts := make([]string, len(lines))
	longest := 0
	for i, l := range lines {
		n := columns(l)
		t := "    "
		for k, c := range l.Cells {
			t += c
			if k < n {
				t += strings.Repeat(" ", width[k]-len(c)+1)
			}
			if k+1 < len(l.Cells) {
				t += " "
			}
		}
		texts[i] = strings.TrimRight(t, " ")
		if l.HasHash {
			longest = max(longest, len(texts[i])+2)
		}
	}
	for i, l := range lines {
		finish(b, texts[i], l, max(commentColumn, longest))
	}
}

func finish(b *strings.Builder, text string, l Line, column int) {
	if l.HasHash {
		switch {
		case text == "" && !l.Row:
		case text == "":
			text = "    "
		default:
			text += strings.Repeat(" ", max(2, column-len(text)))
		}
		text += strings.TrimRight("# "+l.Comment, " ")
	}
	b.WriteString(text + "\n")
}
