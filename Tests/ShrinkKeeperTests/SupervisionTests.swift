import ShrinkLinux
import Testing

@testable import ShrinkKeeper

@Suite struct SupervisionTests {
    private func at(_ milliseconds: UInt64) -> MonotonicTime { MonotonicTime(nanoseconds: (milliseconds + 1_000) * 1_000_000) }

    private func serving(_ supervision: inout Supervision) {
        #expect(supervision.begin(at(0)) == [.start(.backupfs)])
        #expect(supervision.becameReady(.backupfs, at(1)) == [.noteMount, .start(.engine)])
        #expect(supervision.becameReady(.engine, at(2)) == [.tellReady])
    }

    @Test func pausesDoubleUpToALimitAndASteadyTimeForgetsFailures() {
        var supervision = Supervision(ownsFileServer: true)
        serving(&supervision)
        var now: UInt64 = 10
        for expected: UInt64 in [100, 200, 400, 800, 1600, 3200, 5000] {
            _ = supervision.ended(.engine, .ended(.signalled(11)), at(now))
            #expect(supervision.nextDeadline == at(now + expected))
            #expect(supervision.passed(at(now + expected - 1)).isEmpty)
            now += expected
            #expect(supervision.passed(at(now)) == [.start(.engine)])
            // Ready again: told to nobody a second time.
            #expect(supervision.becameReady(.engine, at(now)).isEmpty)
        }
        now += 10_000
        _ = supervision.ended(.engine, .ended(.signalled(11)), at(now))
        #expect(supervision.nextDeadline == at(now + 100))
    }

    /// What clients have out is in what the dead engine left: an end in its pause brings it home all the same.
    @Test func anEndWhileTheEngineIsAwayStartsItOnceMore() {
        var supervision = Supervision(ownsFileServer: true)
        serving(&supervision)
        _ = supervision.ended(.engine, .ended(.signalled(9)), at(10))
        #expect(supervision.askedToEnd(at(20)).contains(.start(.engine)))
        #expect(supervision.becameReady(.engine, at(30)) == [.askToEnd(.engine)])
        #expect(supervision.ended(.engine, .ended(.exited(0)), at(40)).contains(.askToEnd(.backupfs)))
        #expect(supervision.ended(.backupfs, .ended(.signalled(15)), at(50)).last == .finish(0))
    }

    @Test func aSecondRequestEndsEvenThat() {
        var supervision = Supervision(ownsFileServer: true)
        serving(&supervision)
        _ = supervision.ended(.engine, .ended(.signalled(9)), at(10))
        _ = supervision.askedToEnd(at(20))
        #expect(supervision.askedToEnd(at(25)).contains(.kill(.engine)))
        #expect(supervision.ended(.engine, .ended(.signalled(9)), at(30)).contains(.askToEnd(.backupfs)))
        #expect(supervision.ended(.backupfs, .ended(.exited(0)), at(40)).last == .finish(1))
    }

    @Test func aRestartThatWasAskedForIsNoFailureAndForgetsThoseBefore() {
        var supervision = Supervision(ownsFileServer: true)
        serving(&supervision)
        for _ in 0..<3 {
            _ = supervision.ended(.engine, .ended(.signalled(9)), at(10))
            _ = supervision.passed(at(100_000))
            _ = supervision.becameReady(.engine, at(100_001))
        }
        #expect(supervision.ended(.engine, .ended(.exited(75)), at(100_010)).contains(.start(.engine)))
        _ = supervision.becameReady(.engine, at(100_020))
        _ = supervision.ended(.engine, .ended(.signalled(9)), at(100_030))
        #expect(supervision.nextDeadline == at(100_130))
    }

    @Test func theEighthFailureInARowIsTheLast() {
        var supervision = Supervision(ownsFileServer: true)
        serving(&supervision)
        for _ in 0..<7 {
            _ = supervision.ended(.engine, .ended(.exited(1)), at(10))
            _ = supervision.passed(at(100_000_000))
        }
        let actions = supervision.ended(.engine, .ended(.exited(1)), at(11))
        #expect(actions.contains(.askToEnd(.backupfs)))
        #expect(supervision.ended(.backupfs, .ended(.exited(0)), at(12)).last == .finish(1))
    }

    @Test func anErrorThatStartingAgainCannotHealIsNotTriedAgain() {
        var supervision = Supervision(ownsFileServer: true)
        serving(&supervision)
        #expect(supervision.ended(.engine, .ended(.exited(78)), at(10)).contains(.askToEnd(.backupfs)))
    }

    @Test func aFileServerThatIsGivenUpIsAbortedBeforeTheEngineIsAsked() throws {
        var limits = SupervisionLimits()
        limits.failures = 1
        var supervision = Supervision(ownsFileServer: true, limits: limits)
        serving(&supervision)
        let actions = supervision.ended(.backupfs, .ended(.signalled(9)), at(10))
        let abort = try #require(actions.firstIndex(of: .abortMount))
        let ask = try #require(actions.firstIndex(of: .askToEnd(.engine)))
        #expect(abort < ask && actions.contains(.discardKept(.backupfs)))
    }

    @Test func aDeafFileServersCallersAreFreedBeforeItIsKilled() throws {
        var supervision = Supervision(ownsFileServer: true)
        serving(&supervision)
        _ = supervision.askedToEnd(at(10))
        #expect(supervision.ended(.engine, .ended(.exited(0)), at(20)).contains(.askToEnd(.backupfs)))
        let actions = supervision.passed(at(10_020))
        let abort = try #require(actions.firstIndex(of: .abortMount))
        let kill = try #require(actions.firstIndex(of: .kill(.backupfs)))
        #expect(abort < kill)
    }

    @Test func progressPutsOffTheSecondWarningButNothingPutsOffTheLast() {
        var supervision = Supervision(ownsFileServer: true)
        serving(&supervision)
        _ = supervision.askedToEnd(at(0))
        #expect(supervision.nextDeadline == at(90_000))
        _ = supervision.progressed(.engine, at(80_000))
        #expect(supervision.nextDeadline == at(170_000))
        #expect(supervision.passed(at(170_000)).contains(.askToEnd(.engine)))
        _ = supervision.progressed(.engine, at(175_000))
        _ = supervision.askedForTime(.engine, microseconds: 1 << 40, at(175_000))
        #expect(supervision.nextDeadline == at(180_000))
        #expect(supervision.passed(at(180_000)).contains(.kill(.engine)))
        #expect(supervision.passed(at(190_000)).contains(.abortMount))
        // Not even that helped: it is left, and the file server's turn comes.
        #expect(supervision.passed(at(200_000)).contains(.askToEnd(.backupfs)))
    }

    @Test func aStartThatTakesLongMayAskForTimeWithinALimit() {
        var supervision = Supervision(ownsFileServer: false)
        #expect(supervision.begin(at(0)) == [.start(.engine)])
        _ = supervision.askedForTime(.engine, microseconds: 1 << 60, at(0))
        #expect(supervision.nextDeadline == at(600_000))
        #expect(supervision.passed(at(600_000)).contains(.kill(.engine)))
    }
}
