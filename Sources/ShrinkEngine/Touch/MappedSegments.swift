import ShrinkLinux

/// Which addresses of a process show which pages of a pool, kept true through unmap and remap.
struct MappedSegments {
    /// Neighbouring pages at neighbouring addresses.
    struct Segment: Equatable {
        var address: UInt
        var firstPage: Int
        var count: Int
        let unitBytes: Int
        var end: UInt { address + UInt(count * unitBytes) }
        var pages: Range<Int> { firstPage..<firstPage + count }

        /// Where it shows some of the pages; nil if it shows none of them.
        func addresses(of pages: Range<Int>) -> Range<UInt>? {
            let first = max(pages.lowerBound, firstPage)
            let end = min(pages.upperBound, firstPage + count)
            guard first < end else { return nil }
            let start = address + UInt((first - firstPage) * unitBytes)
            return start..<start + UInt((end - first) * unitBytes)
        }
    }

    private(set) var segments: [Segment]

    /// `unitBytes`: of a page of the pool.
    init(address: UInt, firstPage: Int, count: Int, unitBytes: Int = basePageSize) {
        segments = [Segment(address: address, firstPage: firstPage, count: count, unitBytes: unitBytes)]
    }

    init(_ segments: [Segment]) { self.segments = segments }

    var isEmpty: Bool { segments.isEmpty }

    /// The page at an address, and the last page of its segment plus one.
    func page(at address: UInt) -> (page: Int, end: Int)? {
        for segment in segments where address >= segment.address && address < segment.end {
            return (segment.firstPage + Int(address - segment.address) / segment.unitBytes, segment.pages.upperBound)
        }
        return nil
    }

    /// Calls `body` with each stretch of addresses that shows pages of the range, and with the first page there.
    @inline(__always)
    func forEachSpan<E: Error>(of pages: Range<Int>, _ body: (Range<UInt>, Int) throws(E) -> Void) throws(E) {
        for segment in segments {
            guard let addresses = segment.addresses(of: pages) else { continue }
            try body(addresses, max(pages.lowerBound, segment.firstPage))
        }
    }

    mutating func unmap(_ range: Range<UInt>) {
        var kept: [Segment] = []
        for segment in segments {
            if segment.end <= range.lowerBound || segment.address >= range.upperBound {
                kept.append(segment)
                continue
            }
            if segment.address < range.lowerBound { kept.append(part(segment, from: segment.address, to: range.lowerBound)) }
            if segment.end > range.upperBound { kept.append(part(segment, from: range.upperBound, to: segment.end)) }
        }
        segments = kept
    }

    /// mremap(2): the range shows at another address what it showed; what was there before is gone.
    mutating func remap(from: UInt, to: UInt, count: UInt) {
        var moved: [Segment] = []
        for segment in segments {
            let start = max(segment.address, from)
            let end = min(segment.end, from + count)
            guard start < end else { continue }
            var piece = part(segment, from: start, to: end)
            piece.address = to + (start - from)
            moved.append(piece)
        }
        unmap(from..<from + count)
        unmap(to..<to + count)
        segments += moved
    }

    private func part(_ segment: Segment, from: UInt, to: UInt) -> Segment {
        Segment(
            address: from, firstPage: segment.firstPage + Int(from - segment.address) / segment.unitBytes,
            count: Int(to - from) / segment.unitBytes, unitBytes: segment.unitBytes)
    }
}
