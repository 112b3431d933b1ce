public import ShrinkLinux
public import SystemPackage

// What a layout may do better than these defaults, and need not.

/// Bytes a store offers, without what costs a walk over its objects: statfs(2) must never wait.
public struct StoreRoom: Sendable {
    public var totalBytes: UInt64
    public var availableBytes: UInt64

    public init(totalBytes: UInt64, availableBytes: UInt64) {
        self.totalBytes = totalBytes
        self.availableBytes = availableBytes
    }
}

extension ObjectStore {
    public var room: StoreRoom {
        let space = self.space
        return StoreRoom(totalBytes: space.totalBytes, availableBytes: space.availableBytes)
    }

    /// Without files of the objects' own bytes there is nothing to pass through to.
    public func makeBackingProbe() throws(Errno) -> OwnedDescriptor? { nil }
}

extension StoredObject {
    public func snapshot(of index: StoredPageIndex, into page: UnsafeMutableRawBufferPointer) throws(Errno) -> StoredPageInfo? {
        precondition(page.count == basePageSize, "a snapshot is one page")
        guard let info = try self.page(index) else { return nil }
        let count = try read(into: page, at: Int(index.rawValue) * basePageSize)
        // The part of the last page beyond the object's end.
        UnsafeMutableRawBufferPointer(rebasing: page[count...]).initializeMemory(as: UInt8.self, repeating: 0)
        // It may have gone while it was read, and a hole reads as zeros: that must not pass for its content.
        return try self.page(index) == nil ? nil : info
    }

    public func pagesByTier() throws(Errno) -> [Int] { [try attributes.pageCount] }

    public func setTimes(modified: FileTime) throws(Errno) { throw .notSupported }
}
