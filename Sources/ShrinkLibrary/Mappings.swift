// swift-format-ignore-file: AlwaysUseLowerCamelCase
// The names are those of shrinkd.h.

import CShrinkd
import ShrinkClient
import ShrinkLinux

/// A mapping and the client that it is registered with.
private final class Registered {
    let mapping: TouchMapping
    let client: ShrinkdClient

    init(_ mapping: TouchMapping, _ client: ShrinkdClient) {
        self.mapping = mapping
        self.client = client
    }
}

@c @implementation
public func shrinkd_mapping_register(_ pool: OpaquePointer!, _ mapping: UnsafeMutablePointer<OpaquePointer?>!) -> Int32 {
    answer { () throws(ShrinkdError) in
        guard let mapping else { throw invalid("there must be a place for the mapping's handle") }
        mapping.pointee = nil
        let pool = try value(pool, MappedPool.self)
        mapping.pointee = handle(Registered(try pool.mapForTouch(), pool.client))
        return 0
    }
}

@c @implementation
public func shrinkd_mapping_serves_system_calls(_ mapping: OpaquePointer!) -> Int32 {
    answer { () throws(ShrinkdError) in try value(mapping, Registered.self).mapping.reach == .full ? 1 : 0 }
}

@c @implementation
public func shrinkd_mapping_bytes(_ mapping: OpaquePointer!, _ object: OpaquePointer!) -> UnsafeMutableRawPointer! {
    guard let object = try? value(object, MappedObject.self) else { return nil }
    return (try? value(mapping, Registered.self))?.mapping.bytes(of: object.info)?.baseAddress
}

@c @implementation
public func shrinkd_mapping_unregister(_ mapping: OpaquePointer!) -> Int32 {
    answer { () throws(ShrinkdError) in
        let registered = try value(mapping, Registered.self)
        // Whatever the daemon says, the memory goes.
        defer { close(mapping, Registered.self) }
        do throws(ShrinkdError) { try registered.mapping.unregister(from: registered.client) } catch {
            // A daemon that is gone has nothing registered.
            if error.code != .disconnected, error.code != .notRunning, error.code != .sessionLost { throw error }
        }
        return 0
    }
}
