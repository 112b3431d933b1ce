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

    /// `isGuarded`: clients of the pool are not trusted.
    init(_ descriptor: consuming OwnedDescriptor, isGuarded: Bool) {
        self.descriptor = SharedDescriptor(descriptor)
        porter = isGuarded ? Porter(self.descriptor) : nil
        // Now, while there is memory for its stack; without it the first call tries again.
        try? porter?.start()
    }

    deinit { porter?.end() }

    var number: CInt { descriptor.number }
    func duplicate() throws(Errno) -> OwnedDescriptor { try descriptor.duplicate() }

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

    /// The first bytes at or after an offset that take memory, up to `end`; nil if none do.
    func data(from offset: Int, below end: Int) throws(Errno) -> Range<Int>? { try make(.findData(from: offset, below: end)).data }

    /// Writes pages of a buffer. A call that is stuck keeps the buffer.
    func write(_ block: Staging.Block, _ pages: Range<Int>, at offset: Int, _ afterwards: FileCall.Afterwards) throws(Errno) {
        _ = try make(.write(block, pages, offset: offset), afterwards)
    }

    /// Makes a range of a pool a hole, up to `limit` pages that take memory; returns how many did. Searches and frees extent by extent.
    func freePages(
        first: Int, count: Int, limit: Int = .max, _ afterwards: FileCall.Afterwards = .nothing
    ) throws(Errno) -> Int {
        try make(.free(first: first, count: count, limit: limit), afterwards).pages
    }

    /// Pages of a range that take memory.
    func residentPages(first: Int, count: Int) throws(Errno) -> Int { try make(.count(first: first, count: count)).pages }
}
