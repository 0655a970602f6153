package main

import (
	"encoding/hex"
	"strings"
	"testing"
)

func TestPrintRecords(t *testing.T) {
	for _, test := range []struct{ name, hex, want, err string }{
		{"one", "00000000 01000000 02000000 6100", "1 a\n", ""},
		{"two", "10000000 04000000 02000000 61000000 00000000 05000000 06000000 64005c006200", "4 a\n5 d\\b\n", ""},
		{"none", "", "", "0 bytes, want 12"},
		{"a name that is too long", "00000000 01000000 04000000 6100", "", "decode FileNotifyInformation.FileName: 2 left, want 4"},
		{"a record that is too far", "20000000 01000000 02000000 6100", "", "decode record 0: 14 left, want 32"},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(test.hex, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		err = printRecords(&got, b)
		if got.String() != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got %q, %v; want %q, %q", test.name, got.String(), err, test.want, test.err)
		}
	}
}
