import ShrinkLinux
import Synchronization
import SystemPackage

/// All segments of a store: state, tier, live bytes, descriptor. One slot of 64 bytes for each number, in memory only; a reopen
/// counts anew from the indexes.
final class SegmentTable: @unchecked Sendable {
    // Sendable: slots are touched atomically; the free numbers have a lock.

    enum State: UInt32 {
        /// No such segment.
        case free
        /// A worker appends to it.
        case open
        case sealed
        /// The cleaner or a move to another tier has it.
        case busy
        /// Nothing in it lives; its number waits for the last reader.
        case retired
        /// Pages refer to it and the file is not there.
        case missing
    }

    /// One segment's slot; the owner of the table outlives it.
    struct Slot {
        fileprivate let base: UnsafeMutableRawPointer

        @inline(__always) private func word32(_ offset: Int) -> UnsafeMutablePointer<UInt32> {
            (base + offset).assumingMemoryBound(to: UInt32.self)
        }
        @inline(__always) private func word64(_ offset: Int) -> UnsafeMutablePointer<UInt64> {
            (base + offset).assumingMemoryBound(to: UInt64.self)
        }

        // Live pages above, live bytes below, so that both change in one step.
        @inline(__always) private var live: UnsafeMutablePointer<UInt64> { word64(0) }
        @inline(__always) var livePages: Int { Int(AtomicMemory.load(live) >> 40) }
        @inline(__always) var liveBytes: Int { Int(AtomicMemory.load(live) & (1 << 40 - 1)) }
        @inline(__always) func addLive(pages: Int, bytes: Int) { AtomicMemory.add(live, UInt64(pages) << 40 + UInt64(bytes)) }
        /// Returns true if these were the last.
        @inline(__always) func dropLive(pages: Int, bytes: Int) -> Bool {
            let amount = UInt64(pages) << 40 + UInt64(bytes)
            // Wrapping: a damaged entry may name a segment that never counted it, which then stays.
            return (AtomicMemory.subtract(live, amount) &- amount) >> 40 == 0
        }

        @inline(__always) var state: State { State(rawValue: AtomicMemory.load(word32(8))) ?? .free }
        @inline(__always) func setState(_ state: State) { _ = AtomicMemory.exchange(word32(8), state.rawValue) }
        @inline(__always) func change(_ from: State, to: State) -> Bool {
            AtomicMemory.replace(word32(8), from.rawValue, with: to.rawValue)
        }

        // The descriptor plus one; 0 while closed.
        fileprivate var descriptor: UnsafeMutablePointer<UInt32> { word32(12) }

        @inline(__always) var tier: Int {
            get { Int(AtomicMemory.load(word32(16))) }
            nonmutating set { AtomicMemory.store(word32(16), UInt32(newValue)) }
        }
        /// Bytes of the file that hold blocks or did.
        @inline(__always) var usedBytes: Int {
            get { Int(AtomicMemory.load(word32(20))) }
            nonmutating set { AtomicMemory.store(word32(20), UInt32(newValue)) }
        }
        /// When it was sealed, seconds since 1970.
        var sealedAt: UInt32 {
            get { AtomicMemory.load(word32(24)) }
            nonmutating set { AtomicMemory.store(word32(24), newValue) }
        }
        /// When it was made, seconds since 1970.
        var openedAt: UInt32 {
            get { AtomicMemory.load(word32(36)) }
            nonmutating set { AtomicMemory.store(word32(36), newValue) }
        }
        /// While the store is opened: up to here there may be blocks.
        fileprivate var filledBytes: Int {
            get { Int(AtomicMemory.load(word32(56))) }
            nonmutating set { AtomicMemory.store(word32(56), UInt32(newValue)) }
        }
        /// Written since it was last synced.
        @inline(__always) var isDirty: Bool {
            get { AtomicMemory.load(word32(28)) != 0 }
            nonmutating set { AtomicMemory.store(word32(28), newValue ? 1 : 0) }
        }
        /// The cleaner found a block it can't read: it is left alone.
        var isDamaged: Bool {
            get { AtomicMemory.load(word32(32)) != 0 }
            nonmutating set { AtomicMemory.store(word32(32), newValue ? 1 : 0) }
        }
        /// How many pages still lived when the cleaner had moved all that it may, and when that was; 0 if it hasn't been here.
        var leftBehind: (pages: Int, at: UInt32) {
            get { (Int(AtomicMemory.load(word32(40))), AtomicMemory.load(word32(44))) }
            nonmutating set {
                AtomicMemory.store(word32(44), newValue.at)
                AtomicMemory.store(word32(40), UInt32(truncatingIfNeeded: newValue.pages))
            }
        }
        /// A `SegmentMapping`, or why there is none.
        @inline(__always) var mapping: UnsafeMutablePointer<UInt64> { word64(48) }
    }

    static let headerBytes = 64

    let geometry: SegmentGeometry
    let identity: StoreIdentity
    let tiers: [StoreTier]
    private let arena: MappedMemory
    private let numbers = Mutex<Numbers>(Numbers())
    /// Segments that are mapped just now.
    let mappings = Atomic<Int>(0)
    private let openDescriptors = Atomic<Int>(0)
    private let descriptorLimit: Int
    let mappingLimit: Int
    let beforeMapping: (@Sendable () -> Void)?
    // Set once, before the first worker.
    nonisolated(unsafe) private(set) var grace: Grace

    private struct Numbers {
        /// Numbers below it have been used.
        var next = 0
        var free: [Int] = []
        var hand = 0
    }

    init(
        geometry: SegmentGeometry, identity: StoreIdentity, tiers: [StoreTier], pins: Int, descriptorLimit: Int, mappingLimit: Int,
        beforeMapping: (@Sendable () -> Void)?
    ) throws(Errno) {
        self.geometry = geometry
        self.identity = identity
        self.tiers = tiers
        self.descriptorLimit = descriptorLimit
        self.mappingLimit = mappingLimit
        self.beforeMapping = beforeMapping
        arena = try MappedMemory(anonymous: geometry.segmentLimit * 64, populated: false)
        grace = Grace(pins: pins, recycled: { _ in })
        grace = Grace(pins: pins, recycled: { [unowned self] in self.recycle($0) })
    }

    deinit {
        for n in 0..<numberLimit {
            let raw = AtomicMemory.load(slot(n).descriptor)
            if raw != 0 { _ = OwnedDescriptor(owning: CInt(raw) - 1) }
            SegmentMapping(word: AtomicMemory.load(slot(n).mapping))?.end()
        }
    }

    @inline(__always) func slot(_ number: Int) -> Slot { Slot(base: arena.base + number * 64) }

    /// All numbers in use are below it.
    var numberLimit: Int { numbers.withLock { $0.next } }

    // MARK: Files

    /// The segment's descriptor, opened if need be. The caller is pinned and doesn't use it after unpinning.
    @inline(__always) func descriptor(_ number: Int) throws(Errno) -> CInt {
        let raw = AtomicMemory.load(slot(number).descriptor)
        if raw != 0 { return CInt(raw) - 1 }
        return try openDescriptor(number)
    }

    @inline(never) private func openDescriptor(_ number: Int) throws(Errno) -> CInt {
        let slot = slot(number)
        let tier = slot.tier
        guard slot.state != .free, tier < tiers.count else { throw .noSuchFileOrDirectory }
        let file = try Files.open(StoreTier.segmentName(number), [.readWrite, .noFollow], at: tiers[tier].segments.number)
        let fd = file.release()
        if AtomicMemory.replace(slot.descriptor, 0, with: UInt32(fd) + 1) {
            if openDescriptors.add(1, ordering: .relaxed).newValue > descriptorLimit { closeSome() }
            // Released between the look at the slot and the exchange: nobody would do it again.
            if isPast(slot, tier: tier) { releaseDescriptor(number) }
            return fd
        }
        _ = OwnedDescriptor(owning: fd)
        return try descriptor(number)
    }

    /// The segment died, or moved to another tier. The caller is pinned, so that its number means the same segment still.
    func isPast(_ slot: Slot, tier: Int) -> Bool {
        let state = slot.state
        return state == .retired || state == .free || slot.tier != tier
    }

    /// Takes descriptor and mapping out of use; they are closed after the last reader.
    func releaseDescriptor(_ number: Int, recycling: Bool = false) {
        let raw = AtomicMemory.exchange(slot(number).descriptor, 0)
        if raw != 0 { openDescriptors.subtract(1, ordering: .relaxed) }
        let mapping = takeMapping(number)
        if raw != 0 || mapping != nil || recycling { grace.retire(CInt(raw) - 1, mapping, segment: recycling ? number : nil) }
    }

    /// Closes an eighth of the descriptors, of sealed segments, in turn.
    private func closeSome() {
        let chosen = inTurn(max(1, descriptorLimit / 8)) { slot in
            slot.state == .sealed && AtomicMemory.load(slot.descriptor) != 0 && (!slot.isDirty || isInMemory(slot))
        }
        for number in chosen { releaseDescriptor(number) }
    }

    // Nothing there waits for a sync.
    private func isInMemory(_ slot: Slot) -> Bool {
        let tier = slot.tier
        return tier < tiers.count && tiers[tier].inMemory
    }

    /// At most `count` segments, going on where the last call ended.
    func inTurn(_ count: Int, where isWanted: (Slot) -> Bool) -> [Int] {
        numbers.withLock { numbers in
            var chosen: [Int] = []
            for _ in 0..<numbers.next where chosen.count < count {
                numbers.hand = numbers.hand + 1 < numbers.next ? numbers.hand + 1 : 0
                if isWanted(slot(numbers.hand)) { chosen.append(numbers.hand) }
            }
            return chosen
        }
    }

    // MARK: Life

    /// A new segment file with its header, open for the caller alone. ENOSPC if the tier is full or numbers ran out.
    ///
    /// `fullLength`: as long from the start as a segment may become.
    func make(tier: Int, fullLength: Bool = false) throws(Errno) -> Int {
        let number = try takeNumber()
        let name = StoreTier.segmentName(number)
        let directory = tiers[tier].segments.number
        do throws(Errno) {
            let file = try Files.open(name, [.readWrite, .create, .exclusive, .noFollow], at: directory)
            KillPoint.segmentFileMade.pass()
            do throws(Errno) {
                if fullLength { try Files.truncate(file.number, to: geometry.segmentBytes) }
                if let error = writeHeader(number, to: file.number) { throw error }
            } catch {
                try? Files.remove(name, at: directory)
                throw error
            }
            KillPoint.segmentHeaderWritten.pass()
            adopt(number, tier: tier, file: file.release())
            return number
        } catch {
            numbers.withLock { $0.free.append(number) }
            throw error
        }
    }

    /// Makes a segment of a file that is there already under another name: the reserve.
    func make(tier: Int, renaming name: String) throws(Errno) -> Int {
        let number = try takeNumber()
        do throws(Errno) {
            let file = try Files.open(name, [.readWrite, .noFollow], at: tiers[tier].directory.number)
            if let error = writeHeader(number, to: file.number) { throw error }
            try Files.rename(name, to: "segments/" + StoreTier.segmentName(number), at: tiers[tier].directory.number)
            KillPoint.reserveTaken.pass()
            adopt(number, tier: tier, file: file.release())
            return number
        } catch {
            numbers.withLock { $0.free.append(number) }
            throw error
        }
    }

    private func takeNumber() throws(Errno) -> Int {
        let number: Int? = numbers.withLock { numbers in
            if let free = numbers.free.popLast() { return free }
            guard numbers.next < geometry.segmentLimit else { return nil }
            numbers.next += 1
            return numbers.next - 1
        }
        guard let number else { throw .noSpace }
        return number
    }

    private func adopt(_ number: Int, tier: Int, file: CInt) {
        let slot = slot(number)
        slot.tier = tier
        slot.usedBytes = Self.headerBytes
        slot.openedAt = UInt32(truncatingIfNeeded: FileTime.now().seconds)
        slot.isDirty = true
        slot.isDamaged = false
        slot.leftBehind = (0, 0)
        _ = AtomicMemory.exchange(slot.descriptor, UInt32(file) + 1)
        slot.setState(.open)
        if openDescriptors.add(1, ordering: .relaxed).newValue > descriptorLimit { closeSome() }
    }

    private func writeHeader(_ number: Int, to fd: CInt) -> Errno? {
        withUnsafeTemporaryAllocation(byteCount: Self.headerBytes, alignment: 8) { header in
            header.initializeMemory(as: UInt8.self, repeating: 0)
            header.storeBytes(of: 0x3147_4553_4b43_4150, as: UInt64.self)  // "PACKSEG1"
            header.storeBytes(of: identity.high, toByteOffset: 8, as: UInt64.self)
            header.storeBytes(of: identity.low, toByteOffset: 16, as: UInt64.self)
            header.storeBytes(of: UInt64(number), toByteOffset: 24, as: UInt64.self)
            header.storeBytes(of: Checksum.bytes(header.baseAddress!, 32), toByteOffset: 32, as: UInt32.self)
            return Files.write(fd, UnsafeRawBufferPointer(header), at: 0).error
        }
    }

    /// Whether these are the first bytes of this store's segment of that number.
    func isHeader(_ bytes: UnsafeRawPointer, of number: Int) -> Bool {
        bytes.loadUnaligned(as: UInt64.self) == 0x3147_4553_4b43_4150
            && bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self) == identity.high
            && bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self) == identity.low
            && bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self) == UInt64(number)
            && bytes.loadUnaligned(fromByteOffset: 32, as: UInt32.self) == Checksum.bytes(bytes, 32)
    }

    /// Takes over a segment that a reopen found. Only before the first worker. `filledBytes`: behind them there may be nothing, if nothing lives there.
    func restore(_ number: Int, tier: Int, usedBytes: Int, filledBytes: Int, sealedAt: UInt32) {
        let slot = slot(number)
        slot.tier = tier
        slot.filledBytes = min(filledBytes, geometry.segmentBytes)
        slot.usedBytes = min(usedBytes, geometry.segmentBytes)
        slot.sealedAt = sealedAt
        slot.isDirty = true
        slot.setState(.sealed)
        numbers.withLock { $0.next = max($0.next, number + 1) }
    }

    /// Counts a page that an index says lives there, in a block that ends at `end`.
    func restoreLive(_ number: Int, bytes: Int, end: Int) {
        let slot = slot(number)
        slot.filledBytes = max(slot.filledBytes, end)
        slot.addLive(pages: 1, bytes: bytes)
        numbers.withLock { $0.next = max($0.next, number + 1) }
    }

    /// After the last `restore`: numbers without a segment may be used.
    func finishRestore() {
        for number in 0..<numberLimit where slot(number).state == .sealed {
            slot(number).usedBytes = min(slot(number).usedBytes, slot(number).filledBytes)
        }
        numbers.withLock { numbers in numbers.free = (0..<numbers.next).reversed().filter { slot($0).state == .free } }
    }

    /// No more is appended.
    func seal(_ number: Int) {
        let slot = slot(number)
        slot.sealedAt = UInt32(truncatingIfNeeded: FileTime.now().seconds)
        slot.setState(.sealed)
        retireIfDead(number)
    }

    /// Gives a busy segment back.
    func settle(_ number: Int) {
        slot(number).setState(.sealed)
        retireIfDead(number)
    }

    /// Pages of a segment died.
    @inline(__always) func drop(_ number: Int, pages: Int, bytes: Int) {
        if slot(number).dropLive(pages: pages, bytes: bytes) { retireIfDead(number) }
    }

    /// Frees a sealed segment in which nothing lives.
    func retireIfDead(_ number: Int) {
        let slot = slot(number)
        guard slot.livePages == 0, slot.change(.sealed, to: .retired) else { return }
        KillPoint.segmentRetired.pass()
        try? Files.remove(StoreTier.segmentName(number), at: tiers[slot.tier].segments.number)
        KillPoint.segmentUnlinked.pass()
        releaseDescriptor(number, recycling: true)
    }

    private func recycle(_ number: Int) {
        slot(number).setState(.free)
        numbers.withLock { $0.free.append(number) }
    }

    /// Live pages whose segment has no file.
    func markMissing(_ number: Int) {
        let slot = slot(number)
        slot.setState(.missing)
        slot.tier = tiers.count
        numbers.withLock { $0.next = max($0.next, number + 1) }
    }

    /// Bytes of sealed segments that nothing refers to.
    var deadBytes: Int {
        var sum = 0
        for number in 0..<numberLimit {
            let slot = slot(number)
            if slot.state == .sealed || slot.state == .busy { sum += max(0, slot.usedBytes - Self.headerBytes - slot.liveBytes) }
        }
        return sum
    }
}
