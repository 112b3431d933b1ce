import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// Writers do not wait for one another's compressor: one stopped in the middle of compressing holds nobody up.
@Suite struct PackedWritersTests {
    /// Holds the first block of one object until it is let go.
    private final class Gate: Sendable {
        private struct State {
            var hasStopped = false
            var isOpen = false
        }
        private let state = Monitor(State())
        private let object: UInt32

        init(object: UInt32) { self.object = object }

        func pass(_ object: UInt32) {
            guard object == self.object else { return }
            let isFirst = state.withLock { state in
                defer { state.hasStopped = true }
                return !state.hasStopped
            }
            guard isFirst else { return }
            state.notifyAll()
            state.wait { $0.isOpen ? () : nil }
        }

        func open() {
            state.withLock { $0.isOpen = true }
            state.notifyAll()
        }

        func waitUntilStopped() -> Bool {
            state.wait(deadline: MonotonicTime.now().advanced(milliseconds: 60_000)) { $0.hasStopped ? true : nil } ?? false
        }
    }

    private final class Outcome: Sendable {
        let steps = Monitor<[String]>([])

        func add(_ step: String) {
            steps.withLock { $0.append(step) }
            steps.notifyAll()
        }

        func wait(for count: Int) -> [String] {
            steps.wait(deadline: MonotonicTime.now().advanced(milliseconds: 60_000)) { $0.count >= count ? $0 : nil }
                ?? steps.withLock { $0 }
        }
    }

    private static let pattern = PagePattern(seed: 91)

    private static func write(_ object: PackedObject, _ pages: Range<Int>) throws(Errno) {
        let bytes = pages.flatMap { pattern.page($0, zeroEvery: 0) }
        let n = try bytes.withBytes { buffer throws(Errno) in try object.write(buffer, at: pages.lowerBound * basePageSize, .buffered) }
        guard n == bytes.count else { throw .ioError }
    }

    private static func isWhole(_ object: PackedObject, _ pages: Range<Int>) throws(Errno) -> Bool {
        var bytes = [UInt8](repeating: 0, count: pages.count * basePageSize)
        _ = try bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: pages.lowerBound * basePageSize) }
        return bytes == pages.flatMap { pattern.page($0, zeroEvery: 0) }
    }

    @Test func aWriterStoppedInItsCompressorHoldsNobodyUp() throws {
        let directory = try ScratchDirectory()
        let gate = Gate(object: 1)
        var options = PackedOptions()
        options.segmentBytes = 1 << 20
        options.runsInBackground = false
        do {
            let store = try PackedStore(directories: [directory.path], options: options)
            for number in 1...2 as ClosedRange<UInt32> {
                let object = try store.create(try #require(StoredObjectID(rawValue: number)))
                try object.setSize(1024 * basePageSize)
                try Self.write(object, 0..<16)
            }
            store.close()
        }
        options.beforeCompressing = { gate.pass($0) }
        let again = try PackedStore(directories: [directory.path], options: options)
        defer { again.close() }
        let one = try #require(try find(again, 1))
        let two = try #require(try find(again, 2))
        let stopped = Outcome()
        let thread = try DedicatedThread("stopped") {
            do throws(Errno) {
                try Self.write(one, 100..<300)
                stopped.add("written")
            } catch { stopped.add("\(error)") }
        }
        #expect(gate.waitUntilStopped())
        // The same object, another one, a read, a punch and a sync of the other: all with the first writer in its compressor.
        let others = Outcome()
        let works: [@Sendable () throws -> Void] = [
            { try Self.write(one, 300..<500) },
            { try Self.write(two, 100..<500) },
            { if try !Self.isWhole(one, 0..<16) { throw Errno.ioError } },
            { try two.punch(at: 0, length: 8 * basePageSize) },
            { try two.sync() },
            { _ = try one.pages(from: StoredPageIndex(rawValue: 0)!, limit: 1000) },
        ]
        let threads = try works.map { work in
            try DedicatedThread("other") {
                do {
                    try work()
                    others.add("done")
                } catch { others.add("\(error)") }
            }
        }
        #expect(others.wait(for: works.count) == works.map { _ in "done" })
        #expect(stopped.steps.withLock { $0 } == [], "the first writer went on by itself")
        gate.open()
        #expect(stopped.wait(for: 1) == ["written"])
        for thread in threads + [thread] { thread.join() }
        #expect(try Self.isWhole(one, 100..<500) && Self.isWhole(two, 100..<500))
    }
}
