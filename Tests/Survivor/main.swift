// survivor SOCKET POOL SEED [pinned]
//
// With `pinned` its memory is used through pins alone, otherwise also on touch by a thread of its own (Toucher.swift).
// A client that works until SIGTERM and expects that nothing it was promised is ever broken, whatever is killed meanwhile (Survivor.swift).
// Exit status: 0 all was right to the end, 3 a page was wrong, 4 a call failed that must not, 64 usage.
import ShrinkLinux

let arguments = Array(CommandLine.arguments.dropFirst())
guard arguments.count == 3 || arguments.count == 4 && arguments[3] == "pinned", let seed = UInt64(arguments[2]) else { exitNow(64) }
exitNow(survive(socket: arguments[0], pool: arguments[1], seed: seed, isTouching: arguments.count == 3))
