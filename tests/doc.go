// Package tests: VM + clients -> report.
//
// A scenario is a script in scenarios/ in which SMB clients, and programs on the
// server, do things and see things. It says what it shows, on which sections of
// the protocol that rests, and what a server needs for it. The same scenarios run
// against ksmbd in a VM, before and after a patch series, against a private
// Samba, and against any server by its address; kbuild-run test --help describes
// the commands of a scenario.
package tests
