import ShrinkEngine
import ShrinkLinux
import Synchronization

/// Where a test lets the engine die as if killed: `$SHRINKD_ENGINE_KILL_POINT` names a file with `POINT` or `POINT:COUNT` in it.
///
/// The file is removed when it is read, so that the next engine, which has the same environment, lives. Always compiled in: what is tested is what
/// runs. The points are the engine's fault points.
enum EngineKillPoint {
    static func armed(_ plain: Engine.Configuration) -> Engine.Configuration {
        var configuration = plain
        guard let path = ThisProcess.environment("SHRINKD_ENGINE_KILL_POINT"), let bytes = try? Files.contents(of: path, limit: 256) else {
            return configuration
        }
        try? Files.remove(path)
        let parts = String(decoding: bytes, as: UTF8.self).split { $0 == ":" || $0 == "\n" }
        guard let point = parts.first.flatMap({ FaultPoint(rawValue: String($0)) }) else { return configuration }
        let counter = Countdown(parts.count > 1 ? Int(parts[1]) ?? 1 : 1)
        configuration.faults = { at, _, _ in
            if at == point, counter.isOver() { ThisProcess.endAbruptly() }
            return nil
        }
        return configuration
    }

    private final class Countdown: Sendable {
        private let left: Atomic<Int>
        init(_ count: Int) { left = Atomic(count) }
        func isOver() -> Bool { left.subtract(1, ordering: .relaxed).newValue == 0 }
    }
}
