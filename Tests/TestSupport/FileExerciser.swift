import Glibc
import ShrinkLinux
import SystemPackage

/// Does random operations on a file and on a model in memory, and compares every answer: bytes, sizes, counts, and holes exact to the page.
///
/// The same seed does the same operations. A failure names the operation's number, what was done, and the seed.
public struct FileExerciser: ~Copyable {
    public struct Difference: Error, CustomStringConvertible {
        public var description: String
    }

    /// What a file system under test promises beyond bytes and sizes.
    public enum Holes: Sendable {
        /// A page has data if it was written since it was last punched or cut off, whatever was written.
        case exact
        /// A page has data if one of its bytes is not zero.
        case zerosAreHoles
        /// Bytes and sizes only.
        case unchecked
    }

    private let path: String
    private let seed: UInt64
    private let holes: Holes
    private var generator: SeededGenerator
    private var file: OwnedDescriptor
    /// The expected content, `capacity` bytes; beyond `size` it is zeros.
    private let model: MappedMemory
    private let scratch: MappedMemory
    /// Random bytes to write from.
    private let pool: MappedMemory
    private var present: [Bool]
    private var size: Int
    private let capacity: Int
    private var last = "nothing"

    private static let longest = 96 << 10

    /// `path` is a file of size 0, which may grow to `capacity` bytes (a multiple of the page).
    public init(path: String, seed: UInt64, capacity: Int = 1 << 20, holes: Holes = .exact) throws {
        precondition(capacity % basePageSize == 0 && capacity >= 4 * Self.longest, "room for the longest operations")
        var chance = SeededGenerator(seed: seed)
        let opened = try Files.open(path, .readWrite)
        let content = try MappedMemory(anonymous: capacity, populated: true)
        let copy = try MappedMemory(anonymous: Self.longest, populated: true)
        let source = try MappedMemory(anonymous: 4 * Self.longest, populated: true)
        for i in 0..<source.count / 8 { source.bytes.storeBytes(of: chance.next() | 1, toByteOffset: i * 8, as: UInt64.self) }
        // Nothing below throws: what can't be copied is either made whole or not at all.
        self.path = path
        self.seed = seed
        self.holes = holes
        self.capacity = capacity
        generator = chance
        file = opened
        model = content
        scratch = copy
        pool = source
        present = [Bool](repeating: false, count: capacity / basePageSize)
        size = 0
    }

    /// Does that many operations; `$SHRINKD_TEST_OPERATIONS` overrides for long runs.
    public mutating func run(operations given: Int) throws {
        let count = environmentValue("SHRINKD_TEST_OPERATIONS").flatMap { Int($0) } ?? given
        for i in 0..<count {
            do { try step() } catch {
                throw Difference(description: "\(path): operation \(i) (\(last)), seed \(seed): \(error)")
            }
        }
        try compareAll()
    }

    private mutating func step() throws {
        switch random(below: 100) {
        case 0..<34: try writeSome()
        case 34..<62: try readSome()
        case 62..<74: try punch()
        case 74..<80: try zero()
        case 80..<86: try truncate()
        case 86..<95: try seek()
        case 95..<98: try reopen()
        case 98: try Files.sync(file.number, dataOnly: random(below: 2) == 0)
        default: try compareAll()
        }
    }

    // MARK: Operations

    private mutating func writeSome() throws {
        let (offset, length) = range(below: capacity)
        guard length > 0 else { return }
        let from = random(below: pool.count - length)
        let isZero = random(below: 16) == 0
        let durable = random(below: 50) == 0
        last = "write \(length) bytes\(isZero ? " of zeros" : "") at \(offset)\(durable ? ", durable" : "")"
        let source = UnsafeRawBufferPointer(start: pool.base + from, count: length)
        if isZero { memset(scratch.base, 0, length) }
        let bytes = isZero ? UnsafeRawBufferPointer(start: scratch.base, count: length) : source
        let written = Files.write(file.number, bytes, at: offset, durable ? .dataSync : [])
        guard written.bytes == length else {
            throw Difference(description: "wrote \(written.bytes): \(written.error.map { "\($0)" } ?? "no error")")
        }
        memcpy(model.base + offset, bytes.baseAddress!, length)
        for page in offset / basePageSize...(offset + length - 1) / basePageSize { present[page] = true }
        size = max(size, offset + length)
        try checkSize()
    }

    private mutating func readSome() throws {
        let (offset, length) = range(below: capacity)
        last = "read \(length) bytes at \(offset)"
        try compare(offset, length)
    }

    private func compare(_ offset: Int, _ length: Int) throws {
        let count = try Files.read(file.number, into: UnsafeMutableRawBufferPointer(start: scratch.base, count: length), at: offset)
        let expected = max(0, min(length, size - offset))
        guard count == expected else { throw Difference(description: "got \(count) bytes, expected \(expected)") }
        guard memcmp(scratch.base, model.base + offset, count) == 0 else {
            let at = (0..<count).first { scratch.bytes[$0] != model.bytes[offset + $0] } ?? 0
            throw Difference(description: "byte \(offset + at) is \(scratch.bytes[at]), expected \(model.bytes[offset + at])")
        }
    }

    private mutating func punch() throws {
        let (offset, length) = range(below: capacity)
        guard length > 0 else { return }
        last = "punch \(length) bytes at \(offset)"
        try Files.punch(file.number, at: offset, length: length)
        erase(offset, length)
        try checkSize()
    }

    private mutating func zero() throws {
        let (offset, length) = range(below: capacity)
        guard length > 0 else { return }
        let keepsSize = random(below: 2) == 0
        last = "zero \(length) bytes at \(offset)\(keepsSize ? ", keeping the size" : "")"
        try Files.allocate(file.number, mode: keepsSize ? 17 : 16, at: offset, length: length)
        erase(offset, length)
        if !keepsSize { size = max(size, offset + length) }
        try checkSize()
    }

    /// Whole pages go; parts of pages become zeros where they are.
    private mutating func erase(_ offset: Int, _ length: Int) {
        memset(model.base + offset, 0, length)
        let first = (offset + basePageSize - 1) / basePageSize
        let end = (offset + length) / basePageSize
        if first < end { for page in first..<end { present[page] = false } }
    }

    private mutating func truncate() throws {
        let new = random(below: 4) == 0 ? random(below: capacity / basePageSize) * basePageSize : random(below: capacity)
        last = "truncate from \(size) to \(new)"
        try Files.truncate(file.number, to: new)
        if new < size {
            memset(model.base + new, 0, size - new)
            for page in (new + basePageSize - 1) / basePageSize..<present.count { present[page] = false }
        }
        size = new
        try checkSize()
    }

    private mutating func seek() throws {
        if case .unchecked = holes { return }
        let offset = random(below: capacity)
        last = "seek from \(offset) with size \(size)"
        let pages = (size + basePageSize - 1) / basePageSize
        let start = offset / basePageSize
        var data: Int?
        var hole: Int?
        if offset < size {
            data = (start..<pages).first { isData($0) }.map { max(offset, $0 * basePageSize) }
            hole = (start..<pages).first { !isData($0) }.map { max(offset, $0 * basePageSize) } ?? size
        }
        let foundData = try Files.nextData(file.number, from: offset)
        guard foundData == data else { throw Difference(description: "data at \(describe(foundData)), expected \(describe(data))") }
        let foundHole = try Files.nextHole(file.number, from: offset)
        guard foundHole == hole else { throw Difference(description: "hole at \(describe(foundHole)), expected \(describe(hole))") }
    }

    private func isData(_ page: Int) -> Bool {
        guard case .zerosAreHoles = holes else { return present[page] }
        return !isZero(model.base + page * basePageSize, basePageSize)
    }

    private func describe(_ offset: Int?) -> String { offset.map { String($0) } ?? "none" }

    private mutating func reopen() throws {
        last = "reopen"
        file = try Files.open(path, .readWrite)
        try checkSize()
    }

    private func compareAll() throws {
        var offset = 0
        while offset < capacity {
            try compare(offset, min(Self.longest, capacity - offset))
            offset += Self.longest
        }
    }

    private func checkSize() throws {
        let found = try Files.status(file.number).sizeBytes
        guard found == size else { throw Difference(description: "size is \(found), expected \(size)") }
    }

    // MARK: Chance

    private mutating func random(below limit: Int) -> Int { Int.random(in: 0..<limit, using: &generator) }

    /// Often aligned to pages, mostly short.
    private mutating func range(below capacity: Int) -> (offset: Int, length: Int) {
        var offset = random(below: capacity)
        var length = random(below: 4) == 0 ? random(below: Self.longest) : random(below: 3 * basePageSize)
        if random(below: 2) == 0 {
            offset &= ~(basePageSize - 1)
            length = min(Self.longest, (length + basePageSize) & ~(basePageSize - 1))
        }
        return (offset, min(length, capacity - offset))
    }
}
