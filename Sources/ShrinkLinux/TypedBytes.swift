public import SystemPackage

extension Array where Element == UInt8 {
    /// `withUnsafeBytes`, keeping the type of the error. (The standard library's is untyped for arrays.)
    public func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws(Errno) -> R) throws(Errno) -> R {
        let result = withUnsafeBytes { buffer -> Result<R, Errno> in
            do throws(Errno) { return .success(try body(buffer)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    /// `withUnsafeMutableBytes`, keeping the type of the error.
    public mutating func withMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer) throws(Errno) -> R) throws(Errno) -> R {
        let result = withUnsafeMutableBytes { buffer -> Result<R, Errno> in
            do throws(Errno) { return .success(try body(buffer)) } catch { return .failure(error) }
        }
        return try result.get()
    }
}
