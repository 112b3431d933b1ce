/// One fault: on which operation, when, and what happens.
///
/// As text it is words of the form `key=value`, in any order:
///
///     op=write errno=EIO every=100 count=3
///     op=read delay_ms=20 probability=0.01 object=7
///
/// | key | meaning |
/// |---|---|
/// | op | a `FaultOperation`; required |
/// | errno | a `FaultError`; this or delay_ms is required, not both |
/// | delay_ms | the call waits so long, 1 … 10000, and then goes on |
/// | probability | 0 … 1, of each call; not together with every |
/// | every | the Nth, 2Nth, … call; 1 unless probability is given |
/// | count | at most so many times; no limit unless given |
/// | object | on this object alone |
public struct FaultRule: Sendable, Equatable {
    public enum Effect: Sendable, Equatable {
        case fail(FaultError)
        case delay(milliseconds: UInt64)
    }

    public enum Trigger: Sendable, Equatable {
        /// 0 … 1.
        case probability(Double)
        /// From 1.
        case every(UInt64)
    }

    public var operation: FaultOperation
    public var effect: Effect
    public var trigger: Trigger
    /// Nil: no limit.
    public var count: UInt64?
    /// Nil: on every object, and on calls that concern none.
    public var object: StoredObjectID?

    /// A call may be held so long; a thread that serves the mount waits meanwhile.
    public static let longestDelayMilliseconds: UInt64 = 10_000

    public init(
        _ operation: FaultOperation, _ effect: Effect, _ trigger: Trigger = .every(1), count: UInt64? = nil, object: StoredObjectID? = nil
    ) {
        self.operation = operation
        self.effect = effect
        self.trigger = trigger
        self.count = count
        self.object = object
    }

    /// Nil if the text is not a rule. `seen` and `hits`, which a listing adds, are taken and left out, so that a listing can be set again.
    public init?(text: some StringProtocol) {
        var values: [String: String] = [:]
        for word in text.split(whereSeparator: { $0 == " " || $0 == "\t" }) {
            guard let equals = word.firstIndex(of: "="), equals != word.startIndex,
                values.updateValue(String(word[word.index(after: equals)...]), forKey: String(word[..<equals])) == nil
            else { return nil }
        }
        values["seen"] = nil
        values["hits"] = nil
        guard let operation = values.removeValue(forKey: "op").flatMap({ FaultOperation(rawValue: $0) }) else { return nil }
        let effect: Effect
        switch (values.removeValue(forKey: "errno"), values.removeValue(forKey: "delay_ms")) {
        case (let name?, nil):
            guard let error = FaultError(name: name) else { return nil }
            effect = .fail(error)
        case (nil, let text?):
            guard let milliseconds = UInt64(text), (1...Self.longestDelayMilliseconds).contains(milliseconds) else { return nil }
            effect = .delay(milliseconds: milliseconds)
        default: return nil
        }
        let trigger: Trigger
        switch (values.removeValue(forKey: "probability"), values.removeValue(forKey: "every")) {
        case (let text?, nil):
            guard let probability = Double(text), probability >= 0, probability <= 1 else { return nil }
            trigger = .probability(probability)
        case (nil, let text?):
            guard let every = UInt64(text), every > 0 else { return nil }
            trigger = .every(every)
        case (nil, nil): trigger = .every(1)
        default: return nil
        }
        self.init(operation, effect, trigger)
        if let text = values.removeValue(forKey: "count") {
            guard let count = UInt64(text), count > 0 else { return nil }
            self.count = count
        }
        if let text = values.removeValue(forKey: "object") {
            guard let object = StoredObjectID(name: text) else { return nil }
            self.object = object
        }
        // A word that nobody knows may have meant a narrower fault than the rest says.
        guard values.isEmpty else { return nil }
    }

    public var text: String {
        var words = ["op=\(operation.rawValue)"]
        switch effect {
        case .fail(let error): words.append("errno=\(error.name)")
        case .delay(let milliseconds): words.append("delay_ms=\(milliseconds)")
        }
        switch trigger {
        case .probability(let probability): words.append("probability=\(probability)")
        case .every(let n): words.append("every=\(n)")
        }
        if let count { words.append("count=\(count)") }
        if let object { words.append("object=\(object)") }
        return words.joined(separator: " ")
    }
}
