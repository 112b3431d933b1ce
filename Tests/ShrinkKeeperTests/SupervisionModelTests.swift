import ShrinkLinux
import TestSupport
import Testing

@testable import ShrinkKeeper

/// A world of two processes as the supervision sees them, moved by chance: whatever happens and in whatever order, the rules hold.
private struct World {
    enum Process: Equatable { case none, starting, ready, asked }

    var supervision: Supervision
    var processes: [Part: Process] = [.backupfs: .none, .engine: .none]
    var now = MonotonicTime(nanoseconds: 1_000_000_000)
    var requests = 0
    var gaveUp = false
    var readyTold = 0
    var engineWasReady = false
    var lastStarts = 0
    var finished: Int32?
    var mounted = false
    let ownsFileServer: Bool
    let limits: SupervisionLimits

    init(ownsFileServer: Bool, limits: SupervisionLimits) {
        self.ownsFileServer = ownsFileServer
        self.limits = limits
        supervision = Supervision(ownsFileServer: ownsFileServer, limits: limits)
    }

    func isRunning(_ part: Part) -> Bool { processes[part] != Process.none }

    /// Does what the supervision wants, and checks that it may be wanted.
    mutating func obey(_ actions: [Supervision.Action], _ seed: UInt64) {
        for action in actions {
            #expect(finished == nil, "nothing after the end, seed \(seed)")
            switch action {
            case .start(let part):
                #expect(!isRunning(part), "\(part) started twice, seed \(seed)")
                if part == .engine, ownsFileServer { #expect(processes[.backupfs] == .ready, "engine without a file server, seed \(seed)") }
                if part == .engine, requests > 0 || gaveUp {
                    // Once more at most, and only for what it left.
                    #expect(engineWasReady && lastStarts == 0, "engine started while ending, seed \(seed)")
                    lastStarts += 1
                }
                processes[part] = .starting
            case .askToEnd(let part):
                #expect(isRunning(part), "\(part) is not there to be asked, seed \(seed)")
                if part == .backupfs { #expect(!isRunning(.engine), "file server ended under the engine, seed \(seed)") }
                if part == .engine { #expect(requests > 0 || gaveUp, "engine ended for no reason, seed \(seed)") }
                processes[part] = .asked
            case .kill(let part): #expect(isRunning(part), "\(part) is not there to be killed, seed \(seed)")
            case .noteMount: mounted = true
            case .clearDeadMount, .abortMount: mounted = false
            case .discardKept(let part): #expect(!isRunning(part) || gaveUp, "what a running part keeps is dropped, seed \(seed)")
            case .tellReady:
                readyTold += 1
                #expect(processes[.engine] == .ready, "ready told too early, seed \(seed)")
            case .tellStopping: gaveUp = gaveUp || requests == 0
            // A process that not even SIGKILL ends is given up as if it were not there.
            case .say(.error, let text, let part?) where text.contains("left behind"): processes[part] = Process.none
            case .say: break
            case .finish(let status):
                finished = status
                #expect(!mounted, "a mount is left, seed \(seed)")
            }
        }
    }

    mutating func ends(_ part: Part, _ ending: PartEnding, _ seed: UInt64) {
        processes[part] = Process.none
        obey(supervision.ended(part, ending, now), seed)
    }
}

@Suite struct SupervisionModelTests {
    private let limits = SupervisionLimits()

    @Test func whateverHappensTheRulesHoldAndTheEndComes() throws {
        let base = testSeed("whateverHappensTheRulesHoldAndTheEndComes")
        for round in 0..<3_000 {
            let seed = base &+ UInt64(round)
            var random = SeededGenerator(seed: seed)
            var world = World(ownsFileServer: Bool.random(using: &random), limits: limits)
            world.obey(world.supervision.begin(world.now), seed)
            for _ in 0..<Int.random(in: 5...80, using: &random) where world.finished == nil { step(&world, &random, seed) }
            #expect(world.readyTold <= 1)
            finish(&world, &random, seed)
            #expect(world.readyTold <= 1)
        }
    }

    /// One thing that can happen now.
    private func step(_ world: inout World, _ random: inout SeededGenerator, _ seed: UInt64) {
        let part: Part = Bool.random(using: &random) ? .engine : .backupfs
        switch UInt8.random(in: 0..<12, using: &random) {
        case 0...3:
            if world.processes[part] == .starting {
                world.processes[part] = .ready
                if part == .engine { world.engineWasReady = true }
                world.obey(world.supervision.becameReady(part, world.now), seed)
            }
        case 4, 5:
            let endings: [PartEnding] = [
                .ended(.signalled(9)), .ended(.exited(0)), .ended(.exited(1)), .ended(.exited(78)), .neverStarted("no file"),
            ]
            if world.isRunning(part) { world.ends(part, endings.randomElement(using: &random).unsafelyUnwrapped, seed) }
        case 6: if world.isRunning(part) { world.obey(world.supervision.progressed(part, world.now), seed) }
        case 7:
            if world.isRunning(part) {
                world.obey(
                    world.supervision.askedForTime(part, microseconds: UInt64.random(in: 0 ... .max, using: &random), world.now), seed)
            }
        case 8:
            if UInt8.random(in: 0..<10, using: &random) == 0 {
                world.requests += 1
                world.obey(world.supervision.askedToEnd(world.now), seed)
            }
        default:
            if let deadline = world.supervision.nextDeadline, Bool.random(using: &random) {
                world.now = max(world.now, deadline)
            } else {
                world.now = world.now.advanced(milliseconds: UInt64.random(in: 0...20_000, using: &random))
            }
            world.obey(world.supervision.passed(world.now), seed)
        }
    }

    /// Asked to end, with processes that hear nothing: the end comes in bounded time all the same.
    private func finish(_ world: inout World, _ random: inout SeededGenerator, _ seed: UInt64) {
        guard world.finished == nil else { return }
        world.requests += 1
        world.obey(world.supervision.askedToEnd(world.now), seed)
        let deaf = Bool.random(using: &random)
        let started = world.now
        for _ in 0..<200 where world.finished == nil {
            if !deaf, let part = Part.allCases.first(where: { world.processes[$0] == .asked }) {
                world.ends(part, .ended(.exited(0)), seed)
            } else if let deadline = world.supervision.nextDeadline {
                world.now = max(world.now, deadline)
                // What is left behind is not running in the supervision's eyes.
                world.obey(world.supervision.passed(world.now), seed)
            } else {
                Issue.record("waits for nothing, seed \(seed)")
                return
            }
        }
        #expect(world.finished != nil, "no end, seed \(seed)")
        let bound =
            limits.engineSilence + limits.mostExtension * 2 + limits.start * 3 + limits.lastPause + limits.backupfsStop + 8
            * limits.lastWarning
        #expect(world.now.nanoseconds(since: started) <= bound * 1_000_000, "the end took too long, seed \(seed)")
    }
}
