import ShrinkLinux
import SystemPackage

/// What a server must know to take over the mount of one that died, in a memory file that its starter keeps beside the FUSE device.
///
///     0      magic, version
///     64     numbers (`Field`)
///     512    the kernel's FUSE_INIT request, as it was read
///     1024   why there is no passthrough, as text
///     2048   re-created files, 8 bytes each: object, count
///     4096   registrations, 16 bytes each: node number, backing id, open files
///
/// Written by one process at a time. Every number is one aligned store, so a process killed at any instruction leaves the old value or the new.
final class SessionState: Sendable {
    private static let magic: UInt64 = 0x7368_726b_6673_6d31
    private static let version: UInt64 = 1
    static let registrationCapacity = 65536
    static let sizeBytes = 4096 + registrationCapacity * 16
    private static let maxInitBytes = 512
    private static let maxReasonBytes = 1024

    private enum Field: Int {
        case magic = 0
        case version = 8
        case generation = 64
        /// Servers that have served this mount.
        case starts = 72
        case initBytes = 80
        case negotiated = 88
        /// 0 not yet decided, 1 yes, 2 no.
        case passthrough = 96
        case reasonBytes = 104
    }

    let descriptor: SharedDescriptor
    private let memory: SharedMapping

    /// The mapping's owner; a class, since several parts write their own region of it.
    private final class SharedMapping: Sendable {
        let mapped: MappedMemory
        init(_ mapped: consuming MappedMemory) { self.mapped = mapped }
    }

    /// A new mount's state.
    init() throws(Errno) {
        let file = try MemoryFile.makeSealed("backupfs-state", size: Self.sizeBytes)
        memory = SharedMapping(try MappedMemory(sharing: file.number, count: Self.sizeBytes))
        descriptor = SharedDescriptor(file)
        self[.version] = Self.version
        self[.generation] = UInt64(FileTime.now().seconds) << 8 | UInt64.random(in: 0...255)
        self[.starts] = 1
        self[.magic] = Self.magic
    }

    /// The state that a predecessor left; nil if it is not one this version understands, or was never finished.
    init?(inherited file: consuming OwnedDescriptor) throws(Errno) {
        guard try Files.status(file.number).sizeBytes == Self.sizeBytes else { return nil }
        memory = SharedMapping(try MappedMemory(sharing: file.number, count: Self.sizeBytes))
        descriptor = SharedDescriptor(file)
        guard self[.magic] == Self.magic, self[.version] == Self.version, initRequest != nil, verdict != nil else { return nil }
        self[.starts] += 1
    }

    private subscript(field: Field) -> UInt64 {
        get { word(field).load() }
        set { word(field).store(newValue) }
    }

    private func word(_ field: Field) -> SharedWord {
        SharedWord((memory.mapped.base + field.rawValue).assumingMemoryBound(to: UInt64.self))
    }

    var generation: UInt64 { self[.generation] }

    /// Handles given by different servers of one mount never meet.
    var firstHandle: UInt64 { self[.starts] << 40 | 2 }

    var negotiated: FuseDevice.Capabilities { FuseDevice.Capabilities(rawValue: self[.negotiated]) }

    /// The request as the kernel sent it.
    func saveInit(_ request: UnsafeRawBufferPointer) {
        precondition(request.count <= Self.maxInitBytes, "a FUSE_INIT request is 104 bytes")
        UnsafeMutableRawBufferPointer(rebasing: memory.mapped.bytes[512...]).copyMemory(from: request)
        word(.initBytes).store(UInt64(request.count))
    }

    /// What the reply asked for beyond libfuse.
    func saveNegotiated(_ capabilities: FuseDevice.Capabilities) { word(.negotiated).store(capabilities.rawValue) }

    var initRequest: [UInt8]? {
        let count = Int(clamping: self[.initBytes])
        guard count >= FuseDevice.RequestHeader.size, count <= Self.maxInitBytes else { return nil }
        return Array(memory.mapped.bytes[512..<512 + count])
    }

    func saveVerdict(_ verdict: Passthrough.Verdict) {
        switch verdict {
        case .yes: word(.passthrough).store(1)
        case .no(let reason):
            let bytes = Array(reason.utf8.prefix(Self.maxReasonBytes))
            UnsafeMutableRawBufferPointer(rebasing: memory.mapped.bytes[1024...]).copyBytes(from: bytes)
            word(.reasonBytes).store(UInt64(bytes.count))
            word(.passthrough).store(2)
        }
    }

    var verdict: Passthrough.Verdict? {
        switch self[.passthrough] {
        case 1: .yes
        case 2:
            .no(
                String(
                    decoding: memory.mapped.bytes[1024..<1024 + min(Int(clamping: self[.reasonBytes]), Self.maxReasonBytes)], as: UTF8.self)
            )
        default: nil
        }
    }

    /// `Incarnations.capacity` words; zeros in a state that an older server made.
    var incarnationWords: UnsafeMutablePointer<UInt64> { (memory.mapped.base + 2048).assumingMemoryBound(to: UInt64.self) }

    /// Where the registrations are; they belong to one `Registrations`.
    var registrationWords: UnsafeMutablePointer<UInt64> { (memory.mapped.base + 4096).assumingMemoryBound(to: UInt64.self) }
}
