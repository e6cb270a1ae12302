// Command aiosd is the daemon of AIOS, and the processes it makes of itself:
//
//	aiosd serve    the daemon
//	aiosd check    examines a configuration file
//	aiosd kernel   the kernel process of one domain, started by the daemon
//	aiosd gofer    serves one host directory to a kernel process, likewise
//	aiosd semanticd  semantic memory, likewise
//	aiosd version  prints the version
//
// The command only wires: what a process does is in daemon/, sentry/ and
// gofer/. It must be built without cgo.
package main

import (
	"flag"
	"fmt"
	"os"

	"aios.dev/aios/abi"
	"aios.dev/aios/config"
	"aios.dev/aios/daemon"
	"aios.dev/aios/errdefs"
)

const usage = `usage: aiosd serve [--state-dir DIR] [--config FILE]
       aiosd check [--state-dir DIR] [--config FILE]
       aiosd version

aiosd serve is the daemon of AIOS. aiosctl starts it when none runs, so there
is seldom a reason to start it by hand; see aiosctl help daemon.
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2:])
	case "check":
		err = check(os.Args[2:])
	case "kernel":
		err = kernelMain()
	case "gofer":
		err = goferMain()
	case "semanticd":
		err = semanticMain()
	case "version", "--version":
		fmt.Println("aiosd", abi.Version)
	case "help", "--help", "-h":
		fmt.Print(usage)
	default:
		fmt.Fprintf(os.Stderr, "aiosd: unknown command %q\n%s", os.Args[1], usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "aiosd "+os.Args[1]+":", err)
		if fix := errdefs.FixOf(err); fix != "" {
			fmt.Fprintln(os.Stderr, "fix:", fix)
		}
		os.Exit(errdefs.ExitOf(err))
	}
}

// serve runs the daemon until it is told to end. A daemon that finds another
// one running for the same state directory ends at once and with success.
func serve(args []string) error {
	paths, err := places("serve", args)
	if err != nil {
		return err
	}
	return daemon.Run(paths)
}

// check reads the configuration file as serve does, and does nothing with it.
func check(args []string) error {
	paths, err := places("check", args)
	if err != nil {
		return err
	}
	exists, err := daemon.CheckConfig(paths)
	switch {
	case err != nil:
		return err
	case exists:
		fmt.Println(paths.Config + ": good")
	default:
		fmt.Println(paths.Config + ": there is no such file, which is good: nothing is configured")
	}
	return nil
}

// places reads the flags of a command, which say where things are.
func places(command string, args []string) (config.Paths, error) {
	flags := flag.NewFlagSet("aiosd "+command, flag.ExitOnError)
	stateDir := flags.String("state-dir", "", "where everything is kept; default: see aiosctl help daemon")
	file := flags.String("config", "", "the configuration file; default: see aiosctl help daemon")
	flags.Parse(args)
	if flags.NArg() > 0 {
		return config.Paths{}, errdefs.Newf(errdefs.InvalidArgument, "unexpected argument %q", flags.Arg(0))
	}
	paths, err := config.Resolve(*stateDir)
	if err != nil {
		return paths, err
	}
	return paths.WithConfig(*file)
}
