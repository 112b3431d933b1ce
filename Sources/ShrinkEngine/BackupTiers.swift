import ShrinkLinux
import SystemPackage

/// Neighbouring pages of one tier, 0 the fastest.
public struct TierRun: Sendable, Equatable {
    public var first: Int
    public var count: Int
    public var tier: Int
}

/// A backup that tells in which of its tiers a page lies.
protocol TierMap: Sendable {
    /// Runs in ascending order, at or after `first`, and the page from which on nothing was looked at; nil: the rest has no pages.
    func tiers(of id: ObjectID, from first: Int) throws(EngineError) -> (runs: [TierRun], next: Int?)
}

extension BackupDirectory: TierMap {
    func tiers(of id: ObjectID, from first: Int) throws(EngineError) -> (runs: [TierRun], next: Int?) {
        do throws(Errno) {
            let object = try Files.open("\(path)/objects/\(id.rawValue)", [.readOnly, .directory])
            guard let value = try ExtendedAttributes.value("user.shrinkd.tiers.\(first)", of: object.number) else { return ([], nil) }
            return Self.parse(String(decoding: value, as: UTF8.self))
        } catch {
            throw .backup("asking \(path) for the tiers of \(id)", error)
        }
    }

    /// Lines `first count tier`, the last may be `next first`. What is neither is left out.
    static func parse(_ text: String) -> (runs: [TierRun], next: Int?) {
        var runs: [TierRun] = []
        var next: Int?
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ")
            if words.count == 2, words[0] == "next" { next = Int(words[1]) }
            let numbers = words.compactMap { Int($0) }
            guard words.count == 3, numbers.count == 3, numbers[1] > 0 else { continue }
            runs.append(TierRun(first: numbers[0], count: numbers[1], tier: numbers[2]))
        }
        return (runs, next)
    }
}
