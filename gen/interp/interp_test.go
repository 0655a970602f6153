package interp_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"kbuild-run/gen/interp"
	"kbuild-run/gen/smb2"
	"kbuild-run/gen/table"
)

func tables(t testing.TB) *table.Set {
	t.Helper()
	set, err := table.Load(os.DirFS("../tables"))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func structures(set *table.Set) []*table.Decl {
	var all []*table.Decl
	for _, d := range set.Decls() {
		if d.Kind == table.Struct {
			all = append(all, d)
		}
	}
	return all
}

// agree reads b with the codec and with the tables and compares every value.
func agree(t *testing.T, set *table.Set, d *table.Decl, b []byte) {
	t.Helper()
	codec := smb2.New(d.Name)
	if codec == nil {
		t.Fatalf("%s has no Go type", d.Name)
	}
	rest, errCodec := codec.Decode(b)
	m, restTables, errTables := interp.Read(set, d, b)
	if (errCodec == nil) != (errTables == nil) {
		t.Fatalf("%s of %x: codec says %v, tables say %v", d.Name, b, errCodec, errTables)
	}
	if errCodec != nil {
		return
	}
	if !bytes.Equal(rest, restTables) {
		t.Fatalf("%s of %x: codec leaves %d bytes, tables %d", d.Name, b, len(rest), len(restTables))
	}
	compare(t, d, reflect.ValueOf(codec), m.Values)
	body := b[:len(b)-len(rest)]
	for _, x := range d.Data {
		got := reflect.ValueOf(codec).MethodByName(x.Name).Call(nil)
		want, err := m.Data(x.Name, body)
		if (err == nil) != got[1].IsNil() || err == nil && !bytes.Equal(got[0].Bytes(), want) {
			t.Fatalf("%s.%s: codec %x %v, tables %x %v", d.Name, x.Name, got[0].Bytes(), got[1], want, err)
		}
	}
}

// compare holds the members of a Go value against values.
func compare(t *testing.T, d *table.Decl, codec reflect.Value, values []interp.Value) {
	t.Helper()
	for _, v := range values {
		name := goName(v.Field.Name())
		var got reflect.Value
		if v.Field.Shadow {
			got = codec.MethodByName(name).Call(nil)[0]
		} else {
			got = reflect.Indirect(codec).FieldByName(name)
		}
		where := d.Name + "." + name
		switch {
		case !got.IsValid():
			t.Fatalf("%s: the Go type does not have it", where)
		case v.Sub != nil || got.Kind() == reflect.Slice && got.Type().Elem().Kind() == reflect.Struct:
			if got.Len() != len(v.Sub) {
				t.Fatalf("%s: codec has %d, tables %d", where, got.Len(), len(v.Sub))
			}
			for i, sub := range v.Sub {
				compare(t, d, got.Index(i).Addr(), sub)
			}
		case v.Field.Array == 0:
			if got.Uint() != v.Number {
				t.Fatalf("%s: codec has %#x, tables %#x", where, got.Uint(), v.Number)
			}
		default:
			var numbers []uint64
			for _, b := range v.Bytes {
				numbers = append(numbers, uint64(b))
			}
			if v.List != nil || got.Type().Elem().Size() > 1 {
				numbers = v.List
			}
			if got.Len() != len(numbers) {
				t.Fatalf("%s: codec has %d elements, tables %d", where, got.Len(), len(numbers))
			}
			for i, n := range numbers {
				if got.Index(i).Uint() != n {
					t.Fatalf("%s[%d]: codec has %#x, tables %#x", where, i, got.Index(i).Uint(), n)
				}
			}
		}
	}
}

// goName is the rule of package smb2 for members.
func goName(s string) string {
	var b strings.Builder
	for _, w := range strings.Split(s, "_") {
		if w != "" {
			b.WriteString(strings.ToUpper(w[:1]) + w[1:])
		}
	}
	return b.String()
}

// TestAgreement reads random bytes of every length with both.
func TestAgreement(t *testing.T) {
	set := tables(t)
	r := rand.New(rand.NewPCG(2, 35))
	for _, d := range structures(set) {
		t.Run(d.Name, func(t *testing.T) {
			read := 0
			for round := range 400 {
				b := make([]byte, r.IntN(d.Size+64))
				for i := range b {
					// Small numbers, so that lengths and counts fit now and then.
					b[i] = byte(r.IntN(256) & r.IntN(256) & (r.IntN(256) >> (round % 8)))
				}
				agree(t, set, d, b)
				if _, _, err := interp.Read(set, d, b); err == nil {
					read++
				}
			}
			if read == 0 {
				t.Error("nothing of 400 could be read: the comparison is empty")
			}
		})
	}
}

func FuzzAgreement(f *testing.F) {
	set := tables(f)
	all := structures(set)
	for i, d := range all {
		f.Add(uint8(i), make([]byte, d.Size+8))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) { agree(t, set, all[int(which)%len(all)], b) })
}

func TestString(t *testing.T) {
	set := tables(t)
	req := smb2.ChangeNotifyReq{StructureSize: 32, Flags: smb2.SMB2_WATCH_TREE, OutputBufferLength: 1000,
		PersistentFileId: 1, CompletionFilter: 0x1003}
	m, _, err := interp.Read(set, set.Lookup("smb2_change_notify_req"), req.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := `   0  StructureSize            0x20
   2  Flags                    SMB2_WATCH_TREE
   4  OutputBufferLength       0x3e8
   8  PersistentFileId         1
  16  VolatileFileId           0
  24  CompletionFilter         FILE_NOTIFY_CHANGE_FILE_NAME|FILE_NOTIFY_CHANGE_DIR_NAME|0x1000
  28  Reserved                 0
`
	if got := fmt.Sprint(m); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
