/// The objects whose files are open, at most `limit` of them; the one opened longest ago makes room for the next.
///
/// An object in use elsewhere keeps its file open until that use ends, whatever happens here.
struct OpenObjects {
    private var byID: [UInt32: RawObject] = [:]
    /// A ring of ids in the order of opening. A removed object leaves a stale id behind, which the hand passes over.
    private var ring: [UInt32] = []
    private var hand = 0
    let limit: Int

    init(limit: Int) {
        precondition(limit > 0, "at least one object is open while it is used")
        self.limit = limit
        ring.reserveCapacity(min(limit, 4096))
    }

    var count: Int { byID.count }

    subscript(id: StoredObjectID) -> RawObject? { byID[id.rawValue] }

    mutating func insert(_ object: RawObject) {
        let id = object.id.rawValue
        if byID.updateValue(object, forKey: id) != nil { return }
        if ring.count < limit {
            ring.append(id)
        } else {
            byID[ring[hand]] = nil
            ring[hand] = id
            hand = (hand + 1) % limit
        }
    }

    mutating func remove(_ id: StoredObjectID) { byID[id.rawValue] = nil }
}
