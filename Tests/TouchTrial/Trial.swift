import Glibc
import Logging
import ShrinkEngine
import ShrinkLinux
import TestSupport

/// Where to die: at the nth time that a place is passed.
private struct Death: Sendable {
    let point: FaultPoint
    let left: Monitor<Int>

    func hook(_ at: FaultPoint) -> EngineError? {
        if at == point,
            left.withLock({ left in
                left -= 1
                return left == 0
            })
        {
            ThisProcess.endAbruptly()
        }
        return nil
    }
}

func runTrial(_ arguments: [String]) {
    do {
        guard arguments.count >= 4, let address = UInt(arguments[1]), let length = Int(arguments[2]), let seed = UInt64(arguments[3]) else {
            exit(64)
        }
        var configuration = Engine.Configuration()
        if arguments.count >= 6, let point = FaultPoint(rawValue: arguments[4]), let hit = Int(arguments[5]) {
            let death = Death(point: point, left: Monitor(hit))
            configuration.faults = { at, _, _ in death.hook(at) }
        }
        var logger = Logger(label: "trial") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = .warning
        let engine = try Engine(backup: try BackupDirectory(path: arguments[0]), configuration: configuration, logger: logger)
        let (pool, healing) = try engine.adoptPool(file: OwnedDescriptor(owning: 3), ledger: OwnedDescriptor(owning: 4))
        guard healing.lost == 0 else { fail("healing lost \(healing.lost) pages") }
        _ = try engine.registerMapping(
            pool, userfaults: OwnedDescriptor(owning: 5), at: MappingPlace(address: address, offset: .zero, length: ByteCount(length)))
        say("ready\n")
        let ended = Monitor(false)
        let input = try DedicatedThread("input") {
            var byte: UInt8 = 0
            while Glibc.read(0, &byte, 1) > 0 {}
            ended.withLock { $0 = true }
        }
        var generator = SeededGenerator(seed: seed)
        while !ended.withLock({ $0 }) {
            switch generator.next() % 4 {
            case 0: check(engine.shrink(.all).failure)
            case 1: check(engine.recover(.all).failure)
            case 2: check(engine.shrink(.bytes(.kibibytes(512))).failure)
            default: engine.waitForTouchDrops()
            }
        }
        input.join()
        check(engine.recover(.all).failure)
        engine.waitForTouchDrops()
        say("\(engine.touchCounts)\n")
        exit(0)
    } catch {
        fail("\(error)")
    }
}

private func check(_ failure: EngineError?) {
    // Objects that another operation has are passed over; everything else has no reason here.
    if let failure, failure.code != .busy { fail("\(failure)") }
}

private func say(_ text: String) {
    let bytes = Array(text.utf8)
    _ = bytes.withUnsafeBytes { write(1, $0.baseAddress, $0.count) }
}

private func fail(_ text: String) -> Never {
    let bytes = Array((text + "\n").utf8)
    _ = bytes.withUnsafeBytes { write(2, $0.baseAddress, $0.count) }
    exit(1)
}
