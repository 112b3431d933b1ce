public import ShrinkLinux
public import SystemPackage

/// A store of any layout in which faults can be set.
///
/// Every call asks the rules first, so a fault strikes before anything was changed. There are no files to pass through to: bytes that go past
/// the server would go past the faults.
public final class FaultyStore<Base: ObjectStore>: ObjectStore {
    private let base: Base
    private let rules: FaultRules

    public init(_ base: Base, _ rules: FaultRules) {
        self.base = base
        self.rules = rules
    }

    public func object(_ id: StoredObjectID) throws(Errno) -> FaultyObject<Base.Object>? {
        try rules.meet(.open, id)
        guard let object = try base.object(id) else { return nil }
        return FaultyObject(object, rules)
    }

    public func objects(after id: StoredObjectID?, limit: Int) -> [StoredObjectID] { base.objects(after: id, limit: limit) }

    public func create(_ id: StoredObjectID) throws(Errno) -> FaultyObject<Base.Object> {
        try rules.meet(.create, id)
        return FaultyObject(try base.create(id), rules)
    }

    public func remove(_ id: StoredObjectID) throws(Errno) {
        try rules.meet(.remove, id)
        try base.remove(id)
    }

    public var highestID: UInt32 { base.highestID }
    public var space: StoreSpace { base.space }
    public var room: StoreRoom { base.room }
    public func makeBackingProbe() throws(Errno) -> OwnedDescriptor? { nil }

    public func facts() -> [(key: String, value: String)] {
        let listed = rules.listed
        var facts = base.facts()
        facts.append(("faults.allowed", "yes"))
        facts.append(("faults.operations", FaultOperation.allCases.map(\.rawValue).joined(separator: " ")))
        facts.append(("faults.errors", FaultError.names.joined(separator: " ")))
        facts.append(("faults.rules", "\(listed.count)"))
        facts.append(("faults.hits", "\(listed.reduce(0) { $0 + $1.hits })"))
        for (i, rule) in listed.enumerated() { facts.append(("faults.\(i)", rule.text)) }
        return facts
    }

    public func close() { base.close() }
}

/// An object of such a store.
public final class FaultyObject<Base: StoredObject>: StoredObject {
    private let base: Base
    private let rules: FaultRules

    init(_ base: Base, _ rules: FaultRules) {
        self.base = base
        self.rules = rules
    }

    public var id: StoredObjectID { base.id }

    private func meet(_ operation: FaultOperation) throws(Errno) { try rules.meet(operation, base.id) }

    public var attributes: StoredObjectAttributes {
        get throws(Errno) {
            try meet(.status)
            return try base.attributes
        }
    }

    public func setSize(_ bytes: Int) throws(Errno) {
        try meet(.resize)
        try base.setSize(bytes)
    }

    public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(Errno) -> Int {
        try meet(.read)
        return try base.read(into: buffer, at: offset)
    }

    public func write(_ buffer: UnsafeRawBufferPointer, at offset: Int, _ durability: Durability) throws(Errno) -> Int {
        try meet(.write)
        return try base.write(buffer, at: offset, durability)
    }

    public func punch(at offset: Int, length: Int) throws(Errno) {
        try meet(.punch)
        try base.punch(at: offset, length: length)
    }

    public func nextData(from offset: Int) throws(Errno) -> Int? {
        try meet(.seek)
        return try base.nextData(from: offset)
    }

    public func nextHole(from offset: Int) throws(Errno) -> Int {
        try meet(.seek)
        return try base.nextHole(from: offset)
    }

    public func sync() throws(Errno) {
        try meet(.sync)
        try base.sync()
    }

    public func page(_ index: StoredPageIndex) throws(Errno) -> StoredPageInfo? {
        try meet(.status)
        return try base.page(index)
    }

    public func pages(from first: StoredPageIndex, limit: Int) throws(Errno) -> [StoredPageIndex] {
        try meet(.list)
        return try base.pages(from: first, limit: limit)
    }

    public func listing(from first: StoredPageIndex, limit: Int) throws(Errno) -> [ListedPage] {
        try meet(.list)
        return try base.listing(from: first, limit: limit)
    }

    public func snapshot(of index: StoredPageIndex, into page: UnsafeMutableRawBufferPointer) throws(Errno) -> StoredPageInfo? {
        try meet(.read)
        return try base.snapshot(of: index, into: page)
    }

    public func pagesByTier() throws(Errno) -> [Int] {
        try meet(.status)
        return try base.pagesByTier()
    }

    public func setTimes(modified: FileTime) throws(Errno) { try base.setTimes(modified: modified) }

    public var backingFile: SharedDescriptor? { nil }

    public func hint(_ hint: ObjectHint) -> String? { base.hint(hint) }

    public func setHint(_ hint: ObjectHint, to value: String) throws(Errno) {
        try meet(.hint)
        try base.setHint(hint, to: value)
    }
}
