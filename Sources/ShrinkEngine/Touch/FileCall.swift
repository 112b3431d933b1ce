import ShrinkLinux
import SystemPackage

/// A call on a pool's file that takes its lock, written down, so that it can be made by another thread without any memory for it.
enum FileCall: Sendable {
    /// Makes a range a hole; bytes.
    case punch(offset: Int, length: Int)
    /// Makes those pages of the run that begins with a page holes, and ends the claim on the run, whether anybody waits or not.
    case release(RunMask, first: Int, PoolTouch, UInt64)
    /// Looks for the next run of pages, from one on.
    case survey(SurveyedRun.Search)
    /// Looks for the first bytes that take memory in a range.
    case findData(from: Int, below: Int)
    /// Writes those pages of a buffer to their places in the stretch that begins at an offset in bytes: all in one call, for each may take two switches of
    /// threads.
    case write(Staging.Block, RunMask, offset: Int)
    /// Makes a range of pages a hole, up to a number that take memory; counts them.
    case free(first: Int, count: Int, limit: Int)
    /// Counts the pages of a range that take memory.
    case count(first: Int, count: Int)

    struct Answer: Sendable {
        /// Bytes; nil: there is no data.
        var data: Range<Int>?
        var pages = 0
        var survey: SurveyedRun?
    }

    func make(on number: CInt) throws(Errno) -> Answer {
        switch self {
        case .punch(let offset, let length): try Files.punch(number, at: offset, length: length)
        case .release(let pages, let first, let touch, let claim):
            do throws(Errno) { try Self.punch(number, pages, first: first) } catch {
                touch.end(claim, .protected)
                throw error
            }
            touch.end(claim, .writable)
        case .survey(let search): return Answer(survey: try search.make(on: number))
        case .findData(let offset, let end):
            guard let data = try Files.nextData(number, from: offset), data < end else { return Answer() }
            return Answer(data: data..<(try Files.endOfData(number, from: data, limit: end)))
        case .write(let block, let pages, let offset):
            var page = 0
            while let run = pages.nextRun(from: page) {
                let bytes = UnsafeRawBufferPointer(block.pages(run))
                if let error = Files.write(number, bytes, at: offset + run.lowerBound * basePageSize).error { throw error }
                page = run.upperBound
            }
        case .free(let first, let count, let limit): return Answer(pages: try Self.free(number, first, count, limit))
        case .count(let first, let count): return Answer(pages: try Self.count(number, first, count))
        }
        return Answer()
    }

    private static func punch(_ number: CInt, _ pages: RunMask, first: Int) throws(Errno) {
        var page = 0
        while let run = pages.nextRun(from: page) {
            try Files.punch(number, at: (first + run.lowerBound) * basePageSize, length: run.count * basePageSize)
            page = run.upperBound
        }
    }

    private static func free(_ number: CInt, _ first: Int, _ count: Int, _ limit: Int) throws(Errno) -> Int {
        var freed = 0
        let end = (first + count) * basePageSize
        var offset = first * basePageSize
        while freed < limit, offset < end, let data = try Files.nextData(number, from: offset), data < end {
            var hole = try Files.endOfData(number, from: data, limit: end)
            if (hole - data) / basePageSize > limit - freed { hole = data + (limit - freed) * basePageSize }
            try Files.punch(number, at: data, length: hole - data)
            freed += (hole - data) / basePageSize
            offset = hole
        }
        return freed
    }

    private static func count(_ number: CInt, _ first: Int, _ count: Int) throws(Errno) -> Int {
        var resident = 0
        let end = (first + count) * basePageSize
        var offset = first * basePageSize
        while offset < end, let data = try Files.nextData(number, from: offset), data < end {
            let hole = try Files.endOfData(number, from: data, limit: end)
            resident += (hole - data) / basePageSize
            offset = hole
        }
        return resident
    }

    /// What remains to be done by the pool's thread when a call ends that its caller gave up.
    enum Afterwards: Sendable {
        case nothing
        /// The pages of a claim went after all.
        case endClaim(PoolTouch, UInt64)
        /// Pages of the pool came after all, and nobody waits for them: they go again, for the words still say where the truth is. Then the claim ends.
        case undoCopyIn(PoolTouch, UInt64, RunMask, first: Int)
        /// A free block that lost its memory comes back.
        case giveBack(Engine, Pool, first: Int, count: Int)
        case run(@Sendable () -> Void)

        func run(_ number: CInt) {
            switch self {
            case .nothing: break
            case .endClaim(let touch, let claim): touch.end(claim, .protected)
            case .undoCopyIn(let touch, let claim, let pages, let first):
                pages.forEachRun(of: 0..<RunMask.limit, isIn: true) { run in
                    try? Files.punch(number, at: (first + run.lowerBound) * basePageSize, length: run.count * basePageSize)
                }
                touch.end(claim, .protected)
            case .giveBack(let engine, let pool, let first, let count):
                engine.state.withLock { _ in
                    pool.allocator.release(first: first, count: count)
                    pool.blocksOut -= 1
                }
                engine.state.notifyAll()
            case .run(let body): body()
            }
        }
    }
}
