//go:build tools

// Package tools pins the Kamaji that tests run, with the replacements of Kamaji's own go.mod.
package tools

import _ "github.com/clastix/kamaji"
