// Package client is an SMB2 and SMB3 client for tests: requests go in, every
// message that crosses the wire comes out, judged.
//
// It behaves as a Windows client does (MS-SMB2 3.2), and unlike one it shows all:
// interim and final responses, message ids, AsyncIds, credits, statuses. Requests
// are asynchronous: Send returns a Pending per request, and one reader gives each
// response to the Pending it belongs to. Conn, Session, Tree and File are
// separate objects, several of each under the one before.
//
// Three things happen to every message without being asked for:
//
//   - it becomes a line of the Transcript;
//   - a response is held against the rules (signature, credits, AsyncId, the
//     body of a CHANGE_NOTIFY response and the names in it); a broken rule is a
//     Violation of the Conn;
//   - with 3.1.1, what belongs into the preauthentication hash is hashed.
//
// A request can be wrong on purpose: see Request.Edit and Conn.SendRaw.
package client
