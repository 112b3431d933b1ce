import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Who is short of memory can't ask for it: moving pages out and back takes what was allocated before.
@Suite struct AllocationTests {
    /// As many allocations for many runs and objects as for few, but for lists that grow by doubling.
    @Test(arguments: ["plain", "guarded", "limited", "touched"]) func noRunAndNoObjectAsksForMemory(_ plan: String) throws {
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 256 << 20)
        let directory = try ScratchDirectory()
        let output = directory.file("output")
        let file = try Files.open(output, [.writeOnly, .create])
        let child = try ChildProcess(
            Machine.program("allocation-trial"), [tmpfs.path, plan], environment: ["PATH=/usr/bin:/bin"], standardOutput: file.number)
        guard let ending = try child.wait(timeoutMilliseconds: 120_000) else {
            child.signal(SIGKILL)
            _ = try child.wait()
            return #expect(Bool(false), "it takes too long")
        }
        if ending == .exited(77) {
            return Machine.lacks("a malloc of its own in this build", so: "what shrink and recover allocate was not counted")
        }
        #expect(ending == .exited(0))
        let lines = String(decoding: try Files.contents(of: output), as: UTF8.self).split(separator: "\n")
        #expect(lines.count == 5)
        for line in lines {
            let words = line.split(separator: " ")
            guard words.count == 4, let few = Int(words[1]), let many = Int(words[2]), let difference = Int(words[3]) else {
                #expect(Bool(false), "\(line)")
                continue
            }
            #expect(many - few < difference / 3, "\(plan): \(line)")
            #expect(many < 64, "\(plan): \(line)")
        }
    }
}
