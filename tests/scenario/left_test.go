package scenario

import (
	"context"
	"testing"
)

// What a server holds beyond before is what is new, by name.
func TestSettle(t *testing.T) {
	answers := []Held{{"files": 3, "marks": 1}, {"files": 2, "marks": 1}}
	asked := 0
	h := Holds(func(context.Context) (Held, error) {
		asked++
		return answers[min(asked, len(answers))-1], nil
	})
	now, more, err := h.Settle(t.Context(), Held{"files": 2, "marks": 1}, 1<<40)
	if err != nil || more != "" || now["files"] != 2 {
		t.Errorf("with patience: got %v, %q, %v; want 2 files and nothing more", now, more, err)
	}
	if _, more, err = h.Settle(t.Context(), Held{"files": 1}, 0); err != nil || more != "1 files\n1 marks" {
		t.Errorf("without: got %q, %v; want 1 files and 1 marks", more, err)
	}
}
