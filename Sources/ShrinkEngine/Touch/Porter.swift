import ShrinkLinux
import SystemPackage

/// One thread that makes a pool's calls for others, one after the other, in places that were allocated before.
final class Porter: Sendable {
    /// A call that takes longer is stuck: all others take milliseconds.
    static let limitNanoseconds: UInt64 = 5_000_000_000
    /// Calls that wait at once; who comes then waits for a place.
    private static let places = 64

    private struct Place {
        enum Stage {
            case free
            case waiting
            case running
            /// Running, and nobody waits for it.
            case givenUp
            case done
        }

        var stage = Stage.free
        var call = FileCall.punch(offset: 0, length: 0)
        var afterwards = FileCall.Afterwards.nothing
        var answer: Result<FileCall.Answer, Errno> = .success(FileCall.Answer())
        /// When it came, to keep the order.
        var turn: UInt64 = 0
    }

    private struct Queue {
        var places = [Place](repeating: Place(), count: Porter.places)
        var nextTurn: UInt64 = 0
        var startedAt: MonotonicTime?
        var hasThread = false
        var isEnding = false

        var first: Int? {
            var first: Int?
            for i in places.indices where places[i].stage == .waiting {
                if first.map({ places[i].turn < places[$0].turn }) ?? true { first = i }
            }
            return first
        }

        var free: Int? {
            for i in places.indices where places[i].stage == .free { return i }
            return nil
        }

        /// What it held goes now, not with the next call.
        mutating func clear(_ place: Int) { places[place] = Place() }

        func stalledNanoseconds() -> UInt64? {
            guard let startedAt else { return nil }
            let time = MonotonicTime.now().nanoseconds(since: startedAt)
            return time > Porter.limitNanoseconds ? time : nil
        }
    }

    private let file: SharedDescriptor
    private let queue = Monitor(Queue())

    init(_ file: SharedDescriptor) { self.file = file }

    var stalledNanoseconds: UInt64? { queue.withLock { $0.stalledNanoseconds() } }

    /// Calls that were made on its thread so far.
    var callCount: UInt64 { queue.withLock { $0.nextTurn } }

    /// Starts the thread if it does not run yet.
    func start() throws(Errno) {
        let isMine = queue.withLock { queue in
            defer { queue.hasThread = true }
            return !queue.hasThread
        }
        guard isMine else { return }
        do throws(Errno) { try DedicatedThread("shrink-pool", stackSize: 256 << 10) { [self] in serve() }.detach() } catch {
            queue.withLock { $0.hasThread = false }
            throw error
        }
    }

    func end() {
        queue.withLock { $0.isEnding = true }
        queue.notifyAll()
    }

    /// Puts a call in the queue. Returns its place, which must be given to `finish` once.
    func begin(_ call: FileCall, _ afterwards: FileCall.Afterwards = .nothing) throws(Errno) -> Int {
        try start()
        let place = try takePlace(call, afterwards)
        queue.notifyAll()
        return place
    }

    /// Waits for a call that began.
    func finish(_ place: Int) throws(Errno) -> FileCall.Answer {
        while true {
            if let given = giveUp(place) { throw given }
            let outcome = queue.wait(deadline: deadline()) { queue -> Result<FileCall.Answer, Errno>? in
                guard queue.places[place].stage == .done else { return nil }
                defer { queue.clear(place) }
                return queue.places[place].answer
            }
            if let outcome { return try outcome.get() }
        }
    }

    func make(_ call: FileCall, _ afterwards: FileCall.Afterwards) throws(Errno) -> FileCall.Answer {
        try finish(try begin(call, afterwards))
    }

    private func deadline() -> MonotonicTime { MonotonicTime(nanoseconds: MonotonicTime.now().nanoseconds + Self.limitNanoseconds) }

    private func takePlace(_ call: FileCall, _ afterwards: FileCall.Afterwards) throws(Errno) -> Int {
        while true {
            let taken = queue.wait(deadline: deadline()) { queue -> Result<Int, Errno>? in
                if queue.stalledNanoseconds() != nil { return .failure(.resourceBusy) }
                guard let place = queue.free else { return nil }
                queue.places[place].stage = .waiting
                queue.places[place].call = call
                queue.places[place].afterwards = afterwards
                queue.places[place].turn = queue.nextTurn
                queue.nextTurn += 1
                return .success(place)
            }
            if let taken { return try taken.get() }
        }
    }

    /// Nil: it is done, or nothing is stuck.
    private func giveUp(_ place: Int) -> Errno? {
        queue.withLock { queue in
            guard queue.stalledNanoseconds() != nil else { return nil }
            switch queue.places[place].stage {
            case .waiting:
                queue.clear(place)
                return .resourceBusy
            case .running:
                queue.places[place].stage = .givenUp
                return .timedOut
            case .free, .givenUp, .done: return nil
            }
        }
    }

    private func serve() {
        while true {
            let next = queue.wait { queue -> (place: Int, call: FileCall)?? in
                if let place = queue.first {
                    queue.startedAt = .now()
                    queue.places[place].stage = .running
                    return .some((place, queue.places[place].call))
                }
                return queue.isEnding ? .some(nil) : nil
            }
            guard let (place, call) = next else { return }
            let answer = Result { () throws(Errno) in try call.make(on: file.number) }
            let afterwards = queue.withLock { queue -> FileCall.Afterwards in
                queue.startedAt = nil
                if queue.places[place].stage == .givenUp {
                    defer { queue.clear(place) }
                    return queue.places[place].afterwards
                }
                queue.places[place].answer = answer
                queue.places[place].stage = .done
                return .nothing
            }
            queue.notifyAll()
            afterwards.run(file.number)
        }
    }
}
