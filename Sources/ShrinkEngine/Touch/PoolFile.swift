import ShrinkLinux
import SystemPackage

/// A pool's memory file. Calls that take the file's lock (punch, write, SEEK_DATA) are made here.
///
/// A client that writes to the file from memory of its own whose fault nobody serves holds that lock for as long as it lives, and every other thread that
/// wants it sits in the kernel, where nothing reaches it. So where clients are strangers, a thread of the pool's own makes those calls; who waits for one gives up after a
/// while, and what the call may still do then is accounted for by `afterwards`. One pool stalls; its threads serve no other.
///
/// Every call may fail with EBUSY: another one is stuck, this one was not made; and with ETIMEDOUT: it is stuck itself, and when it ends after all,
/// `afterwards` runs on the pool's thread.
final class PoolFile: Sendable {
    private let descriptor: SharedDescriptor
    private let porter: Porter?
    /// Of a pool of huge pages.
    let huge: HugeMemory?

    /// `isGuarded`: clients of the pool are not trusted.
    init(_ descriptor: consuming OwnedDescriptor, isGuarded: Bool, huge: HugeMemory? = nil) {
        self.descriptor = SharedDescriptor(descriptor)
        self.huge = huge
        porter = isGuarded ? Porter(self.descriptor) : nil
        // Now, while there is memory for its stack; without it the first call tries again.
        try? porter?.start()
    }

    deinit { porter?.end() }

    var number: CInt { descriptor.number }
    /// Bytes of one page of the pool: what words, claims, places and all page numbers of this module count.
    var unitBytes: Int { huge == nil ? basePageSize : HugeMemory.unitBytes }
    func duplicate() throws(Errno) -> OwnedDescriptor { try descriptor.duplicate() }

    /// Calls made on the pool's thread so far, each of which costs two switches of threads; nil where there is none.
    var callCount: UInt64? { porter?.callCount }

    /// How long a call has been stuck; nil if none is.
    var stalledNanoseconds: UInt64? { porter?.stalledNanoseconds }

    private func make(_ call: FileCall, _ afterwards: FileCall.Afterwards = .nothing) throws(Errno) -> FileCall.Answer {
        guard let porter else { return try call.make(on: number) }
        return try porter.make(call, afterwards)
    }

    /// Makes a range a hole; bytes.
    func punch(at offset: Int, length: Int, _ afterwards: FileCall.Afterwards = .nothing) throws(Errno) {
        _ = try make(.punch(offset: offset, length: length), afterwards)
    }

    /// A call that is under way while its caller does something else. One that is dropped is waited for.
    struct CallUnderWay: ~Copyable {
        private enum Stage {
            case finished(Result<FileCall.Answer, Errno>)
            case queued(Porter, Int)
        }

        private var stage: Stage

        fileprivate init(_ call: FileCall, on file: PoolFile) throws(Errno) {
            if let porter = file.porter {
                stage = .queued(porter, try porter.begin(call))
            } else {
                stage = .finished(Result { () throws(Errno) in try call.make(on: file.number) })
            }
        }

        fileprivate init(answer: FileCall.Answer) { stage = .finished(.success(answer)) }

        deinit { if case .queued(let porter, let place) = stage { _ = try? porter.finish(place) } }

        /// Waits for it. EBUSY and ETIMEDOUT as of any call.
        mutating func finish() throws(Errno) -> FileCall.Answer {
            if case .queued(let porter, let place) = stage {
                stage = .finished(Result { () throws(Errno) in try porter.finish(place) })
            }
            guard case .finished(let result) = stage else { return FileCall.Answer() }
            return try result.get()
        }
    }

    /// Begins to make those pages of the run that begins with page `first` holes. The claim on the run then ends by itself, unless the call is not made.
    func release(_ pages: RunMask, first: Int, _ touch: PoolTouch, claim: UInt64) throws(Errno) -> CallUnderWay {
        try CallUnderWay(.release(pages, first: first, touch, claim), on: self)
    }

    /// Begins to look for the next pages to go out; none is the answer if none take memory. Not for pools of huge pages.
    func survey(_ search: SurveyedRun.Search) throws(Errno) -> CallUnderWay {
        if let known = search.answer { return CallUnderWay(answer: FileCall.Answer(survey: known)) }
        return try CallUnderWay(.survey(search), on: self)
    }

    /// The first bytes at or after an offset that take memory, up to `end`; nil if none do.
    func data(from offset: Int, below end: Int) throws(Errno) -> Range<Int>? { try make(.findData(from: offset, below: end)).data }

    /// Writes pages of a buffer to their places from an offset on. A call that is stuck keeps the buffer.
    func write(_ block: Staging.Block, _ pages: RunMask, at offset: Int, _ afterwards: FileCall.Afterwards) throws(Errno) {
        _ = try make(.write(block, pages, offset: offset), afterwards)
    }

    /// Makes a range of a pool a hole, up to `limit` pages that take memory; returns how many did. Searches and frees extent by extent.
    func freePages(
        first: Int, count: Int, limit: Int = .max, _ afterwards: FileCall.Afterwards = .nothing
    ) throws(Errno) -> Int {
        if huge == nil { return try make(.free(first: first, count: count, limit: limit), afterwards).pages }
        var freed = 0
        var page = first
        while freed < limit, let extent = try nextExtent(from: page, below: first + count) {
            let pages = min(extent.count, limit - freed)
            try punch(at: extent.lowerBound * unitBytes, length: pages * unitBytes, afterwards)
            freed += pages
            page = extent.lowerBound + pages
        }
        return freed
    }

    /// Pages of a range that take memory.
    func residentPages(first: Int, count: Int) throws(Errno) -> Int {
        guard let huge else { return try make(.count(first: first, count: count)).pages }
        var resident = 0
        for page in first..<first + count where try huge.isPresent(page) { resident += 1 }
        return resident
    }

    /// The next pages of a range that take memory, side by side.
    func nextExtent(from page: Int, below end: Int) throws(Errno) -> Range<Int>? {
        guard let huge else {
            guard page < end, let data = try data(from: page * basePageSize, below: end * basePageSize) else { return nil }
            return data.lowerBound / basePageSize..<(data.upperBound + basePageSize - 1) / basePageSize
        }
        var first = page
        while first < end, try !huge.isPresent(first) { first += 1 }
        guard first < end else { return nil }
        var last = first + 1
        while last < end, try huge.isPresent(last) { last += 1 }
        return first..<last
    }
}
