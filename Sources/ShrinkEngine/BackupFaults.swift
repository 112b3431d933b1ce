import ShrinkLinux
import SystemPackage

/// A backup whose store can be made to fail on request, to see what becomes of it. Off unless its server was started for it.
///
/// A fault is a line of text that only the server of the mount understands (docs/backup-filesystem.md, "Faults"); the engine passes it on as an
/// extended attribute of the mount's root.
public protocol FaultInjection: Sendable {
    /// Adds one fault. `invalidFault` if the server can't make sense of it, `faultsNotAllowed` if it takes none.
    func addFault(_ fault: String) throws(EngineError)
    /// The faults that are set, one each, with their counters.
    func faults() throws(EngineError) -> [String]
    func clearFaults() throws(EngineError)
}

extension BackupDirectory: FaultInjection {
    private static let faultsAttribute = "user.shrinkd.faults"

    public func addFault(_ fault: String) throws(EngineError) {
        try setFaults("+ " + fault) { error, path throws(Errno) in
            switch error {
            case .invalidArgument:
                let stats = Self.statistics(of: path)
                return EngineError(
                    .invalidFault,
                    "the file server does not understand the fault '\(fault)'; operations are: \(stats["faults.operations"] ?? "unknown"); errors are: \(stats["faults.errors"] ?? "unknown"); delays go up to 10000 ms",
                    errno: error)
            case .noSpace:
                return EngineError(.limitReached, "there are as many faults as the file server keeps; clear them first", errno: error)
            default: throw error
            }
        }
    }

    public func clearFaults() throws(EngineError) { try setFaults("") { error, _ throws(Errno) in throw error } }

    public func faults() throws(EngineError) -> [String] {
        do throws(Errno) {
            let root = try Files.open(path, [.readOnly, .directory])
            // In a plain directory the attribute would be just a note that nobody reads.
            if Self.isServed(path), let value = try ExtendedAttributes.value(Self.faultsAttribute, of: root.number) {
                return String(decoding: value, as: UTF8.self).split(separator: "\n").map { String($0) }
            }
        } catch {
            throw .backup("listing the faults of \(path)", error)
        }
        throw Self.notAllowed(path)
    }

    private func setFaults(_ value: String, refused: (Errno, String) throws(Errno) -> EngineError) throws(EngineError) {
        guard Self.isServed(path) else { throw Self.notAllowed(path) }
        let refusal: EngineError
        do throws(Errno) {
            let root = try Files.open(path, [.readOnly, .directory])
            do throws(Errno) {
                try ExtendedAttributes.set(Self.faultsAttribute, to: Array(value.utf8), of: root.number)
                return
            } catch {
                refusal = error == .notPermitted ? Self.notAllowed(path) : try refused(error, path)
            }
        } catch {
            throw .backup("setting faults on \(path)", error)
        }
        throw refusal
    }

    private static func notAllowed(_ path: String) -> EngineError {
        EngineError(
            .faultsNotAllowed,
            isServed(path)
                ? "the file server was started without --allow-faults; start shrinkd (or the unit of backupfs) with it, for tests only"
                : "the backup \(path) is a plain directory; only a mounted backupfs that was started with --allow-faults injects faults")
    }

    private static func isServed(_ path: String) -> Bool { statistics(of: path)["id_high_water"] != nil }

    /// `key: value` lines of `stats`; empty where there is none.
    private static func statistics(of path: String) -> [String: String] {
        guard let bytes = try? Files.contents(of: path + "/stats") else { return [:] }
        var values: [String: String] = [:]
        for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
            guard let colon = line.firstIndex(of: ":") else { continue }
            values[String(line[..<colon])] = String(line[line.index(after: colon)...].drop { $0 == " " })
        }
        return values
    }
}

extension Engine {
    /// The backup's faults. `faultsNotAllowed` if it is of a kind that has none.
    public func faultInjection() throws(EngineError) -> any FaultInjection {
        guard let injection = backup as? any FaultInjection else {
            throw EngineError(
                .faultsNotAllowed, "this backup injects no faults; use a mounted backupfs that was started with --allow-faults")
        }
        return injection
    }
}
