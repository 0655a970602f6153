package tests

import _ "embed"

// Nightly is nightly.toml: what `kbuild-run nightly` runs when it is given nothing
// else.
//
//go:embed nightly.toml
var Nightly string
