package vmrunner

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"kbuild-run/gen/smb2"
)

// smbLimit is how long the server may take to answer once /etc/rc has ended.
const smbLimit = 5 * time.Second

// WaitSMB returns when the guest has answered an SMB2 NEGOTIATE. An open port
// proves nothing: QEMU accepts connections before the guest listens.
func (vm *VM) WaitSMB(ctx context.Context) error {
	limit := vm.Deadline(smbLimit)
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer to NEGOTIATE in %v", limit))
	defer stop()
	for {
		err := negotiate(ctx, vm.Addr(portSMB))
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("reach the guest's SMB server: %w; last: %w", context.Cause(ctx), err)
		case <-vm.machine.done:
			return vm.fault("reach the guest's SMB server", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.times.SMB == 0 {
		vm.times.SMB = time.Since(vm.machine.began)
	}
	return nil
}

// negotiateRequest is an SMB2 NEGOTIATE (MS-SMB2 2.2.3) for dialect 2.1, with the
// length that goes before it on TCP.
var negotiateRequest = func() []byte {
	header, body := smb2.NewHdr(), smb2.NewNegotiateReq()
	header.CreditRequest = 1
	body.SecurityMode = smb2.SMB2_NEGOTIATE_SIGNING_ENABLED
	copy(body.ClientGUID[:], "kbuild-run-guid0")
	body.Dialects = []smb2.Dialect{smb2.SMB21_PROT_ID}
	body.DialectCount = 1
	b := body.Append(header.Append(nil))
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}()

func negotiate(ctx context.Context, addr string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := c.Write(negotiateRequest); err != nil {
		return err
	}
	answer := make([]byte, 8)
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if string(answer[4:]) != "\xfeSMB" {
		return errors.New("the answer is not SMB2")
	}
	return nil
}
