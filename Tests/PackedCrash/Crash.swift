import Glibc
import PackedWorkload
import PageStore
import ShrinkLinux
import SystemPackage

// Does a workload on a store until it is killed, by a kill point or from outside, and tells of each operation that was answered.
//
//     packed-crash SEED OPERATIONS OBJECTBYTES DIRECTORY...
//
// One byte on standard output for each: "." done, "n" no space or budget. Exit status 0 after the last, 3 if an operation fails otherwise.
func runPackedCrash() {
    let arguments = CommandLine.arguments
    guard arguments.count >= 5, let seed = UInt64(arguments[1]), let count = Int(arguments[2]), let objectBytes = Int(arguments[3]) else {
        exit(2)
    }
    do {
        var options = PackedOptions()
        options.segmentBytes = ThisProcess.environment("PACKED_CRASH_SEGMENT").flatMap { Int($0) } ?? 1 << 20
        options.runsInBackground = false
        options.ageSeconds = 0
        if let budget = ThisProcess.environment("PACKED_CRASH_BUDGET") { options.writeBudgetBytesPerDay = UInt64(budget) }
        let store = try PackedStore(directories: Array(arguments[4...]), options: options)
        let run = WorkloadRun(store)
        var workload = Workload(seed: seed, objectBytes: objectBytes)
        for step in 0..<count {
            let operation = workload.next()
            var answer: [UInt8] = [UInt8(ascii: ".")]
            do throws(Errno) { try run.perform(operation) } catch {
                // An object may be missing whose creation found no space.
                guard [.noSpace, .diskQuotaExceeded, .noSuchFileOrDirectory].contains(error) else {
                    complain("operation \(step): \(error)\n")
                    exit(3)
                }
                answer = [UInt8(ascii: "n")]
            }
            if write(1, answer, 1) != 1 { exit(4) }
        }
        store.close()
    } catch {
        complain("\(error)\n")
        exit(3)
    }
}

private func complain(_ text: String) {
    let bytes = Array(text.utf8)
    _ = write(2, bytes, bytes.count)
}
