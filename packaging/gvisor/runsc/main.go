// Command runsc is gVisor's runsc, unchanged. It has a main package here so that this module
// pins everything that it is built from.
package main

import (
	"gvisor.dev/gvisor/runsc/cli/maincli"
	_ "gvisor.dev/gvisor/runsc/version"
)

func main() {
	maincli.Main()
}
