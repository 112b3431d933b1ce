import ShrinkLinux
import SystemPackage
import TestSupport

@testable import ShrinkEngine

/// One step of a history. It means something in every state, so that steps can be left out of a history and the rest still runs.
struct ModelStep: CustomStringConvertible {
    enum Kind: CaseIterable {
        case create, write, hold, letGo, purgeable, keep, shrinkObject, shrinkBytes, shrinkAll, scan, evict, recoverObject, recoverRange
        case recoverBytes, destroy, join, bump, discard, look, armFault, armCancel, die
    }

    var kind: Kind
    var a: UInt64
    var b: UInt64

    var description: String { "\(kind)(\(a), \(b))" }

    static func history(_ count: Int, seed: UInt64, _ kinds: [(Kind, Int)]) -> [ModelStep] {
        var generator = SeededGenerator(seed: seed)
        let total = kinds.reduce(0) { $0 + $1.1 }
        return (0..<count).map { _ in
            var pick = Int(generator.next() % UInt64(total))
            let kind = kinds.first { entry in
                pick -= entry.1
                return pick < 0
            }
            return ModelStep(kind: kind?.0 ?? .write, a: generator.next() >> 32, b: generator.next() >> 32)
        }
    }
}

struct ModelFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// An engine and a plain model of what its clients wrote, driven step by step. Everything is compared.
///
/// A page's content is its stamp: 0 is a page of zeros, else word 0 holds it and so does one more word whose place depends on it.
final class EngineModel {
    private struct Object {
        let id: ObjectID
        let pages: Int
        let offset: Int
        var stamps: [UInt64]
        var holds = 0
        /// Its content may have been given up since the last pin.
        var mayBeLost = false
        var mustBeLost = false
        /// Its destruction may have begun when the engine died.
        var mayBeGone = false
    }

    private(set) var engine: Engine
    private let backup: any Backup
    let pool: PoolID
    private let memory: MappedMemory
    private let faults: ModelFaults?
    private let checksEngine: Bool
    private var objects: [Object] = []
    private var bulks: [BulkMoveID] = []
    private var nextStamp: UInt64
    private var cancellation: Cancellation?
    private let shared: SharedModelFaults?
    /// Steps that an armed fault has to strike in.
    private var faultLeft = 0
    /// Steps until it dies at the latest, once that is decided.
    private var lifeLeft: Int?
    private var mustDie: Bool { lifeLeft != nil || shared != nil }
    private(set) var steps = 0

    static let poolPages = 96
    static let maximumObjects = 10

    /// A model of its own, with faults and deaths.
    init(backup: any Backup, coverage: ModelCoverage? = nil) throws {
        self.backup = backup
        let faults = ModelFaults(coverage)
        self.faults = faults
        shared = nil
        checksEngine = true
        nextStamp = 1
        engine = try Engine(backup: backup, configuration: Self.configuration(faults), logger: quiet)
        pool = try engine.createPool(name: "model", owner: 0, size: ByteCount(Self.poolPages * basePageSize)).id
        memory = try MappedMemory(sharing: try engine.poolDescriptor(pool).release(), count: Self.poolPages * basePageSize)
    }

    /// One of several clients of an engine, each in a pool of its own.
    init(engine: Engine, backup: any Backup, client: UInt64, faults shared: SharedModelFaults) throws {
        self.backup = backup
        self.shared = shared
        self.engine = engine
        faults = nil
        checksEngine = false
        nextStamp = client << 40 | 1
        pool = try engine.createPool(name: "client \(client)", owner: 0, size: ByteCount(Self.poolPages * basePageSize)).id
        memory = try MappedMemory(sharing: try engine.poolDescriptor(pool).release(), count: Self.poolPages * basePageSize)
    }

    private static func configuration(_ faults: ModelFaults) -> Engine.Configuration {
        var configuration = Engine.Configuration()
        configuration.copyWorkers = 1
        configuration.concurrentOperations = 1
        configuration.maximumResident = ByteCount(64 * basePageSize)
        configuration.memoryFloor = .zero
        configuration.cgroupReserve = .zero
        configuration.faults = { point, _, _ in faults.strike(point) }
        return configuration
    }

    // MARK: Steps

    func run(_ step: ModelStep) throws {
        steps += 1
        // A cancellation armed by the step before strikes in this one only; a fault or a death waits for its place for some steps.
        let isArming = step.kind == .armFault || step.kind == .armCancel
        let cancellation = self.cancellation
        try perform(step, cancellation)
        if let left = lifeLeft {
            lifeLeft = left - 1
            if left == 0 || faults?.isDead == true {
                faults?.disarm()
                lifeLeft = nil
                try dieAndReopen()
            }
        } else if !isArming {
            self.cancellation = nil
            faultLeft -= 1
            if faultLeft <= 0 { faults?.disarm() }
        }
        if checksEngine, let broken = engine.brokenInvariants().first { throw ModelFailure(broken) }
    }

    private func perform(_ step: ModelStep, _ cancellation: Cancellation?) throws {
        let index = objects.isEmpty ? nil : Int(step.a % UInt64(objects.count))
        switch step.kind {
        case .create: try create(pages: 1 + Int(step.a % 8), priority: Priority(rawValue: UInt8(step.b % 4)) ?? .normal)
        case .write: if let index { try write(index, step.b, cancellation) }
        case .hold:
            if let index, objects[index].holds < 3, try pin(index, cancellation) { objects[index].holds += 1 }
        case .letGo:
            if let index, objects[index].holds > 0 {
                try check(index)
                try engine.unpin(objects[index].id)
                objects[index].holds -= 1
            }
        case .purgeable, .keep:
            guard let index else { return }
            if let answer = attempt({ try engine.setPurgeable(objects[index].id, step.kind == .purgeable, cancellation: cancellation) }) {
                try compare(answer, index)
                // A given-up object stays so until its pin; one that is kept now was not given up.
                if answer.retained { objects[index].mayBeLost = step.kind == .purgeable }
            }
        case .discard:
            guard let index, objects[index].holds == 0 else { return }
            if attempt({ try engine.discardContent(objects[index].id, cancellation: cancellation) }) != nil {
                (objects[index].mayBeLost, objects[index].mustBeLost) = (true, true)
            }
        case .shrinkObject: if let index { try expectSane(engine.shrink(.object(objects[index].id), cancellation: cancellation)) }
        case .shrinkBytes:
            let goal = ByteCount((1 + Int(step.a % 12)) * basePageSize)
            let result = engine.shrink(.bytes(goal), cancellation: cancellation)
            if checksEngine, result.freedBytes > goal { throw ModelFailure("asked for \(goal), freed \(result.freedBytes)") }
            try expectSane(result)
        case .shrinkAll:
            let result = engine.shrink(.pool(pool), cancellation: cancellation)
            try expectSane(result)
            guard checksEngine, result.failure == nil else { return }
            for object in objects where object.holds == 0 {
                let pages = try engine.object(object.id).pages
                if pages.resident > 0 { throw ModelFailure("after shrinking everything \(object.id) has \(pages)") }
            }
        case .scan:
            let context = ReclaimContext(
                caller: step.b & 1 == 0 ? .background : .direct, mayUseFileSystem: step.b & 2 == 0, mayStartWriteback: step.b & 4 == 0,
                mayWait: step.b & 8 == 0)
            let goal = 1 + Int(step.a % 20)
            if case .scanned(let result) = engine.shrinker.scan(goalPages: goal, context, cancellation: cancellation) {
                try expectSane(result)
                if result.freedBytes.rawValue > goal * basePageSize {
                    throw ModelFailure("asked for \(goal) pages, freed \(result.freedBytes)")
                }
                if !context.mayUseFileSystem, result.backedUpPages > 0 { throw ModelFailure("the file system was used without leave") }
            }
        case .evict: try expectSane(engine.evict(goalPages: 1 + Int(step.a % 30), in: pool, cancellation: cancellation))
        case .recoverObject: if let index { _ = engine.recover(.object(objects[index].id), cancellation: cancellation) }
        case .recoverRange:
            guard let index else { return }
            let first = Int(step.b) % objects[index].pages
            let last = first + Int(step.a / 7) % (objects[index].pages - first + 1)
            _ = engine.recover(
                objects[index].id, pages: PageIndex(rawValue: first)..<PageIndex(rawValue: last), cancellation: cancellation)
        case .recoverBytes: _ = engine.recover(.bytes(ByteCount(1 + Int(step.a % 9) * basePageSize)), cancellation: cancellation)
        case .destroy:
            guard let index, objects[index].holds == 0 else { return }
            if attempt({ try engine.destroyObject(objects[index].id) }) != nil {
                objects.remove(at: index)
            } else {
                objects[index].mayBeGone = mustDie
            }
        case .join:
            guard let index else { return }
            if bulks.count < 3 { bulks.append(try engine.createBulkMove()) }
            try engine.setBulkMove(step.b % 4 == 0 ? nil : bulks[Int(step.b % UInt64(bulks.count))], of: objects[index].id)
        case .bump: if !bulks.isEmpty { engine.bump(bulks[Int(step.a % UInt64(bulks.count))]) }
        case .look: if let index { try look(index) }
        case .armFault where lifeLeft == nil:
            let points = FaultPoint.allCases.filter { !$0.isDeathOnly }
            faults?.arm(points[Int(step.a % UInt64(points.count))], after: 1 + Int(step.b % 4), isDeath: false)
            faultLeft = 1 + Int(step.b / 4 % 16)
        case .armCancel where shared != nil: self.cancellation = shared?.swap()
        case .armCancel where lifeLeft == nil:
            let cancellation = Cancellation()
            self.cancellation = cancellation
            faultLeft = 0
            faults?.armCancel(cancellation, after: 1 + Int(step.b % 6))
        case .die:
            guard let faults, lifeLeft == nil else { return }
            let point = FaultPoint.allCases[Int(step.a % UInt64(FaultPoint.allCases.count))]
            faults.arm(point, after: 1 + Int(step.b % 3), isDeath: true)
            lifeLeft = 1 + Int(step.b / 3 % 200)
        case .armFault, .armCancel: break
        }
    }

    /// Nil if it was refused with an error that a fault, a cancellation or the limit may cause.
    private func attempt<R>(_ body: () throws -> R) -> R? { try? body() }

    private func create(pages: Int, priority: Priority) throws {
        guard objects.count < Self.maximumObjects,
            let info = attempt({ try engine.createObject(in: pool, name: "o", size: ByteCount(pages * basePageSize), priority: priority) })
        else { return }
        let object = Object(
            id: info.id, pages: pages, offset: info.offsetBytes.rawValue, stamps: [UInt64](repeating: 0, count: pages))
        if let other = objects.first(where: {
            $0.offset < object.offset + pages * basePageSize && object.offset < $0.offset + $0.pages * basePageSize
        }) {
            throw ModelFailure("\(info.id) lies over \(other.id)")
        }
        objects.append(object)
        try checkWhole(objects.count - 1)
        try engine.unpin(info.id)
    }

    /// Pins, compares, and says whether it worked.
    private func pin(_ index: Int, _ cancellation: Cancellation?) throws -> Bool {
        guard let answer = attempt({ try engine.pin(objects[index].id, cancellation: cancellation) }) else { return false }
        try compare(answer, index)
        if !answer.retained {
            for page in 0..<objects[index].pages { objects[index].stamps[page] = 0 }
            (objects[index].mayBeLost, objects[index].mustBeLost) = (false, false)
        } else if objects[index].mustBeLost {
            throw ModelFailure("\(objects[index].id) was discarded, and its content is still there")
        }
        try check(index)
        return true
    }

    private func compare(_ answer: PinAnswer, _ index: Int) throws {
        if !answer.retained, !objects[index].mayBeLost { throw ModelFailure("\(objects[index].id) was given up, and nobody allowed it") }
    }

    private func write(_ index: Int, _ choice: UInt64, _ cancellation: Cancellation?) throws {
        guard try pin(index, cancellation) else { return }
        for page in 0..<objects[index].pages where choice >> UInt64(page) & 1 == 1 {
            let words = self.words(index, page)
            let old = objects[index].stamps[page]
            if old != 0 { (words[0], words[Self.place(old)]) = (0, 0) }
            let stamp: UInt64 = choice >> UInt64(page + 8) & 3 == 0 ? 0 : nextStamp
            if stamp != 0 { (words[0], words[Self.place(stamp)]) = (stamp, stamp) }
            nextStamp += 1
            objects[index].stamps[page] = stamp
        }
        try engine.unpin(objects[index].id)
    }

    // MARK: Comparing

    @inline(__always)
    private static func place(_ stamp: UInt64) -> Int { 1 + Int((stamp &* 0x9E37_79B9_7F4A_7C15) >> 40) % 511 }

    private func words(_ index: Int, _ page: Int) -> UnsafeMutablePointer<UInt64> {
        (memory.base + objects[index].offset + page * basePageSize).assumingMemoryBound(to: UInt64.self)
    }

    private func check(_ index: Int) throws {
        for page in 0..<objects[index].pages {
            let stamp = objects[index].stamps[page]
            let words = self.words(index, page)
            if words[0] != stamp || (stamp != 0 && words[Self.place(stamp)] != stamp) {
                throw ModelFailure("page \(page) of \(objects[index].id) is \(words[0]), not \(stamp)")
            }
        }
    }

    private func checkWhole(_ index: Int) throws {
        for page in 0..<objects[index].pages {
            try compare(UnsafeRawBufferPointer(start: words(index, page), count: basePageSize), index, page)
        }
    }

    private func compare(_ bytes: UnsafeRawBufferPointer, _ index: Int, _ page: Int) throws {
        let stamp = objects[index].stamps[page]
        guard let base = bytes.baseAddress else { return }
        if stamp == 0 {
            if !isZero(base, basePageSize) { throw ModelFailure("page \(page) of \(objects[index].id) is not zero") }
            return
        }
        let place = Self.place(stamp)
        for word in 0..<512 {
            let expected = word == 0 || word == place ? stamp : 0
            if base.load(fromByteOffset: word * 8, as: UInt64.self) != expected {
                throw ModelFailure("word \(word) of page \(page) of \(objects[index].id) is wrong")
            }
        }
    }

    /// Reads without changing anything.
    private func look(_ index: Int, whole: Bool = false) throws {
        var buffer = [UInt8](repeating: 0xee, count: objects[index].pages * basePageSize)
        let id = objects[index].id
        let n: Int?
        do {
            n = try buffer.withUnsafeMutableBytes { try engine.read(id, at: .zero, into: $0) }
        } catch let error as EngineError {
            if error.code == .interrupted { return }
            guard error.code == .purged, objects[index].mayBeLost else { throw ModelFailure("\(id) can't be read: \(error)") }
            return
        }
        guard n == buffer.count else { throw ModelFailure("\(id) reads \(n ?? -1) bytes") }
        if objects[index].mustBeLost { throw ModelFailure("\(id) was discarded and can be read") }
        try buffer.withUnsafeBytes { bytes in
            for page in 0..<objects[index].pages {
                let bytes = UnsafeRawBufferPointer(rebasing: bytes[page * basePageSize..<(page + 1) * basePageSize])
                if whole {
                    try compare(bytes, index, page)
                } else if bytes.load(as: UInt64.self) != objects[index].stamps[page] {
                    throw ModelFailure("page \(page) of \(id) reads wrong")
                }
            }
        }
    }

    private func expectSane(_ result: ShrinkResult) throws {
        // With several clients a walk meets objects that another one destroys between their words and their freeing: that is nobody's failure.
        if shared == nil, result.failure == nil,
            result.freedBytes.rawValue < (result.backedUpPages + result.zeroPages + result.purgedPages) * basePageSize
        {
            throw ModelFailure("freed less than what went: \(result)")
        }
        if let failure = result.failure, ![.interrupted, .busy, .noSuchObject].contains(failure.code) {
            throw ModelFailure("shrinking failed: \(failure)")
        }
    }

    /// The engine is gone; another one takes the pool over. Pins ended with it.
    private func dieAndReopen() throws {
        guard let faults else { return }
        try reopen(on: try Engine(backup: backup, configuration: Self.configuration(faults), logger: quiet))
    }

    /// Goes on with another engine.
    func reopen(on next: Engine) throws {
        let persistent = try engine.persistentDescriptors(of: pool)
        engine = next
        let healing = try engine.adoptPool(file: try persistent.file.duplicate(), ledger: try persistent.ledger.duplicate()).healing
        if healing.lost > 0 { throw ModelFailure("\(healing.lost) pages were lost") }
        bulks = []
        cancellation = nil
        objects.removeAll { object in object.mayBeGone && (try? engine.object(object.id)) == nil }
        for index in objects.indices { (objects[index].holds, objects[index].mayBeGone) = (0, false) }
        try checkEverything()
    }

    /// A quiet point: every byte of every object.
    func checkEverything() throws {
        faults?.disarm()
        for index in objects.indices { try look(index, whole: true) }
        guard checksEngine else { return }
        let ids = engine.objects(in: pool, limit: .max).map(\.id)
        // An object whose making died after it was entered is there and unknown to the model; every other one is known.
        for object in objects where !ids.contains(object.id) { throw ModelFailure("\(object.id) is gone") }
        if let broken = engine.brokenInvariants().first { throw ModelFailure(broken) }
    }
}
