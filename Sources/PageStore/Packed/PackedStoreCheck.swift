import ShrinkLinux
import SystemPackage

/// An offline look at every byte of a packed store that a page depends on: signatures, indexes, blocks, checksums.
///
/// It holds the store locked while it lives, reads it only, and lists what it finds. `repair` then makes holes of the pages that are
/// provably bad, and nothing else.
public final class PackedStoreCheck {
    /// One thing that is not as it should be.
    public struct Finding: Sendable, CustomStringConvertible {
        public enum Remedy: Sendable, Equatable {
            /// The page's entry is cleared: it is a hole afterwards.
            case dropPage
            /// The header is written anew, with the size that the last page tells.
            case rewriteHeader
            /// Nothing that `repair` could do.
            case none
        }

        public var object: UInt32?
        public var page: Int?
        public var tier: Int?
        public var text: String
        public var remedy: Remedy

        public var description: String {
            var place: [String] = []
            if let object { place.append("object \(object)") }
            if let page { place.append("page \(page)") }
            if let tier { place.append("tier \(tier)") }
            return place.isEmpty ? text : place.joined(separator: " ") + ": " + text
        }
    }

    public private(set) var findings: [Finding] = []
    public private(set) var objectCount = 0
    public private(set) var pageCount = 0
    public private(set) var blockCount = 0
    /// Bytes of blocks that were read and verified.
    public private(set) var verifiedBytes = 0

    private let tiers: StoreTiers
    private let geometry: SegmentGeometry
    private let objects: SharedDescriptor
    private var segments: [Int: (tier: Int, bytes: Int)] = [:]
    private let codec = BlockCodec(.zstd(level: 1))
    private let raw: MappedMemory
    private let plain: MappedMemory
    // The block that was read last: most entries are beside their neighbours.
    private var lastLocation: UInt64?
    private var lastHeader: BlockHeader?
    private var lastFailure: String?
    private var openSegment: (number: Int, file: SharedDescriptor)?

    /// Checks the store in these directories; the first one alone is enough where the others are still where they were.
    /// `busy` if a server has it open.
    public init(directories: [String]) throws(StoreError) {
        tiers = try StoreTiers.open(try Self.all(directories), PackedOptions(), mayMake: false)
        guard let geometry = SegmentGeometry(segmentBytes: tiers.signature.segmentBytes) else {
            throw StoreError(.damaged, "\(directories[0]): the signature names segments no store has")
        }
        self.geometry = geometry
        do throws(Errno) {
            raw = try MappedMemory(anonymous: (IndexEntry.maximumBlockBytes + 4095) & ~4095, populated: false)
            plain = try MappedMemory(anonymous: WorkerContext.blockBytes, populated: false)
            objects = SharedDescriptor(
                try Files.open("objects", [.readOnly, .directory, .noFollow], at: tiers.tiers[0].directory.number))
        } catch { throw StoreError(.damaged, "\(directories[0]) has no objects", errno: error) }
        do throws(Errno) {
            try lookAtSegments()
            let damaged = try UsedIDs(in: tiers.tiers[0].directory.number).damagedLines
            if damaged > 0 {
                note(Finding(text: "\(damaged) lines of the list of used ids are damaged; their ids are not used again", remedy: .none))
            }
            var names: [String] = []
            try Files.forEachName(in: objects.number) { names.append($0) }
            for name in names.sorted() {
                guard let id = StoredObjectID(name: name) else {
                    note(Finding(text: "objects/\(name) is not an object; the store ignores it", remedy: .none))
                    continue
                }
                try lookAtObject(id)
            }
        } catch { throw StoreError(.system, "\(directories[0]) can't be read", errno: error) }
    }

    private static func all(_ directories: [String]) throws(StoreError) -> [String] {
        guard directories.count == 1 else { return directories }
        guard let text = try? Files.contents(of: directories[0] + "/" + StoreTiers.listName) else { return directories }
        return directories + String(decoding: text, as: UTF8.self).split(separator: "\n").dropFirst().map(String.init)
    }

    private func note(_ finding: Finding) { findings.append(finding) }

    private func lookAtSegments() throws(Errno) {
        for tier in tiers.tiers {
            var names: [String] = []
            try Files.forEachName(in: tier.segments.number) { names.append($0) }
            for name in names {
                guard let number = Int(name), number >= 0, number < geometry.segmentLimit, name == String(number) else {
                    if !name.hasSuffix(TierMover.suffix) {
                        note(Finding(tier: tier.number, text: "segments/\(name) is not a segment; the store ignores it", remedy: .none))
                    }
                    continue
                }
                segments[number] = (tier.number, try Files.status(of: name, at: tier.segments.number).sizeBytes)
            }
        }
    }

    private func lookAtObject(_ id: StoredObjectID) throws(Errno) {
        let file = try Files.open(id.description, [.readOnly, .noFollow], at: objects.number)
        let buffer = try MappedMemory(anonymous: 1 << 20, populated: false)
        var limit = Int.max
        var position = 0
        objectCount += 1
        while let data = try Files.nextData(file.number, from: position) {
            position = data & ~(basePageSize - 1)
            let got = try Files.read(file.number, into: buffer.bytes, at: position)
            if position == 0 {
                if got >= ObjectHeader.totalBytes,
                    let header = ObjectHeader(reading: buffer.base, object: id.rawValue, store: tiers.signature.identity)
                {
                    limit = (header.sizeBytes + basePageSize - 1) / basePageSize
                } else if got < ObjectHeader.totalBytes || !isZero(buffer.base, got & ~63) {
                    note(
                        Finding(
                            object: id.rawValue, text: "both copies of its header are damaged: size, times and hints are lost",
                            remedy: .rewriteHeader))
                }
            }
            var offset = position == 0 ? ObjectHeader.totalBytes : 0
            while offset + IndexEntry.byteCount <= got {
                let words = PairedWords(
                    low: buffer.base.load(fromByteOffset: offset, as: UInt64.self),
                    high: buffer.base.load(fromByteOffset: offset + 8, as: UInt64.self))
                let page = (position + offset - ObjectHeader.totalBytes) / IndexEntry.byteCount
                // What lies beyond the end is left of an unfinished step and goes at the next opening.
                if words.low | words.high != 0, page < limit { lookAtPage(id.rawValue, page, IndexEntry(words: words)) }
                offset += IndexEntry.byteCount
            }
            // A file may be as long as numbers go.
            guard position < Int.max - 2 * buffer.count else { break }
            position += max(got & ~(basePageSize - 1), basePageSize)
        }
        if limit != .max, try Files.status(file.number).sizeBytes < ObjectIndex.fileBytes(forPages: limit) {
            note(
                Finding(
                    object: id.rawValue,
                    text: "its index was cut short: pages beyond it read as errors; put the file back or remove the object",
                    remedy: .none))
        }
    }

    private func lookAtPage(_ object: UInt32, _ page: Int, _ entry: IndexEntry) {
        pageCount += 1
        switch entry.kind(object: object, page: page) {
        case .absent, .fill: return
        case .damaged: note(Finding(object: object, page: page, text: "its index entry is damaged", remedy: .dropPage))
        case .block:
            let number = geometry.segment(of: entry.location)
            guard let segment = segments[number] else {
                note(Finding(object: object, page: page, text: "segment \(number) is gone", remedy: .dropPage))
                return
            }
            if let failure = failure(of: entry, object, page, segment) {
                note(Finding(object: object, page: page, tier: segment.tier, text: "\(failure) (segment \(number))", remedy: .dropPage))
            }
        }
    }

    private func failure(of entry: IndexEntry, _ object: UInt32, _ page: Int, _ segment: (tier: Int, bytes: Int)) -> String? {
        if lastLocation != entry.location { readBlock(entry, segment) }
        if let lastFailure { return lastFailure }
        guard let header = lastHeader, header.object == object, header.length == entry.length, header.pages == entry.blockPages,
            header.slot(of: page) == entry.slot
        else { return "its block holds other pages" }
        let bytes = plain.base + entry.slot * basePageSize
        let sum: UInt32
        if codec.decompress(
            header.codec, raw.base + header.headerBytes, header.payloadBytes, into: plain.base, wanted: (entry.slot + 1) * basePageSize,
            of: header.pages * basePageSize)
        {
            sum = Checksum.page(bytes)
        } else {
            return "its block can't be decompressed"
        }
        return sum == entry.checksum ? nil : "its bytes are not what its checksum says"
    }

    private func readBlock(_ entry: IndexEntry, _ segment: (tier: Int, bytes: Int)) {
        lastLocation = entry.location
        lastHeader = nil
        lastFailure = nil
        let number = geometry.segment(of: entry.location)
        let offset = geometry.offset(of: entry.location)
        do throws(Errno) {
            if openSegment?.number != number {
                openSegment = (
                    number,
                    SharedDescriptor(
                        try Files.open(
                            StoreTier.segmentName(number), [.readOnly, .noFollow], at: tiers.tiers[segment.tier].segments.number))
                )
            }
            guard let file = openSegment?.file else { return }
            let got = try Files.read(file.number, into: UnsafeMutableRawBufferPointer(start: raw.base, count: entry.length), at: offset)
            guard got == entry.length else {
                lastFailure = "its segment ends before its block"
                return
            }
        } catch {
            lastFailure = "its block can't be read (\(error))"
            return
        }
        guard let header = BlockHeader(at: raw.base, available: entry.length) else {
            lastFailure = "its block's header is damaged"
            return
        }
        lastHeader = header
        blockCount += 1
        verifiedBytes += header.length
    }

    /// Drops the pages that are provably bad and mends headers; returns how many findings it dealt with. Ask first: a dropped page
    /// can't come back.
    public func repair() throws(StoreError) -> Int {
        var done = 0
        let byObject = Dictionary(grouping: findings.filter { $0.remedy != .none && $0.object != nil }) { $0.object ?? 0 }
        for (number, findings) in byObject.sorted(by: { $0.key < $1.key }) {
            guard let id = StoredObjectID(rawValue: number) else { continue }
            do throws(Errno) {
                let index = try ObjectIndex(try Files.open(id.description, [.readWrite, .noFollow], at: objects.number), pages: 0)
                for finding in findings {
                    if let page = finding.page, finding.remedy == .dropPage, page < index.capacity {
                        _ = PairedWords.exchange(index.address(page), with: IndexEntry.absent.words)
                        done += 1
                    }
                }
                if findings.contains(where: { $0.remedy == .rewriteHeader }) {
                    var header = ObjectHeader.guessed(from: index, object: number)
                    header.write(to: index.header, store: tiers.signature.identity)
                    done += 1
                }
                try Files.sync(index.file.number)
            } catch { throw StoreError(.system, "object \(id) can't be repaired", errno: error) }
        }
        return done
    }
}
