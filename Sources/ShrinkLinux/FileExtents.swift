import CShrinkLinux
public import SystemPackage

extension Files {
    /// Where the data that begins at `offset` ends, `limit` at most; both are multiples of the page size.
    ///
    /// SEEK_HOLE of a memory file walks page by page to the next hole, however far beyond the limit that is: asked for every object of a full
    /// pool it takes time quadratic in the pool. So it is asked only if there is a hole before the limit, which counting tells (a page in
    /// swap counts as evicted). The corresponding C functions are `cachestat` and `lseek(SEEK_HOLE)`.
    public static func endOfData(_ fd: CInt, from offset: Int, limit: Int) throws(Errno) -> Int {
        if offset >= limit { return limit }
        var counts = shl_cachestat()
        if shl_cachestat(fd, UInt64(offset), UInt64(limit - offset), &counts) == 0,
            counts.cached + counts.evicted >= UInt64((limit - offset) / basePageSize)
        {
            return limit
        }
        return min(try nextHole(fd, from: offset) ?? limit, limit)
    }
}
