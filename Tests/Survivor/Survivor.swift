import Glibc
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport

func exitNow(_ status: Int32) -> Never { exit(status) }

/// Works on a pool of its own until SIGTERM.
func survive(socket: String, pool: String, seed: UInt64) -> Int32 {
    do {
        let signals = try SignalDescriptor([Signal.terminate])
        let toucher = try Toucher(socket: socket, pool: pool + "-touched", seed: seed)
        var survivor = try Survivor(socket: socket, pool: pool, seed: seed)
        var steps = 0
        while try signals.next() == nil {
            try survivor.step()
            steps += 1
            if steps % 5 == 0 { try toucher.moveOut() }
            if steps % 200 == 0 { say("touches \(toucher.touches)") }
        }
        try toucher.finish()
        try survivor.finish()
        say("touches \(toucher.touches)")
        return 0
    } catch let wrong as WrongPage {
        say("WRONG \(wrong)")
        return 3
    } catch {
        say("FAILED \(error)")
        return 4
    }
}

struct WrongPage: Error, CustomStringConvertible {
    var description: String
}

private func say(_ text: String) {
    let line = Array((text + "\n").utf8)
    line.withUnsafeBytes { Files.appendOnce(1, $0) }
}

/// Objects whose every page is known: pinned, checked, rewritten, let go, shrunk, brought back, destroyed and made anew, as the seed has it.
struct Survivor {
    private struct Item {
        var object: WireObject
        /// The version of each page's content.
        var versions: [UInt64]
        var pins: Int
        var pages: Int { versions.count }
    }

    private static let poolBytes = 192 << 20
    private static let objectLimit = 8

    private let client: ShrinkdClient
    private let memory: PoolMemory
    private let pattern: PagePattern
    private var generator: SeededGenerator
    private var items: [Item] = []
    private var version: UInt64 = 0
    private var steps = 0

    init(socket: String, pool: String, seed: UInt64) throws {
        client = try ShrinkdClient(path: socket, timeoutMilliseconds: 120_000)
        memory = try client.createPool(pool, sizeBytes: Self.poolBytes)
        pattern = PagePattern(seed: seed)
        generator = SeededGenerator(seed: seed)
        for _ in 0..<Self.objectLimit / 2 { try make() }
        say("READY")
    }

    mutating func step() throws {
        steps += 1
        if steps % 200 == 0 { say("STEPS \(steps) reconnections \(client.reconnections)") }
        switch Int.random(in: 0..<100, using: &generator) {
        case 0..<40: try use()
        case 40..<55: try read()
        case 55..<75: try move(out: true)
        case 75..<88: try move(out: false)
        case 88..<93: try make()
        case 93..<96: try destroy()
        default: try count()
        }
    }

    /// Everything once more, and the daemon's own counts.
    mutating func finish() throws {
        for index in items.indices {
            try pin(index)
            try check(index)
        }
        try count()
        say("DONE steps \(steps) reconnections \(client.reconnections) pages \(items.reduce(0) { $0 + $1.pages })")
    }

    // MARK: What a client does

    private mutating func make() throws {
        guard items.count < Self.objectLimit else { return }
        let pages = [1, 17, 256, 700, 1500].randomElement(using: &generator)!
        let object: WireObject
        do throws(ShrinkdError) {
            object = try client.call(
                Methods.createObject,
                CreateObjectParameters(
                    pool: PoolAddress(id: memory.pool.poolId), objectName: "o\(steps)", sizeBytes: pages * basePageSize,
                    priority: Int.random(in: 0...3, using: &generator))
            ).bufferObject
        } catch {
            // Free ranges lie apart: another one some other time.
            if error.code == .outOfSpace { return }
            throw error
        }
        items.append(Item(object: object, versions: [UInt64](repeating: 0, count: pages), pins: 1))
        let index = items.count - 1
        let bytes = try bytes(index)
        guard let base = bytes.baseAddress, isZero(base, bytes.count / basePageSize * basePageSize) else {
            throw WrongPage(description: "object \(object.objectId) is new and not zeros")
        }
        for page in 0..<pages { write(page, of: index, bytes) }
        try unpin(index)
    }

    private mutating func destroy() throws {
        guard items.count > 2 else { return }
        let index = items.indices.randomElement(using: &generator)!
        while items[index].pins > 0 { try unpin(index) }
        _ = try client.call(Methods.destroyObject, ObjectAddress(objectId: items[index].object.objectId))
        items.remove(at: index)
    }

    private mutating func use() throws {
        let index = items.indices.randomElement(using: &generator)!
        try pin(index)
        try check(index)
        let bytes = try bytes(index)
        for _ in 0..<Int.random(in: 0...64, using: &generator) {
            write(Int.random(in: 0..<items[index].pages, using: &generator), of: index, bytes)
        }
        // Sometimes the pin stays: what is pinned when something dies stays so.
        if Bool.random(using: &generator) || items[index].pins > 2 { while items[index].pins > 0 { try unpin(index) } }
    }

    private mutating func read() throws {
        let index = items.indices.randomElement(using: &generator)!
        let page = Int.random(in: 0..<items[index].pages, using: &generator)
        let count = min(32, items[index].pages - page)
        let bytes = try client.read(items[index].object.objectId, at: page * basePageSize, length: count * basePageSize)
        for i in 0..<count where Array(bytes[i * basePageSize..<(i + 1) * basePageSize]) != expected(index, page + i) {
            throw WrongPage(
                description: "page \(page + i) of object \(items[index].object.objectId), read through the daemon, step \(steps)")
        }
    }

    private mutating func move(out: Bool) throws {
        let index = items.indices.randomElement(using: &generator)!
        let id = items[index].object.objectId
        let failure: WireFailure?
        if out {
            // By itself, a pinned object is refused; with the whole pool it is passed over.
            let everything = items[index].pins > 0 || Int.random(in: 0..<4, using: &generator) == 0
            failure = try client.call(
                Methods.shrink, ShrinkParameters(everything ? .pool(PoolAddress(id: memory.pool.poolId)) : .object(id))
            ).failure
        } else {
            guard let parameters = RecoverParameters(.object(id)) else { return }
            failure = try client.call(Methods.recover, parameters).failure
        }
        if let failure { throw ShrinkdError(failure) }
    }

    /// The daemon's counts agree with what this client did.
    private func count() throws {
        for item in items {
            let object = try client.call(Methods.getObject, ObjectAddress(objectId: item.object.objectId)).bufferObject
            let pages = object.pages.resident + object.pages.zero + object.pages.backedUp + object.pages.empty
            guard object.pinCount == item.pins, pages == item.pages, item.pins == 0 || object.pages.backedUp == 0 else {
                throw WrongPage(
                    description: "counts of object \(object.objectId): pins \(object.pinCount), not \(item.pins); \(object.pages)")
            }
        }
        let pool = try client.call(Methods.listPools, ListPoolsParameters(afterPoolId: memory.pool.poolId - 1)).pools.first
        guard pool?.objectCount == items.count else {
            throw WrongPage(description: "the pool has \(pool?.objectCount ?? -1) objects, not \(items.count)")
        }
    }

    // MARK: Parts

    private mutating func pin(_ index: Int) throws {
        _ = try client.call(Methods.pin, ObjectAddress(objectId: items[index].object.objectId))
        items[index].pins += 1
    }

    private mutating func unpin(_ index: Int) throws {
        _ = try client.call(Methods.unpin, ObjectAddress(objectId: items[index].object.objectId))
        items[index].pins -= 1
    }

    private func bytes(_ index: Int) throws -> UnsafeMutableRawBufferPointer {
        guard let bytes = memory.bytes(of: items[index].object) else { throw WrongPage(description: "an object beyond its pool") }
        return bytes
    }

    private mutating func write(_ page: Int, of index: Int, _ bytes: UnsafeMutableRawBufferPointer) {
        version += 1
        items[index].versions[page] = version
        pattern.fill(
            UnsafeMutableRawBufferPointer(rebasing: bytes[page * basePageSize..<(page + 1) * basePageSize]),
            index: items[index].object.objectId << 20 | page, version: version)
    }

    private func expected(_ index: Int, _ page: Int) -> [UInt8] {
        pattern.page(items[index].object.objectId << 20 | page, version: items[index].versions[page])
    }

    private func check(_ index: Int) throws {
        let bytes = try bytes(index)
        for page in 0..<items[index].pages {
            // memcmp: a walk byte by byte takes a debug build longer than everything that is tested here.
            let isRight = expected(index, page).withUnsafeBytes { wanted in
                memcmp(wanted.baseAddress!, bytes.baseAddress! + page * basePageSize, basePageSize) == 0
            }
            if !isRight {
                throw WrongPage(description: "page \(page) of object \(items[index].object.objectId), mapped, step \(steps)")
            }
        }
    }
}
