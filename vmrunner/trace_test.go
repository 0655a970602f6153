package vmrunner

import "testing"

func TestTraced(t *testing.T) {
	vm := &VM{traced: []string{"ksmbd_notify_event"}}
	for line, want := range map[string]bool{
		"[   12.345678] ksmbd_notify_event: watch=1 action=1": true,
		"[   12.345678] ksmbd: SMB2 data length 64":           false,
		"ksmbd_notify_event":                                  false,
	} {
		if got := vm.Traced(line); got != want {
			t.Errorf("%s: got %t, want %t", line, got, want)
		}
	}
}
