import Glibc
import PageStore
import ShrinkClient
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// Programs that use the daemon and people who look at the mount, while engine and file server are killed: at random times, and at every named point.
///
/// 30 random kills; `SHRINKD_SOAK` set: 300.
@Suite(.serialized) struct KillCampaignTests {
    private static let kills = ThisProcess.environment("SHRINKD_SOAK") == nil ? 30 : 300

    @Test func killedAtRandomTimesNobodyLosesAnything() throws {
        let seed = testSeed("kill campaign")
        var generator = SeededGenerator(seed: seed)
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        let survivors = try (0..<2).map { try SurvivorProcess(socket: daemon.socket, pool: "p\($0)", seed: seed &+ UInt64($0)) }
        try daemon.waitFor("the clients to begin", seconds: 120) { survivors.allSatisfy(\.isReady) }
        let reader = try MountReader(daemon.mountPoint)
        let shrinker = Shrinking(daemon.socket)
        var killed = 0
        var rounds = 0
        while killed < Self.kills {
            rounds += 1
            for part in Self.victims(&generator) {
                // What is killed is the part as it is now; while it is away there is nobody to kill.
                try daemon.waitFor("\(part)", seconds: 60) { daemon.process(of: part) != nil }
                guard let process = daemon.process(of: part) else { continue }
                Glibc.kill(process, SIGKILL)
                killed += 1
                try daemon.waitFor("another \(part)", seconds: 60) { daemon.process(of: part).map { $0 != process } ?? false }
            }
            // Past the steady time now and then, so that the keeper does not count it all as one row of failures; it gives up after eight.
            if rounds % 5 == 0 { try Self.waitUntilBothServe(daemon) }
            try Self.rest(
                milliseconds: rounds % 5 == 0 ? 12_000 : UInt64.random(in: 20...600, using: &generator),
                while: { try !survivors.contains { try $0.hasEnded() } })
            let broken = try survivors.filter { try $0.hasEnded() }
            #expect(broken.isEmpty, "after \(killed) kills (seed \(seed)): \(broken.map(\.said)) \(daemon.said.suffix(4000))")
            if !broken.isEmpty { return }
        }
        shrinker.stop()
        let looks = reader.stop()
        for survivor in survivors {
            #expect(try survivor.finish() == .exited(0), "seed \(seed): \(survivor.said) \(daemon.said.suffix(4000))")
            #expect(survivor.number("reconnections") ?? 0 > 0)
            #expect(survivor.number("touches") ?? 0 > 1000, "\(survivor.said)")
            #expect(survivor.number("PURGED") ?? 0 > 0, "\(survivor.said)")
        }
        #expect(looks.pages > 0 && looks.wrong == 0, "seed \(seed): \(looks)")
        let status = try control("status")
        #expect(status.number("survival.lost_pages") == 0 && status.number("damaged_pages") == 0, "\(status.output)")
        #expect(status.number("backup.orphans") == 0, "\(status.output)")
        print(
            "kill campaign: \(killed) kills, \(survivors.map { $0.number("steps") ?? 0 }) steps, \(survivors.map { $0.number("touches") ?? 0 }) touches, \(looks) looks, \(shrinker.count) shrinks, \(status.number("survival.starts") ?? 0) engines, \(status.number("survival.healed_pages") ?? 0) pages healed"
        )
        #expect(try daemon.stop() == .exited(0), "\(daemon.said.suffix(4000))")
    }

    /// The engine, the file server, or one right after the other.
    private static func victims(_ generator: inout SeededGenerator) -> [String] {
        switch Int.random(in: 0..<4, using: &generator) {
        case 0, 1: ["engine"]
        case 2: ["backupfs"]
        default: Bool.random(using: &generator) ? ["engine", "backupfs"] : ["backupfs", "engine"]
        }
    }

    /// Random time is what is wanted here, not a condition.
    private static func rest(milliseconds: UInt64, while isFine: () throws -> Bool) throws {
        let limit = MonotonicTime.now().advanced(milliseconds: milliseconds)
        while MonotonicTime.now() < limit, try isFine() { usleep(5000) }
    }

    /// Where an engine that dies has to leave something to heal.
    private static let mustHeal: Set<FaultPoint> = [
        .afterCopyOut, .betweenWords, .afterWords, .afterCopyIn, .afterRecoverWords, .beforeDrop,
    ]
    /// What a client comes by that creates, destroys, pins, shrinks, recovers, and lets content be given up. Of the others an engine's death is tested where they are
    /// made.
    private static let points: [FaultPoint] = [
        .allocate, .reserve, .room, .cancel, .afterBackupMade, .afterRecordLive, .afterDyingMark, .afterBackupRemoved, .afterWordsCleared,
        .beforeCopyOut, .afterCopyOut, .betweenWords, .afterWords, .afterFree, .beforeCopyIn, .afterCopyIn, .afterRecoverWords, .beforeDrop,
        .afterDrop, .afterPurgeMark, .afterClearFree,
    ]
    /// What one comes by beside that whose memory is used on touch. What it leaves to heal would hide what the others must leave.
    private static let touchPoints: [FaultPoint] = [
        .afterProtect, .beforeUnprotect, .touchBeforeCopyIn, .touchAfterCopyIn, .touchAfterWords, .touchBeforeDrop, .touchAfterDrop,
    ]

    @Test(arguments: [false, true]) func killedAtEveryNamedPointItHealsAndGoesOn(_ touches: Bool) throws {
        let seed = testSeed("kill points")
        let scratch = try ScratchDirectory()
        let arming = scratch.file("kill-point")
        let daemon = try DaemonProcess(environment: ["SHRINKD_PRESSURE=off", "SHRINKD_ENGINE_KILL_POINT=\(arming)"])
        let control = Control(daemon: daemon)
        let survivor = try SurvivorProcess(socket: daemon.socket, pool: "p", seed: seed, touches: touches)
        try daemon.waitFor("the client to begin", seconds: 120) { survivor.isReady }
        func engineStarts() throws -> (starts: Int, healed: Int) {
            let status = try control("status")
            return (status.number("survival.starts") ?? 0, status.number("survival.healed_pages") ?? 0)
        }
        /// Returns the pages healed, or nil if the client has ended.
        func killEngine(at point: FaultPoint) throws -> Int? {
            let before = try engineStarts()
            // The next engine takes the point with it and dies there; the one after that heals. Not at the first page that comes along.
            try Files.replaceContents(of: arming, with: Array("\(point.rawValue):\(point == .betweenWords ? 20 : 2)".utf8))
            let restarted = try #require(daemon.process(of: "engine"))
            Glibc.kill(restarted, SIGUSR1)
            try daemon.waitFor("an engine to die at \(point), the client: \(survivor.said.suffix(300))", seconds: 120) {
                try survivor.hasEnded() || ((try? Files.status(of: arming)) == nil && (try engineStarts().starts >= before.starts + 2))
            }
            #expect(try !survivor.hasEnded(), "\(point) (seed \(seed)): \(survivor.said) \(daemon.said.suffix(3000))")
            return try survivor.hasEnded() ? nil : try engineStarts().healed - before.healed
        }
        for point in touches ? Self.touchPoints : Self.points {
            guard var healed = try killEngine(at: point) else { return }
            var kills = 1
            // Of a run that holds only zeros nothing needs healing.
            while healed == 0, kills < 6, Self.mustHeal.contains(point) {
                guard let again = try killEngine(at: point) else { return }
                healed = again
                kills += 1
            }
            print("\(point): healed \(healed) after \(kills) kills")
            if Self.mustHeal.contains(point) { #expect(healed > 0, "\(point) (seed \(seed))") }
        }
        #expect(try survivor.finish() == .exited(0), "seed \(seed): \(survivor.said)")
        let status = try control("status")
        #expect(status.number("survival.lost_pages") == 0, "\(status.output)")
        #expect(status.number("backup.orphans") == 0, "\(status.output)")
        #expect(try daemon.stop() == .exited(0))
    }
}

extension KillCampaignTests {
    /// Places of the packed store that a client at work comes by all the time. The others (cleaning, tiers) are PackedCrashTests'.
    /// From here on the keeper's ten seconds of steady work count.
    private static func waitUntilBothServe(_ daemon: DaemonProcess) throws {
        try daemon.waitFor("engine and file server to answer", seconds: 60) {
            let status = try Control(daemon: daemon)("status")
            return status.status == 0 && status.output.contains("\"silent_ms\" : null")
        }
    }

    private static let storePoints: [KillPoint] = [
        .idMarked, .indexFileMade, .headerWritten, .segmentFileMade, .segmentHeaderWritten, .bytesWritten, .firstEntryPublished,
        .entriesPublished, .indexUnlinked,
    ]

    @Test func aFileServerKilledAtNamedPointsLosesNothingOfAClientAtWork() throws {
        let seed = testSeed("store kill points")
        let scratch = try ScratchDirectory()
        let arming = scratch.file("kill-point")
        let daemon = try DaemonProcess(
            arguments: ["--segment", "1M"], environment: ["SHRINKD_PRESSURE=off", "SHRINKD_KILL_POINT=\(arming)"])
        let control = Control(daemon: daemon)
        let survivor = try SurvivorProcess(socket: daemon.socket, pool: "p", seed: seed)
        try daemon.waitFor("the client to begin", seconds: 120) { survivor.isReady }
        for (index, point) in Self.storePoints.enumerated() {
            // Each is killed twice; the keeper gives up at eight failures in a row, unless one of them was steady for ten seconds.
            if index % 3 == 2 {
                try Self.waitUntilBothServe(daemon)
                usleep(12_000_000)
            }
            try Files.replaceContents(of: arming, with: Array("\(point.name):2".utf8))
            let server = try #require(daemon.process(of: "backupfs"))
            Glibc.kill(server, SIGKILL)
            var armed: Int32?
            try daemon.waitFor("a server to die at \(point), the client: \(survivor.said.suffix(300))", seconds: 120) {
                guard try !survivor.hasEnded() else { return true }
                guard let now = daemon.process(of: "backupfs"), now != server, (try? Files.status(of: arming)) == nil else { return false }
                if armed == nil { armed = now }
                return now != armed
            }
            #expect(try !survivor.hasEnded(), "\(point) (seed \(seed)): \(survivor.said) \(daemon.said.suffix(3000))")
            if try survivor.hasEnded() { return }
        }
        #expect(try survivor.finish() == .exited(0), "seed \(seed): \(survivor.said) \(daemon.said.suffix(3000))")
        let status = try control("status")
        #expect(status.number("survival.lost_pages") == 0 && status.number("damaged_pages") == 0, "\(status.output)")
        #expect(try daemon.stop() == .exited(0))
    }
}

/// Looks at pages in the mounted tree all the time, on a thread of its own: whatever it can open has the length of a page and does not fail.
private final class MountReader: Sendable {
    struct Looks: Sendable, CustomStringConvertible {
        var pages = 0
        var gone = 0
        var wrong = 0
        var firstWrong = ""
        var description: String { "\(pages) pages read, \(gone) gone meanwhile, \(wrong) wrong \(firstWrong)" }
    }
    private let state = Monitor((looks: Looks(), isOver: false))
    private let thread: DedicatedThread

    init(_ mount: String) throws {
        let state = state
        thread = try DedicatedThread("mount-reader") {
            while !state.withLock({ $0.isOver }) {
                do throws(Errno) {
                    let objects = try Files.open(mount + "/objects", [.readOnly, .directory])
                    var ids: [String] = []
                    try Files.forEachName(in: objects.number) { ids.append($0) }
                    for id in ids where !state.withLock({ $0.isOver }) {
                        let pages = try Files.open("\(id)/pages", [.readOnly, .directory], at: objects.number)
                        var names: [String] = []
                        try Files.forEachName(in: pages.number) { if names.count < 4 { names.append($0) } }
                        for name in names {
                            let bytes = try Files.contents(of: name, at: pages.number, limit: 8192)
                            state.withLock { state in
                                state.looks.pages += 1
                                if bytes.count != basePageSize {
                                    state.looks.wrong += 1
                                    state.looks.firstWrong = "\(id)/\(name) has \(bytes.count) bytes"
                                }
                            }
                        }
                    }
                } catch {
                    state.withLock { state in
                        // A page that went home while we looked, or a snapshot of a server that died (docs/backup-filesystem.md).
                        if error == .noSuchFileOrDirectory || error == .staleNFSFileHandle { return state.looks.gone += 1 }
                        state.looks.wrong += 1
                        state.looks.firstWrong = "\(error)"
                    }
                    usleep(1000)
                }
                usleep(2000)
            }
        }
    }

    func stop() -> Looks {
        state.withLock { $0.isOver = true }
        thread.join()
        return state.withLock { $0.looks }
    }
}

/// Somebody who shrinks everything again and again, by goals.
private final class Shrinking: Sendable {
    private let state = Monitor((count: 0, isOver: false))
    private let thread: DedicatedThread

    init(_ socket: String) {
        let state = state
        guard
            let thread = try? DedicatedThread(
                "shrinking",
                {
                    let client = try? ShrinkdClient(path: socket)
                    while !state.withLock({ $0.isOver }) {
                        _ = try? client?.call(Methods.shrink, ShrinkParameters(.goalBytes(4 << 20)))
                        state.withLock { $0.count += 1 }
                        usleep(50_000)
                    }
                })
        else { fatalError("no thread") }
        self.thread = thread
    }

    var count: Int { state.withLock { $0.count } }

    func stop() {
        state.withLock { $0.isOver = true }
        thread.join()
    }
}
