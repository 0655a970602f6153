package gen

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"kbuild-run/gen/capture"
	"kbuild-run/patches/job"
)

// DecodeCommand returns kbuild-run decode.
func DecodeCommand() *cobra.Command {
	var command, keys string
	var full bool
	c := &cobra.Command{
		Use:   "decode FILE.pcap",
		Short: "print the SMB2 messages of a capture, a line each",
		Long: `Decode reads a capture (pcap or pcapng, SMB on any port) and prints a line a message:
time of day (UTC), command, message id, what it asks or answers. A request shows when
it was answered and how; a response shows when its request is not in the capture.

With --cmd it prints one command only, by number or name: 15 or CHANGE_NOTIFY, with the
CANCELs that are meant for it.

With --keys it opens encrypted messages and checks signatures. The file has a line a
session, as Wireshark's smb2_seskey_list: SESSIONID,SESSIONKEY in hexadecimal, the id as
its bytes are on the wire. The login has to be in the capture.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return job.Usage(fmt.Errorf("decode with %d files, want one capture", len(args)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := Tables()
			if err != nil {
				return err
			}
			number := -1
			if command != "" {
				for _, v := range set.Lookup("smb2_command").Values {
					if fmt.Sprint(v.Number) == command || strings.EqualFold(strings.TrimPrefix(v.Name, "SMB2_"), strings.TrimPrefix(command, "SMB2_")) {
						number = int(v.Number)
					}
				}
				if number < 0 {
					return job.Usage(fmt.Errorf("command %q, want 0 to 18 or a name like CHANGE_NOTIFY", command))
				}
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			frames, err := capture.Read(f)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			out := job.From(cmd.Context()).Out
			t := capture.NewTimeline(set)
			if keys != "" {
				f, err := os.Open(keys)
				if err != nil {
					return err
				}
				defer f.Close()
				if t.Keys, err = capture.ReadKeys(f); err != nil {
					return fmt.Errorf("read session keys of %s: %w", keys, err)
				}
			}
			for i := range frames {
				t.Add(&frames[i])
			}
			if err := t.Print(out, number, full); err != nil {
				return err
			}
			if len(frames) == 0 {
				return job.Failed(fmt.Errorf("decode %s: no SMB in it", args[0]))
			}
			return nil
		},
	}
	c.Flags().StringVar(&command, "cmd", "", "print this command only")
	c.Flags().StringVar(&keys, "keys", "", "open and check sessions with the keys in this file")
	c.Flags().BoolVar(&full, "full", false, "print every field under the line")
	return c
}
