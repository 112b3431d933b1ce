import ShrinkLinux

/// What a store may hold after some operations. A step that failed, or was cut off, leaves each page it touched as before or as
/// after: then two contents are allowed.
public struct WorkloadModel: Sendable {
    public struct Object: Sendable {
        public var sizes: Set<Int> = [0]

        /// A write that a kill or a full store cut short is done up to a whole page, as write(2) may be.
        func isAllowed(size: Int) -> Bool {
            guard !sizes.contains(size), sizes.count > 1, let low = sizes.min(), let high = sizes.max() else { return sizes.contains(size) }
            return size > low && size < high && size % basePageSize == 0
        }
        /// Contents a page may have; nil is a hole. A page that isn't listed is a hole.
        public var pages: [Int: Set<[UInt8]?>] = [:]

        public func allowed(_ page: Int) -> Set<[UInt8]?> { pages[page] ?? [nil] }

        private static let zeros = [UInt8](repeating: 0, count: basePageSize)

        /// A page of zeros is a hole.
        mutating func set(_ page: Int, _ allowed: Set<[UInt8]?>) {
            let versions = Set(allowed.map { $0 == Self.zeros ? nil : $0 })
            pages[page] = versions == [nil] ? nil : versions
        }

        /// Changes bytes of a page in every version it may have.
        mutating func change(_ page: Int, _ range: Range<Int>, keepsHoles: Bool, _ bytes: ArraySlice<UInt8>?) {
            let changed = allowed(page).map { version -> [UInt8]? in
                if version == nil, keepsHoles { return nil }
                var content = version ?? [UInt8](repeating: 0, count: basePageSize)
                for (i, position) in range.enumerated() { content[position] = bytes.map { $0[$0.startIndex + i] } ?? 0 }
                return content
            }
            set(page, Set(changed))
        }

        mutating func end(at size: Int) {
            let last = (size + basePageSize - 1) / basePageSize
            for page in pages.keys where page >= last { pages[page] = nil }
            if size % basePageSize != 0, sizes.max() ?? 0 > size {
                change(size / basePageSize, size % basePageSize..<basePageSize, keepsHoles: true, nil)
            }
        }
    }

    public var objects: [UInt32: Object] = [:]
    /// Objects that may be there or not.
    public var uncertain: Set<UInt32> = []

    public init() {}

    public mutating func apply(_ operation: Workload.Operation) {
        switch operation {
        case .create(let id): objects[id] = Object()
        case .remove(let id): objects[id] = nil
        case .write(let id, let offset, let bytes, _):
            guard var object = objects[id] else { return }
            let end = offset + bytes.count
            var position = offset
            while position < end {
                let from = position % basePageSize
                let count = min(basePageSize - from, end - position)
                let slice = bytes[position - offset..<position - offset + count]
                if count == basePageSize {
                    object.set(position / basePageSize, [Array(slice)])
                } else {
                    object.change(position / basePageSize, from..<from + count, keepsHoles: false, slice)
                }
                position += count
            }
            object.sizes = Set(object.sizes.map { max($0, end) })
            objects[id] = object
        case .punch(let id, let offset, let length):
            guard var object = objects[id], let size = object.sizes.max() else { return }
            let end = min(offset + length, size)
            var position = offset
            while position < end {
                let from = position % basePageSize
                let count = min(basePageSize - from, end - position)
                if from == 0, count == basePageSize || position + count == size && offset + length >= size {
                    object.set(position / basePageSize, [nil])
                } else {
                    object.change(position / basePageSize, from..<from + count, keepsHoles: true, nil)
                }
                position += count
            }
            objects[id] = object
        case .setSize(let id, let size):
            guard var object = objects[id] else { return }
            object.end(at: size)
            object.sizes = [size]
            objects[id] = object
        case .sync, .clean, .age: break
        }
    }

    /// The operation may have happened, or part of it.
    public mutating func applyPerhaps(_ operation: Workload.Operation) {
        var after = self
        after.apply(operation)
        for id in Set(objects.keys).union(after.objects.keys) {
            guard var before = objects[id], let then = after.objects[id] else {
                uncertain.insert(id)
                objects[id] = objects[id] ?? after.objects[id]
                continue
            }
            before.sizes.formUnion(then.sizes)
            for page in Set(before.pages.keys).union(then.pages.keys) { before.set(page, before.allowed(page).union(then.allowed(page))) }
            objects[id] = before
        }
    }
}
