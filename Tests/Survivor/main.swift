// survivor SOCKET POOL SEED [--once FILE]
//
// A client that works until SIGTERM and expects that nothing it was promised is ever broken, whatever is killed meanwhile (Survivor.swift).
// Exit status: 0 all was right to the end, 3 a page was wrong, 4 a call failed that must not, 64 usage.
import ShrinkLinux

let arguments = Array(CommandLine.arguments.dropFirst())
guard arguments.count == 3, let seed = UInt64(arguments[2]) else { exitNow(64) }
exitNow(survive(socket: arguments[0], pool: arguments[1], seed: seed))
