import ShrinkClient

// A handle is a retained reference: made by an open or create, given back by the close of its kind.

func handle<T: AnyObject>(_ value: T) -> OpaquePointer { OpaquePointer(Unmanaged.passRetained(value).toOpaque()) }

func close<T: AnyObject>(_ handle: OpaquePointer?, _ type: T.Type) {
    if let handle { Unmanaged<T>.fromOpaque(UnsafeRawPointer(handle)).release() }
}

/// The object behind a handle, for the time of a call.
@inline(__always)
func value<T: AnyObject>(_ handle: OpaquePointer?, _ type: T.Type) throws(ShrinkdError) -> T {
    guard let handle else { throw invalid("a null pointer is no handle") }
    return Unmanaged<T>.fromOpaque(UnsafeRawPointer(handle)).takeUnretainedValue()
}

func text(_ string: UnsafePointer<CChar>?) throws(ShrinkdError) -> String {
    guard let string, let text = String(validatingCString: string) else { throw invalid("a name is a string in UTF-8, and not null") }
    return text
}

func size(_ bytes: UInt64) throws(ShrinkdError) -> Int {
    guard let size = Int(exactly: bytes) else { throw ShrinkdError(.invalidSize, "\(bytes) bytes are more than any memory has") }
    return size
}
