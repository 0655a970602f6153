package client

import (
	"context"
	"fmt"

	"kbuild-run/gen/smb2"
)

// Contexts of CREATE (MS-SMB2 2.2.13.2).

// MaximalAccess asks for the rights the user has: what Explorer adds.
func MaximalAccess() smb2.CreateContext {
	return smb2.NewCreateContext(smb2.SMB2_CREATE_QUERY_MAXIMAL_ACCESS_REQUEST, nil)
}

// OnDiskID asks for the file's id.
func OnDiskID() smb2.CreateContext {
	return smb2.NewCreateContext(smb2.SMB2_CREATE_QUERY_ON_DISK_ID, nil)
}

// Durable asks for a handle that outlives its connection (version 1).
func Durable() smb2.CreateContext {
	return smb2.NewCreateContext(smb2.SMB2_CREATE_DURABLE_HANDLE_REQUEST, new(smb2.DurableRequest).Append(nil))
}

// DurableReconnect asks for the handle of a connection that is gone.
func DurableReconnect(id FileID) smb2.CreateContext {
	c := smb2.DurableReconnect{PersistentFileId: id.Persistent, VolatileFileId: id.Volatile}
	return smb2.NewCreateContext(smb2.SMB2_CREATE_DURABLE_HANDLE_RECONNECT, c.Append(nil))
}

// DurableV2 is Durable of SMB 3: the client names the create. Timeout is in
// milliseconds, 0 for what the server likes.
func DurableV2(guid [16]byte, timeout uint32, persistent bool) smb2.CreateContext {
	c := smb2.DurableContextV2Req{Timeout: timeout, CreateGuid: guid}
	if persistent {
		c.Flags = smb2.SMB2_DHANDLE_FLAG_PERSISTENT
	}
	return smb2.NewCreateContext(smb2.SMB2_CREATE_DURABLE_HANDLE_REQUEST_V2, c.Append(nil))
}

// DurableReconnectV2 is DurableReconnect of SMB 3.
func DurableReconnectV2(id FileID, guid [16]byte, persistent bool) smb2.CreateContext {
	c := smb2.DurableReconnectContextV2{CreateGuid: guid}
	c.PersistentFileId, c.VolatileFileId = id.Persistent, id.Volatile
	if persistent {
		c.Flags = smb2.SMB2_DHANDLE_FLAG_PERSISTENT
	}
	return smb2.NewCreateContext(smb2.SMB2_CREATE_DURABLE_HANDLE_RECONNECT_V2, c.Append(nil))
}

// Lease asks for a lease (version 1, from 2.1 on). The oplock level of the
// CREATE must be SMB2_OPLOCK_LEVEL_LEASE.
func Lease(key [16]byte, state smb2.LeaseState) smb2.CreateContext {
	c := smb2.LeaseContext{LeaseKey: key, LeaseState: state}
	return smb2.NewCreateContext(smb2.SMB2_CREATE_REQUEST_LEASE, c.Append(nil))
}

// LeaseV2 asks for a lease of SMB 3, directories included. A parent of zeros is
// none.
func LeaseV2(key, parent [16]byte, state smb2.LeaseState, epoch uint16) smb2.CreateContext {
	c := smb2.LeaseContextV2{LeaseKey: key, LeaseState: state, ParentLeaseKey: parent, Epoch: epoch}
	if parent != ([16]byte{}) {
		c.LeaseFlags = smb2.SMB2_LEASE_FLAG_PARENT_LEASE_KEY_SET
	}
	return smb2.NewCreateContext(smb2.SMB2_CREATE_REQUEST_LEASE, c.Append(nil))
}

// LeaseState returns the lease the CREATE response granted; 0 without one.
func (f *File) LeaseState() (smb2.LeaseState, error) {
	data, err := f.Context(smb2.SMB2_CREATE_REQUEST_LEASE)
	if err != nil || data == nil {
		return 0, err
	}
	var c smb2.LeaseContext // the second version begins like the first
	if _, err := c.Decode(data); err != nil {
		return 0, err
	}
	return c.LeaseState, nil
}

// Break is an oplock or lease break the server sent of its own accord. One of
// the two is set.
type Break struct {
	Oplock *smb2.OplockBreak
	Lease  *smb2.LeaseBreak
}

// Break waits for the next oplock or lease break.
func (c *Conn) Break(ctx context.Context) (*Break, error) {
	select {
	case r := <-c.breaks:
		var b Break
		var o smb2.OplockBreak
		if _, err := o.Decode(r.Body); err != nil {
			return nil, err
		}
		if o.Check() == nil {
			b.Oplock = &o
			return &b, nil
		}
		b.Lease = new(smb2.LeaseBreak)
		return &b, r.Decode(b.Lease)
	case <-c.done:
	case <-ctx.Done():
	}
	return nil, c.wait(ctx, "an oplock or lease break")
}

// AckOplock acknowledges an oplock break.
func (f *File) AckOplock(ctx context.Context, level smb2.OplockLevel) error {
	req := smb2.NewOplockBreak()
	req.OplockLevel = level
	req.PersistentFid, req.VolatileFid = f.ID.Persistent, f.ID.Volatile
	_, err := f.do(ctx, "acknowledge break of", &Request{Command: smb2.SMB2_OPLOCK_BREAK, Body: req, Tree: f.Tree}, nil)
	return err
}

// AckLease acknowledges a lease break.
func (t *Tree) AckLease(ctx context.Context, key [16]byte, state smb2.LeaseState) error {
	req := smb2.NewLeaseAck()
	req.LeaseKey, req.LeaseState = key, state
	if _, err := t.Session.Conn.Do(ctx, &Request{Command: smb2.SMB2_OPLOCK_BREAK, Body: req, Tree: t}); err != nil {
		return fmt.Errorf("acknowledge lease break: %w", err)
	}
	return nil
}
