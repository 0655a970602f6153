package cdecl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const header = `/* a header */
#ifndef _H
#define _H
#define SIZE	(4 + \
		 ONE)
#define ONE 0x0001 /* struct no { __u8 A; } __packed; */
#define TWO	cpu_to_le32(0x00000002) // -EIO
#define BOTH	(ONE | (1 << 1))
#define SAME	BOTH
#define TEXT	"a /* b"	/* a comment
				 * that goes on */
#define CALL(x) (x)
#define LOOP LOOP

struct inner {
	__le16 A;
	__u8 B[ONE];	/* names ) and ; */
} __packed; /* behind it */

typedef struct {
	__le32 A; // line
	char Name[];
} __attribute__((packed)) TYPED;

typedef struct tagged {
	struct inner One;
	struct inner Many[2];
} __packed TAGGED;

struct grouped {
	__struct_group(grouped_hdr, hdr, __packed,
		__le32 Next;
		__le16 Length;
	);
	struct_group_attr(times, __packed,
		__le64 Created;
	);
	union {
		char __pad;
		DECLARE_FLEX_ARRAY(struct inner, List);
	};
} __packed;

struct views {
	union {
		struct {
			__le32 Left;
			__le32	Right;
		} __packed Sync;
		__le64 Both;
	} __packed Id;
	__le16 Tail[] __counted_by_le(Length);
} __packed;

struct loose {
	__u8 A;
};

struct unknown {
	spinlock_t Lock;
} __packed;

static inline int f(struct inner *p) { struct inner local; return p->A; }
extern struct inner *global;
#endif
`

func TestStructs(t *testing.T) {
	f := Parse("h.h", header)
	x := NewIndex([]*File{f})
	var got strings.Builder
	for _, s := range f.Structs {
		fmt.Fprintf(&got, "%s typedef %t packed %t", s.Name, s.Typedef, s.Packed)
		members, size, ok := x.Members(s)
		if !ok {
			got.WriteString(" unknown\n")
			continue
		}
		fmt.Fprintf(&got, " %d bytes\n", size)
		for _, m := range members {
			fmt.Fprintf(&got, "  %d %s %s %d %t\n", m.Offset, m.Type, m.Path, m.Array, m.Alt)
		}
	}
	const want = `inner typedef false packed true 3 bytes
  0 __le16 A 0 false
  2 __u8 B 1 false
TYPED typedef true packed true 4 bytes
  0 __le32 A 0 false
  4 char Name -1 false
tagged typedef false packed true 9 bytes
  0 struct inner One 0 false
  3 struct inner Many 2 false
grouped_hdr typedef false packed true 6 bytes
  0 __le32 Next 0 false
  4 __le16 Length 0 false
grouped typedef false packed true 15 bytes
  0 __le32 Next 0 false
  4 __le16 Length 0 false
  6 __le64 Created 0 false
  14 char __pad 0 true
  14 struct inner List -1 true
views typedef false packed true 8 bytes
  0 __le32 Id.Sync.Left 0 true
  4 __le32 Id.Sync.Right 0 true
  0 __le64 Id.Both 0 true
  8 __le16 Tail -1 false
loose typedef false packed false 1 bytes
  0 __u8 A 0 false
unknown typedef false packed true unknown
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
	for _, s := range f.Structs {
		if s.End == 0 {
			continue // a group has no place of its own
		}
		text := f.Text[s.Start:s.End]
		if !strings.HasPrefix(text, "struct ") && !strings.HasPrefix(text, "typedef ") || !strings.HasSuffix(text, "\n") || strings.Count(text, "{") != strings.Count(text, "}") {
			t.Errorf("%s stands at %q", s.Name, text)
		}
	}
}

func TestDefines(t *testing.T) {
	f := Parse("h.h", header)
	x := NewIndex([]*File{f})
	var got strings.Builder
	for _, d := range f.Defines {
		n, form, ok := x.Value(d)
		fmt.Fprintf(&got, "%d %s = %s: %d %q %t %q\n", f.Line(d.Start), d.Name, d.Expr, n, form, ok, d.Comment)
	}
	const want = `4 SIZE = (4 + ONE): 0 "" false ""
6 ONE = 0x0001: 1 "" true ""
7 TWO = cpu_to_le32(0x00000002): 2 "cpu_to_le32" true "-EIO"
8 BOTH = (ONE | (1 << 1)): 3 "" true ""
9 SAME = BOTH: 3 "" true ""
10 TEXT = "a /* b": 0 "" false ""
13 LOOP = LOOP: 0 "" false ""
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
	for _, d := range f.Defines {
		if d.Name == "TEXT" && !strings.HasSuffix(f.Text[d.Start:d.End], "goes on */\n") {
			t.Errorf("TEXT stands at %q, want the comment to its end", f.Text[d.Start:d.End])
		}
	}
}

// FuzzParse reads anything as a header: places must lie in the text.
func FuzzParse(f *testing.F) {
	f.Add(header)
	files, _ := filepath.Glob("../emit/testdata/*.h.golden")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		h := Parse("h.h", text)
		x := NewIndex([]*File{h})
		for _, d := range h.Defines {
			if d.Start > d.End || d.End > len(text) {
				t.Fatalf("%s at %d to %d of %d", d.Name, d.Start, d.End, len(text))
			}
			x.Value(d)
		}
		for _, s := range h.Structs {
			if s.Start > s.End || s.End > len(text) {
				t.Fatalf("%s at %d to %d of %d", s.Name, s.Start, s.End, len(text))
			}
			x.Members(s)
		}
	})
}
