import ShrinkLinux
import Synchronization
import SystemPackage

/// Copies of indexes beside the segments of the next tier, for when the first tier is memory and is lost with the machine.
///
/// Written when an object is synced and when the cleaner moved its pages below, whole or not at all. A first tier that is found empty
/// starts from them: what was synced is there again, what was not is gone with the memory that held it. Its ids are not (`IDsBelow`).
enum IndexCopies {
    static let directoryName = "objects"

    /// Writes the object's index as it is now to the last tier. The caller keeps the index as it is mapped.
    ///
    /// A sync and the cleaner may want it at once. One after the other: they use one file on the way, and what was copied later must stay. Of an object that
    /// is removed, and that somebody has open, no copy stays: it would bring the object back.
    static func write(_ object: PackedObject, to tier: StoreTier) throws(Errno) {
        let result: Result<Void, Errno> = object.copying.withLock { _ in
            do throws(Errno) { return .success(try writeAlone(object, to: tier)) } catch { return .failure(error) }
        }
        try result.get()
    }

    private static func writeAlone(_ object: PackedObject, to tier: StoreTier) throws(Errno) {
        if object.isRemoved { return }
        do { try Files.makeDirectory(directoryName, at: tier.directory.number) } catch {
            if error != .fileExists { throw error }
        }
        let directory = try Files.open(directoryName, [.readOnly, .directory, .noFollow], at: tier.directory.number)
        let name = object.id.description
        let file = try Files.open(name + ".new", [.readWrite, .create, .truncate, .noFollow], at: directory.number)
        let buffer = try MappedMemory(anonymous: basePageSize, populated: false)
        let capacity = object.index.pointee.capacity
        // Entry by entry, for one is replaced while another is copied; a file page at a time, and holes stay holes.
        try object.withHeaderStored { header throws(Errno) in
            buffer.base.copyMemory(from: header, byteCount: ObjectHeader.totalBytes)
        }
        var offset = ObjectHeader.totalBytes
        var position = 0
        var page = 0
        while true {
            if page < capacity, object.index.pointee.isAllocated(page) {
                while offset < basePageSize, page < capacity {
                    let words = object.index.pointee.entry(page).words
                    buffer.base.storeBytes(of: words.low, toByteOffset: offset, as: UInt64.self)
                    buffer.base.storeBytes(of: words.high, toByteOffset: offset + 8, as: UInt64.self)
                    offset += IndexEntry.byteCount
                    page += 1
                }
            }
            try object.core.budget.spend(basePageSize)
            if let error = Files.write(file.number, UnsafeRawBufferPointer(buffer.bytes), at: position).error { throw error }
            guard let next = object.index.pointee.run(from: page, limit: capacity)?.lowerBound else { break }
            page = next
            position = (page * IndexEntry.byteCount + ObjectHeader.totalBytes) & ~(basePageSize - 1)
            offset = 0
            buffer.base.initializeMemory(as: UInt8.self, repeating: 0, count: basePageSize)
        }
        // Damaged entries never replace a copy that is whole.
        guard !object.index.pointee.isLost else { throw .ioError }
        // As long as the index, so that one that was cut short is known by its length.
        try Files.truncate(file.number, to: ObjectIndex.fileBytes(forPages: capacity))
        try Files.sync(file.number)
        KillPoint.indexCopied.pass()
        try Files.rename(name + ".new", to: name, at: directory.number)
        KillPoint.indexCopyRenamed.pass()
        // The remover marks first and removes then: it met this name, or the mark is seen here.
        if object.isRemoved { remove(object.id, from: tier) }
        try Files.sync(directory.number)
    }

    /// The object is removed: its copy must not bring it back.
    static func remove(_ id: StoredObjectID, from tier: StoreTier) {
        try? Files.remove(directoryName + "/" + id.description, at: tier.directory.number)
    }

    /// Fills the objects of an empty first tier from the copies; returns how many there were.
    static func restore(from tier: StoreTier, to objects: CInt) throws(Errno) -> Int {
        let directory: OwnedDescriptor
        do throws(Errno) { directory = try Files.open(directoryName, [.readOnly, .directory, .noFollow], at: tier.directory.number) } catch
        {
            if error == .noSuchFileOrDirectory { return 0 }
            throw error
        }
        var names: [String] = []
        try Files.forEachName(in: directory.number) { names.append($0) }
        let buffer = try MappedMemory(anonymous: 1 << 20, populated: false)
        var count = 0
        for name in names where StoredObjectID(name: name) != nil {
            let source = try Files.open(name, [.readOnly, .noFollow], at: directory.number)
            let target = try Files.open(name, [.readWrite, .create, .truncate, .noFollow], at: objects)
            var position = 0
            while let data = try Files.nextData(source.number, from: position) {
                position = data & ~(basePageSize - 1)
                let got = try Files.read(source.number, into: buffer.bytes, at: position)
                if let error = Files.write(target.number, UnsafeRawBufferPointer(start: buffer.base, count: got), at: position).error {
                    throw error
                }
                position += max(got, 1)
            }
            try Files.truncate(target.number, to: try Files.status(source.number).sizeBytes)
            count += 1
        }
        return count
    }
}
