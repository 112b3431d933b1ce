// swift-format-ignore-file: AlwaysUseLowerCamelCase
// The names are those of shrinkd.h.

import CShrinkd
import ShrinkClient

@c @implementation
public func shrinkd_object_create(
    _ pool: OpaquePointer!, _ name: UnsafePointer<CChar>!, _ size_bytes: UInt64, _ flags: UInt32,
    _ object: UnsafeMutablePointer<OpaquePointer?>!
) -> Int32 {
    answer { () throws(ShrinkdError) in
        guard let object else { throw invalid("there must be a place for the object's handle") }
        object.pointee = nil
        let known = UInt32(SHRINKD_PURGEABLE) | UInt32(SHRINKD_LEASED)
        guard flags & ~known == 0 else { throw invalid("flags \(flags): this version knows \(known) at most") }
        let made = try value(pool, MappedPool.self).makeObject(
            try text(name), sizeBytes: try size(size_bytes), purgeable: flags & UInt32(SHRINKD_PURGEABLE) != 0,
            leased: flags & UInt32(SHRINKD_LEASED) != 0)
        object.pointee = handle(made)
        return 0
    }
}

@c @implementation
public func shrinkd_object_open(_ pool: OpaquePointer!, _ object_id: UInt64, _ object: UnsafeMutablePointer<OpaquePointer?>!) -> Int32 {
    answer { () throws(ShrinkdError) in
        guard let object else { throw invalid("there must be a place for the object's handle") }
        object.pointee = nil
        guard let id = Int(exactly: object_id) else { throw ShrinkdError(.noSuchObject, "there is no object \(object_id)") }
        object.pointee = handle(try value(pool, MappedPool.self).object(id))
        return 0
    }
}

@c @implementation
public func shrinkd_object_close(_ object: OpaquePointer!) { close(object, MappedObject.self) }

@c @implementation
public func shrinkd_object_destroy(_ object: OpaquePointer!) -> Int32 {
    answer { () throws(ShrinkdError) in
        try value(object, MappedObject.self).destroy()
        return 0
    }
}

@c @implementation
public func shrinkd_object_id(_ object: OpaquePointer!) -> UInt64 {
    (try? value(object, MappedObject.self)).map { UInt64(clamping: $0.objectID) } ?? 0
}

@c @implementation
public func shrinkd_object_size(_ object: OpaquePointer!) -> UInt64 {
    (try? value(object, MappedObject.self)).map { UInt64(clamping: $0.unsafeBytes.count) } ?? 0
}

@c @implementation
public func shrinkd_object_bytes(_ object: OpaquePointer!) -> UnsafeMutableRawPointer! {
    (try? value(object, MappedObject.self))?.unsafeBytes.baseAddress
}

@c @implementation
public func shrinkd_pin(_ object: OpaquePointer!) -> Int32 {
    answer { () throws(ShrinkdError) in try value(object, MappedObject.self).beginAccess() ? 1 : 0 }
}

@c @implementation
public func shrinkd_unpin(_ object: OpaquePointer!) -> Int32 {
    answer { () throws(ShrinkdError) in
        try value(object, MappedObject.self).endAccess()
        return 0
    }
}

@c @implementation
public func shrinkd_set_purgeable(_ object: OpaquePointer!, _ purgeable: Int32) -> Int32 {
    answer { () throws(ShrinkdError) in try value(object, MappedObject.self).setPurgeable(purgeable != 0) ? 1 : 0 }
}

@c @implementation
public func shrinkd_set_leased(_ object: OpaquePointer!, _ leased: Int32) -> Int32 {
    answer { () throws(ShrinkdError) in
        try value(object, MappedObject.self).setLease(leased != 0)
        return 0
    }
}
