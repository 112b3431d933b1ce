/// An object's place in the engine: plain numbers in a table, so that a walk over a million of them retains nothing.
///
/// What must survive the process is in the ledger's record and words; this is the rest. The kernel's counterpart is `ttm_buffer_object`.
struct BufferObject {
    /// 0: the slot is free.
    var id: UInt32 = 0
    /// Slot of the pool.
    var pool: UInt32 = 0
    var record: UInt32 = 0
    var firstPage: UInt32 = 0
    var pageCount: UInt32 = 0
    var pinCount: UInt32 = 0
    var backedUpPages: UInt32 = 0
    var zeroPages: UInt32 = 0
    var priority: Priority = .normal
    var reservation: Reservation = .free

    /// Who may change the object's words and memory.
    enum Reservation: UInt8 {
        case free
        /// One operation holds it; others try or wait.
        case held
        /// Being destroyed: nobody gets it any more.
        case dying
    }
}

/// The objects of an engine, by slot and by id.
struct ObjectTable {
    private(set) var slots: ContiguousArray<BufferObject> = []
    private var freeSlots: ContiguousArray<UInt32> = []
    private var byID: [UInt32: UInt32] = [:]

    var count: Int { byID.count }
    var capacity: Int { slots.count }

    subscript(slot: UInt32) -> BufferObject {
        get { slots[Int(slot)] }
        _modify { yield &slots[Int(slot)] }
    }

    func slot(of id: ObjectID) -> UInt32? { byID[id.rawValue] }

    mutating func insert(_ object: BufferObject) -> UInt32 {
        let slot: UInt32
        if let free = freeSlots.popLast() {
            slot = free
            slots[Int(slot)] = object
        } else {
            slot = UInt32(slots.count)
            slots.append(object)
        }
        byID[object.id] = slot
        return slot
    }

    mutating func remove(_ slot: UInt32) {
        byID[slots[Int(slot)].id] = nil
        slots[Int(slot)] = BufferObject()
        freeSlots.append(slot)
    }

    var ids: [UInt32] { byID.keys.sorted() }
}
