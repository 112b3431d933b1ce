// keepertrial keeper RUNTIME_DIR JOURNAL BACKUPFS_STEPS ENGINE_STEPS   a keeper whose parts are fake ones; "-" as steps: no file server
// keepertrial part NAME JOURNAL STEPS                                  one such part
//
// A part runs its steps in order (FakePart.swift) and tells the datagram socket JOURNAL what happens to it ("-": standard output).
import Logging
import ServiceSupport
import ShrinkKeeper
import ShrinkLinux

let arguments = Array(CommandLine.arguments.dropFirst())
switch arguments.first {
case "keeper" where arguments.count == 5:
    exit(status: keepTrial(runtimeDirectory: arguments[1], journal: arguments[2], backupfs: arguments[3], engine: arguments[4]))
case "part" where arguments.count == 4:
    exit(status: runPart(name: arguments[1], journal: arguments[2], steps: arguments[3]))
default:
    exit(status: 64)
}
