import Glibc
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport

/// Memory that a thread uses without pins and without a call, whatever is killed: each page is what it wrote there last, never zeros.
final class Toucher: Sendable {
    private static let pages = 1024
    private static let poolBytes = 8 << 20

    private struct State {
        var touches = 0
        var wrong: WrongPage?
        var isOver = false
    }

    private let client: ShrinkdClient
    private let mapping: TouchMapping
    private let address: PoolAddress
    private let state = Monitor(State())
    private let thread: DedicatedThread

    init(socket: String, pool: String, seed: UInt64) throws {
        client = try ShrinkdClient(path: socket, timeoutMilliseconds: 120_000)
        address = PoolAddress(id: try client.createPool(pool, sizeBytes: Self.poolBytes).pool.poolId)
        mapping = try client.mapForTouch(address)
        let object = try client.call(
            Methods.createObject, CreateObjectParameters(pool: address, objectName: "touched", sizeBytes: Self.pages * basePageSize)
        ).bufferObject
        _ = try client.call(Methods.unpin, ObjectAddress(objectId: object.objectId))
        guard mapping.bytes(of: object) != nil else { throw WrongPage(description: "an object beyond its mapping") }
        let (state, mapping) = (state, mapping)
        thread = try DedicatedThread("toucher") {
            guard let bytes = mapping.bytes(of: object) else { return }
            let pattern = PagePattern(seed: seed)
            var generator = SeededGenerator(seed: seed)
            var versions = [UInt64](repeating: 0, count: Self.pages)
            func page(_ index: Int) -> UnsafeMutableRawBufferPointer {
                UnsafeMutableRawBufferPointer(rebasing: bytes[index * basePageSize..<(index + 1) * basePageSize])
            }
            func isRight(_ index: Int) -> Bool {
                if versions[index] == 0 { return isZero(page(index).baseAddress!, basePageSize) }
                return pattern.page(index, version: versions[index], zeroEvery: 0).withUnsafeBytes { wanted in
                    memcmp(wanted.baseAddress!, page(index).baseAddress!, basePageSize) == 0
                }
            }
            var next = 0
            func fail(_ index: Int) {
                let first = page(index)[0]
                state.withLock {
                    $0.wrong = WrongPage(
                        description: "touched page \(index) of object \(object.objectId), version \(versions[index]), begins with \(first)")
                }
            }
            while true {
                // Partly in order, partly at random.
                next = generator.next() % 8 == 0 ? Int(generator.next() % UInt64(Self.pages)) : (next + 1) % Self.pages
                guard isRight(next) else { return fail(next) }
                versions[next] += 1
                pattern.fill(page(next), index: next, version: versions[next], zeroEvery: 0)
                let isOver = state.withLock { state in
                    state.touches += 1
                    return state.isOver
                }
                if isOver { break }
            }
            for index in 0..<Self.pages where !isRight(index) { return fail(index) }
        }
    }

    var touches: Int { state.withLock { $0.touches } }

    /// Moves the memory out under the thread that uses it.
    func moveOut() throws {
        if let wrong = state.withLock({ $0.wrong }) { throw wrong }
        if let failure = try client.call(Methods.shrink, ShrinkParameters(.pool(address))).failure { throw ShrinkdError(failure) }
        if let failure = mapping.registrationFailure { throw failure }
    }

    /// Everything once more.
    func finish() throws {
        state.withLock { $0.isOver = true }
        thread.join()
        if let wrong = state.withLock({ $0.wrong }) { throw wrong }
    }
}
