import ShrinkLinux
import Testing

/// Threads store what they saw of the clock and compare it with what others stored: no order of the two may end the process.
@Suite struct MonotonicTimeTests {
    @Test func aTimeBeforeTheOtherIsNoInterval() {
        let earlier = MonotonicTime(nanoseconds: 5)
        let later = MonotonicTime(nanoseconds: 7)
        #expect(later.nanoseconds(since: earlier) == 2)
        #expect(earlier.nanoseconds(since: earlier) == 0)
        #expect(earlier.nanoseconds(since: later) == 0)
    }

    @Test func aLimitTooFarAwayIsTheEndOfTime() {
        let now = MonotonicTime.now()
        #expect(now.advanced(milliseconds: 1).nanoseconds == now.nanoseconds + 1_000_000)
        #expect(now.advanced(milliseconds: .max / 1_000_000).nanoseconds == .max)
        #expect(now.advanced(milliseconds: .max).nanoseconds == .max)
    }
}
