// swift-format-ignore-file: AlwaysUseLowerCamelCase
// The names are those of shrinkd.h.

public import CShrinkd
import ShrinkClient

@c @implementation
public func shrinkd_connect(_ socket_path: UnsafePointer<CChar>!, _ client: UnsafeMutablePointer<OpaquePointer?>!) -> Int32 {
    answer { () throws(ShrinkdError) in
        guard let client else { throw invalid("there must be a place for the client's handle") }
        client.pointee = nil
        let path = socket_path == nil ? nil : try text(socket_path)
        client.pointee = handle(try ShrinkdClient(path: path))
        return 0
    }
}

@c @implementation
public func shrinkd_disconnect(_ client: OpaquePointer!) {
    (try? value(client, ShrinkdClient.self))?.close()
    close(client, ShrinkdClient.self)
}

@c @implementation
public func shrinkd_on_revoke(
    _ client: OpaquePointer!, _ callback: shrinkd_revoke_callback!, _ context: UnsafeMutableRawPointer!
) -> Int32 {
    answer { () throws(ShrinkdError) in
        guard let callback else { throw invalid("there must be a callback") }
        let target = Target(context: context)
        try value(client, ShrinkdClient.self).onRevocation { revocation in
            callback(target.context, UInt64(revocation.objectID), UInt64(revocation.deadlineMilliseconds))
        }
        return 0
    }
}

/// The caller's pointer, handed back to it and never looked into.
private struct Target: @unchecked Sendable {
    let context: UnsafeMutableRawPointer?
}

@c @implementation
public func shrinkd_pool_open(
    _ client: OpaquePointer!, _ name: UnsafePointer<CChar>!, _ size_bytes: UInt64, _ pool: UnsafeMutablePointer<OpaquePointer?>!
) -> Int32 {
    answer { () throws(ShrinkdError) in
        guard let pool else { throw invalid("there must be a place for the pool's handle") }
        pool.pointee = nil
        pool.pointee = handle(try value(client, ShrinkdClient.self).pool(try text(name), sizeBytes: try size(size_bytes)))
        return 0
    }
}

@c @implementation
public func shrinkd_pool_open_huge(
    _ client: OpaquePointer!, _ name: UnsafePointer<CChar>!, _ size_bytes: UInt64, _ pool: UnsafeMutablePointer<OpaquePointer?>!
) -> Int32 {
    answer { () throws(ShrinkdError) in
        guard let pool else { throw invalid("there must be a place for the pool's handle") }
        pool.pointee = nil
        pool.pointee = handle(try value(client, ShrinkdClient.self).pool(try text(name), sizeBytes: try size(size_bytes), pages: .huge))
        return 0
    }
}

@c @implementation
public func shrinkd_pool_page_size(_ pool: OpaquePointer!) -> UInt64 {
    (try? value(pool, MappedPool.self)).map { UInt64(clamping: $0.pageBytes) } ?? 0
}

@c @implementation
public func shrinkd_pool_close(_ pool: OpaquePointer!) { close(pool, MappedPool.self) }
