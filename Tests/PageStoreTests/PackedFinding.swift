import PageStore
import SystemPackage

/// The object of that number, or nil.
func find(_ store: PackedStore, _ number: UInt32) throws(Errno) -> PackedObject? {
    guard let id = StoredObjectID(rawValue: number) else { return nil }
    return try store.object(id)
}
