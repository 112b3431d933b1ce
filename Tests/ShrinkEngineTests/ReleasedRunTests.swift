import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Runs whose memory goes while their worker does something else.
@Suite struct ReleasedRunTests {
    private let file: PoolFile
    private let touch = PoolTouch()

    init() throws {
        let memory = try MemoryFile.makeSealed("release", size: 64 * basePageSize)
        let full = [UInt8](repeating: 7, count: 64 * basePageSize)
        #expect(full.withUnsafeBytes { Files.write(memory.number, $0, at: 0) }.error == nil)
        file = PoolFile(memory, isGuarded: true)
    }

    private func present() throws -> [Int] {
        var page = [UInt8](repeating: 0, count: basePageSize)
        return try (0..<64).filter { index in
            let read = try page.withUnsafeMutableBytes { try Files.read(file.number, into: $0, at: index * basePageSize) }
            return read == basePageSize && page[0] == 7
        }
    }

    private func mask(_ pages: [Int]) -> RunMask {
        var mask = RunMask()
        for page in pages { mask.insert(page) }
        return mask
    }

    @Test func theClaimEndsWhenThePagesAreGoneAndNobodyNeedWait() throws {
        let claim = touch.claim(10..<20, .copyingOut)
        var call = try file.release(mask([0, 1, 5, 9]), first: 10, touch, claim: claim)
        // Who meets the run waits for the memory to go, not for the worker.
        let next = touch.claim(10..<20, .copyingIn)
        #expect(try present() == (0..<64).filter { ![10, 11, 15, 19].contains($0) })
        _ = try call.finish()
        touch.end(next)
    }

    @Test func oneThatIsDroppedIsWaitedFor() throws {
        for first in [0, 16, 32] {
            let claim = touch.claim(first..<first + 8, .copyingOut)
            do { _ = try file.release(mask(Array(0..<8)), first: first, touch, claim: claim) }
            #expect(try #require(touch.tryClaim(first..<first + 8, .copyingIn)) != claim)
        }
        #expect(try present().count == 64 - 24)
        // Its place in the queue is free again: there are 64.
        for _ in 0..<100 {
            let claim = touch.claim(40..<41, .copyingOut)
            do { _ = try file.release(mask([0]), first: 40, touch, claim: claim) }
        }
    }

    /// While a client sits on the file's lock, the run nobody waits for any more keeps its claim; it goes when the lock is free.
    @Test func oneThatIsStuckKeepsItsClaimUntilItsMemoryIsGone() throws {
        guard let userfaults = try? Userfaults.open(.full) else {
            return Machine.lacks("a full userfaultfd", so: "nobody could hold a pool's lock in its own process")
        }
        let trap = try MappedMemory(anonymous: basePageSize, populated: false)
        let range = UInt(bitPattern: trap.base)..<UInt(bitPattern: trap.base) + UInt(basePageSize)
        try Userfaults.begin(userfaults.number, [])
        try Userfaults.register(userfaults.number, range, .missing)
        let (number, address) = (file.number, range.lowerBound)
        let holder = try DedicatedThread("holder") {
            _ = Files.write(number, UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: address), count: basePageSize), at: 0)
        }
        // Its fault is there: it has the lock.
        #expect(try waitReadable(userfaults.number, timeoutMilliseconds: 10_000))
        let stuck = touch.claim(10..<20, .copyingOut)
        let waiting = touch.claim(30..<40, .copyingOut)
        var first = try file.release(mask([0, 1]), first: 10, touch, claim: stuck)
        var second = try file.release(mask([0, 1]), first: 30, touch, claim: waiting)
        #expect(throws: Errno.timedOut) { try first.finish() }
        // It was never begun, and its claim is its caller's.
        #expect(throws: Errno.resourceBusy) { try second.finish() }
        for pages in [10..<20, 30..<40] {
            let early = touch.tryClaim(pages, .copyingIn)
            #expect(early == nil, "the claim ended before the memory went")
            if let early { touch.end(early) }
        }
        touch.end(waiting, .protected)
        _ = Userfaults.zero(userfaults.number, range)
        holder.join()
        _ = touch.claim(10..<20, .copyingIn)
        #expect(try present() == (1..<64).filter { ![10, 11].contains($0) })
    }
}
