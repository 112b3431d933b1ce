import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite(.serialized) struct ListingTests {
    @Test func namesAreNeitherSkippedNorRepeatedWhileOthersComeAndGo() throws {
        try withMount { server in
            let data = try server.makeObject(1, sizeBytes: 8192 * page)
            // Even pages stay; odd ones come and go while the listing runs.
            for i in stride(from: 0, to: 8192, by: 2) { try write([1], to: data.number, at: i * page) }
            let stream = try #require(opendir(server.file("objects/1/pages")))
            defer { closedir(stream) }
            var generator = SeededGenerator(seed: testSeed("listing"))
            var seen: [Int: Int] = [:]
            var steps = 0
            while let entry = readdir(stream) {
                let name = withUnsafePointer(to: &entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                }
                if let index = Int(name) { seen[index, default: 0] += 1 }
                steps += 1
                if steps % 16 == 0 {
                    let odd = Int.random(in: 0..<4096, using: &generator) * 2 + 1
                    if steps % 32 == 0 {
                        try write([2], to: data.number, at: odd * page)
                    } else {
                        try Files.punch(data.number, at: odd * page, length: page)
                    }
                }
            }
            for i in stride(from: 0, to: 8192, by: 2) where seen[i] != 1 {
                Issue.record("page \(i) was listed \(seen[i] ?? 0) times")
                break
            }
            #expect(seen.values.allSatisfy { $0 == 1 })
        }
    }

    @Test func aListingGoesOnExactlyWhereItStopped() throws {
        try withMount { server in
            for id in 1...3000 { try Files.makeDirectory(server.file("objects/\(id * 7)")) }
            let stream = try #require(opendir(server.file("objects")))
            defer { closedir(stream) }
            func next() -> String? {
                readdir(stream).map { entry in
                    withUnsafePointer(to: &entry.pointee.d_name) {
                        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                    }
                }
            }
            for _ in 0..<1500 { _ = next() }
            let place = telldir(stream)
            let expected = (next(), next())
            for _ in 0..<700 { _ = next() }
            seekdir(stream, place)
            #expect((next(), next()) == expected)
            var last: String?
            while let name = next() { last = name }
            #expect(last == "21000")
        }
    }

    @Test func manyPagesAreListedFastInBoundedMemory() throws {
        let memory = Machine.isRoot ? try ScratchMemoryFileSystem(sizeBytes: 600 << 20) : nil
        try withExtendedLifetime(memory) {
            try withBackupFileSystem(store: memory?.path) { server in
                let data = try server.makeObject(1, sizeBytes: 1 << 30)
                let run = [UInt8](repeating: 1, count: 1 << 20)
                for i in 0..<400 { try write(run, to: data.number, at: i << 20) }
                let before = try residentBytes(server.process.processID)
                let start = MonotonicTime.now()
                #expect(try server.names("objects/1/pages").count == 102_400)
                let seconds = Double(MonotonicTime.now().nanoseconds(since: start)) / 1e9
                let growth = try residentBytes(server.process.processID) - before
                print("102400 names listed in \(seconds) s, server grew by \(growth) bytes")
                #expect(seconds < 5)
                #expect(growth < 4 << 20)
            }
        }
    }

    private func residentBytes(_ process: Int32) throws -> Int {
        let text = String(decoding: try Files.contents(of: "/proc/\(process)/status"), as: UTF8.self)
        let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("VmRSS:") })
        return try #require(line.split(separator: " ").compactMap { Int($0) }.first) << 10
    }
}
