import ShrinkLinux
import TestSupport

/// What a seed makes of a packed store, step by step: the same in the process that does it and in the one that checks what is left.
public struct Workload: Sendable {
    public enum Operation: Sendable {
        case create(UInt32)
        case remove(UInt32)
        case write(UInt32, offset: Int, bytes: [UInt8], durable: Bool)
        case punch(UInt32, offset: Int, length: Int)
        case setSize(UInt32, Int)
        case sync(UInt32)
        /// Compact one segment.
        case clean
        /// Move what is sealed to the next tier.
        case age
    }

    private var generator: SeededGenerator
    private var live: [UInt32] = []
    private var nextID: UInt32 = 1
    private let objectBytes: Int

    public init(seed: UInt64, objectBytes: Int = 1 << 20) {
        generator = SeededGenerator(seed: seed)
        self.objectBytes = objectBytes
    }

    private mutating func below(_ limit: Int) -> Int { Int(generator.next() % UInt64(limit)) }

    public mutating func next() -> Operation {
        if live.count < 2 || live.count < 6 && below(12) == 0 {
            live.append(nextID)
            nextID += 1
            return .create(nextID - 1)
        }
        let position = below(live.count)
        let id = live[position]
        switch below(40) {
        case 0: return .remove(live.remove(at: position))
        case 1: return .setSize(id, below(2) == 0 ? below(objectBytes) : below(objectBytes / basePageSize) * basePageSize)
        case 2: return .sync(id)
        case 3...7: return .clean
        case 8, 9: return .age
        case 10...15:
            let offset = below(2) == 0 ? below(objectBytes) : below(objectBytes) & ~4095
            return .punch(id, offset: offset, length: below(2) == 0 ? 1 + below(100_000) : (1 + below(64)) * basePageSize)
        default:
            var offset = below(objectBytes)
            var length = 1 + below(9000)
            if below(3) != 0 {
                offset &= ~4095
                length = (1 + below(64)) * basePageSize
            }
            length = min(length, objectBytes - offset)
            return .write(id, offset: offset, bytes: content(length), durable: below(16) == 0)
        }
    }

    /// Pages of zeros, of one byte, of noise, and mostly such as compress; word by word, for the tests are built without optimization.
    private mutating func content(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + basePageSize)
        while bytes.count < count {
            let word = generator.next()
            switch below(6) {
            case 0: bytes.append(contentsOf: repeatElement(0, count: basePageSize))
            case 1: bytes.append(contentsOf: repeatElement(UInt8(truncatingIfNeeded: word), count: basePageSize))
            case 2:
                var noise = SeededGenerator(seed: word)
                bytes.append(contentsOf: Self.page { _ in noise.next() })
            default: bytes.append(contentsOf: Self.page { word & 0xffff_ffff | UInt64($0 / 8) << 32 })
            }
        }
        return Array(bytes[0..<count])
    }

    private static func page(_ word: (Int) -> UInt64) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: basePageSize) { buffer, count in
            let base = UnsafeMutableRawPointer(buffer.baseAddress!)
            for i in 0..<basePageSize / 8 { base.storeBytes(of: word(i), toByteOffset: i * 8, as: UInt64.self) }
            count = basePageSize
        }
    }
}
