import ShrinkEngine
import ShrinkLinux

// An engine that takes over a pool with a registered mapping, works on it, and dies at a given place. Only tests start it.
//
//   touch-trial BACKUP ADDRESS LENGTH SEED [POINT HIT]
//
// Descriptors: 3 the pool's memory, 4 its ledger, 5 the userfaultfd. It says "ready" on its standard output when it serves, then moves pages out and
// back at random until it is killed: by itself at the given fault point, or from outside. When its standard input ends, it brings everything back,
// says what it found and exits with status 0.
//
//   touch-trial client …    a program that uses the memory; see TrialClient.swift
if CommandLine.arguments.dropFirst().first == "client" {
    runClient(Array(CommandLine.arguments.dropFirst(2)))
} else {
    runTrial(Array(CommandLine.arguments.dropFirst()))
}
