/// Open `data` files, a bounded number of them: who comes when all places are taken closes the one that was opened longest ago.
struct OpenBackupFiles: ~Copyable {
    private struct Entry {
        var file: BackupFile
        var place: Int
    }

    private let limit: Int
    private var byID: [ObjectID: Entry] = [:]
    /// Whose file is in a place; places are reused in turn.
    private var places: [ObjectID?] = []
    private var free: [Int] = []
    private var oldest = 0

    init(limit: Int) { self.limit = limit }

    var count: Int { byID.count }

    subscript(id: ObjectID) -> BackupFile? { byID[id]?.file }

    /// Takes a file in. One that is here already, because two opened it at once, takes the place of the other.
    mutating func keep(_ file: BackupFile, of id: ObjectID) {
        if let place = byID[id]?.place {
            byID[id] = Entry(file: file, place: place)
            return
        }
        let place: Int
        if let reused = free.popLast() {
            place = reused
        } else if places.count < limit {
            place = places.count
            places.append(nil)
        } else {
            place = oldest
            oldest = (oldest + 1) % limit
            if let old = places[place] { byID[old] = nil }
        }
        places[place] = id
        byID[id] = Entry(file: file, place: place)
    }

    /// An object is gone: its place is free for the next.
    mutating func forget(_ id: ObjectID) {
        guard let entry = byID.removeValue(forKey: id) else { return }
        places[entry.place] = nil
        free.append(entry.place)
    }

    mutating func forgetAll() { self = OpenBackupFiles(limit: limit) }
}
