public import CShrinkLinux

/// CRC-32C (Castagnoli), with the processor's own instruction where it has one.
public enum Checksum {
    /// Of one page of 4096 bytes; `page` is 8-aligned.
    @inlinable @inline(__always)
    public static func page(_ page: UnsafeRawPointer) -> UInt32 { shl_crc32c_page(page) }

    /// Of any bytes; `previous` continues an earlier sum.
    @inlinable @inline(__always)
    public static func bytes(_ bytes: UnsafeRawPointer, _ count: Int, continuing previous: UInt32 = 0) -> UInt32 {
        shl_crc32c(previous, bytes, count)
    }
}

/// True if a page of 4096 bytes repeats its first eight; `page` is 8-aligned.
@inlinable @inline(__always)
public func isSameFilled(_ page: UnsafeRawPointer) -> Bool { shl_is_same_filled(page) != 0 }
