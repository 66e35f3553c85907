// Command filters compiles the system call filters of gVisor's kernel ahead of time, as gVisor's
// own build does. Without them each start of a sandbox compiles its filter.
//
// It rewrites the file of gVisor that registers such filters: `filters FILE`. The Go module of
// gVisor has it without any.
package main

import (
	"fmt"
	"log"
	"os"
	"strings"

	"gvisor.dev/gvisor/runsc/boot/filter/config"
)

// registration is the line of the file after which the filters are registered.
const registration = "\tprecompiledPrograms = programs\n"

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: filters FILE")
	}
	if err := register(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func register(path string) error {
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if strings.Count(string(source), registration) != 1 {
		return fmt.Errorf("%s does not register filters in the expected way", path)
	}
	programs, err := config.PrecompiledPrograms()
	if err != nil {
		return err
	}
	var code strings.Builder
	code.WriteString(registration)
	count := 0
	for _, program := range programs {
		if isUsed(program.Name) {
			code.WriteString(program.Registration("\t", "precompiledseccomp", "programs"))
			count++
		}
	}
	if count == 0 {
		return fmt.Errorf("none of %d filters is for the configuration of isorun", len(programs))
	}
	result := strings.Replace(string(source), registration, code.String(), 1)
	return os.WriteFile(path, []byte(result), 0o644)
}

// isUsed reports whether a filter is for the configuration with which isorun starts runsc.
func isUsed(name string) bool {
	for _, part := range []string{
		`Platform="systrap"`,
		"HostNetwork=false",
		"HostFilesystem=true",
		"NVProxy=false",
		"TPUProxy=false",
		"RDMAProxy=false",
	} {
		if !strings.Contains(name, part) {
			return false
		}
	}
	return true
}
