public import PageStore
import ShrinkLinux
public import SystemPackage

extension WorkloadModel {
    /// What differs from what is allowed, as lines; none if all is well.
    public func differences(_ store: PackedStore) -> [String] {
        var lines: [String] = []
        let there = Set(store.objects(after: nil, limit: Int.max).map(\.rawValue))
        for id in there where objects[id] == nil { lines.append("object \(id) is there and was removed") }
        let zeros = [UInt8](repeating: 0, count: basePageSize)
        var page = zeros
        for (id, object) in objects.sorted(by: { $0.key < $1.key }) {
            guard let name = StoredObjectID(rawValue: id), let stored = try? store.object(name) else {
                if !uncertain.contains(id) { lines.append("object \(id) is lost") }
                continue
            }
            let size = stored.attributes.sizeBytes
            if !object.isAllowed(size: size) { lines.append("object \(id) has \(size) bytes, allowed are \(object.sizes.sorted())") }
            for index in 0..<(size + basePageSize - 1) / basePageSize {
                do throws(Errno) {
                    let isThere = try stored.nextData(from: index * basePageSize).map { $0 / basePageSize == index } ?? false
                    let got = try page.withMutableBytes { buffer throws(Errno) in try stored.read(into: buffer, at: index * basePageSize) }
                    if got < basePageSize { page.replaceSubrange(got..., with: zeros[got...]) }
                    let allowed = object.allowed(index)
                    // Behind the end of the object nothing of a page is seen.
                    let isAllowed = allowed.contains { version in
                        guard let version else { return !isThere && page == zeros }
                        return isThere && page[0..<got] == version[0..<got]
                    }
                    if !isAllowed { lines.append("object \(id) page \(index) of \(object.sizes): \(isThere ? "other content" : "a hole")") }
                } catch { lines.append("object \(id) page \(index): \(error)") }
            }
        }
        return lines
    }
}

/// Does a workload's operations on a store.
public struct WorkloadRun {
    private let store: PackedStore

    public init(_ store: PackedStore) { self.store = store }

    /// ENOSPC is an answer; anything else that fails is thrown.
    public func perform(_ operation: Workload.Operation) throws(Errno) {
        func object(_ id: UInt32) throws(Errno) -> PackedObject {
            guard let name = StoredObjectID(rawValue: id), let object = try store.object(name) else { throw .noSuchFileOrDirectory }
            return object
        }
        switch operation {
        case .create(let id):
            guard let name = StoredObjectID(rawValue: id) else { throw .invalidArgument }
            _ = try store.create(name)
        case .remove(let id):
            guard let name = StoredObjectID(rawValue: id) else { throw .invalidArgument }
            try store.remove(name)
        case .write(let id, let offset, let bytes, let durable):
            let target = try object(id)
            var done = 0
            while done < bytes.count {
                done += try bytes.withBytes { buffer throws(Errno) in
                    try target.write(UnsafeRawBufferPointer(rebasing: buffer[done...]), at: offset + done, durable ? .durable : .buffered)
                }
            }
        case .punch(let id, let offset, let length): try object(id).punch(at: offset, length: length)
        case .setSize(let id, let size): try object(id).setSize(size)
        case .sync(let id): try object(id).sync()
        case .clean: _ = store.cleanOneSegment()
        case .age: _ = store.moveAgedSegments()
        }
    }
}
