import ShrinkLinux
import SystemPackage

/// Finds, makes and locks the directories of a store.
struct StoreTiers {
    let tiers: [StoreTier]
    /// The first directory was empty where another holds a part of a store.
    let firstIsLost: Bool
    let signature: StoreSignature

    /// The other tiers' paths, one a line, for `backupfs check` of the first.
    static let listName = "tiers"

    /// `mayMake`: an empty directory becomes a tier.
    static func open(_ directories: [String], _ options: PackedOptions, mayMake: Bool = true) throws(StoreError) -> StoreTiers {
        var tiers: [StoreTier] = []
        var found: [Place] = []
        for (number, path) in directories.enumerated() { found.append(try look(path, number)) }

        // The first signature there is tells what store this is; a directory without one joins it.
        let known = found.compactMap(\.signature).first
        let identity = known?.identity ?? StoreIdentity()
        let segmentBytes = known?.segmentBytes ?? options.segmentBytes
        guard SegmentGeometry(segmentBytes: segmentBytes) != nil else {
            throw StoreError(.damaged, "\(directories[0]): the signature names segments of \(segmentBytes) bytes, which no store has")
        }
        var firstIsLost = false
        for (number, place) in found.enumerated() {
            let wanted = StoreSignature(identity: identity, tier: number, segmentBytes: segmentBytes)
            if let signature = place.signature {
                guard signature.identity == identity else {
                    throw StoreError(
                        .foreign, "\(place.path) belongs to another store than \(directories[0]); give the directories of one store")
                }
                guard signature.tier == number else {
                    throw StoreError(
                        .foreign, "\(place.path) is tier \(signature.tier) of its store, not \(number); give the directories in their order"
                    )
                }
            } else {
                guard mayMake else { throw StoreError(.foreign, "\(place.path) holds no packed store; give the directory of one") }
                if number == 0, known != nil {
                    firstIsLost = true
                }
                let written = wanted.bytes.withUnsafeBytes { Files.write(place.file.number, $0, at: 0) }
                if let error = written.error { throw StoreError(.system, "\(place.path): the signature can't be written", errno: error) }
                do throws(Errno) { try Files.sync(place.file.number) } catch {
                    throw StoreError(.system, "\(place.path): the signature can't be synced", errno: error)
                }
            }
            do throws(Errno) {
                tiers.append(
                    try StoreTier(
                        number: number, path: place.path, directory: place.directory, signature: place.file, inMemory: place.kind == .memory
                    ))
            } catch { throw StoreError(.system, "\(place.path): its segments can't be opened", errno: error) }
        }
        if mayMake, let first = tiers.first {
            let list = directories.map { $0 + "\n" }.joined()
            do throws(Errno) {
                try Files.replaceContents(of: listName, at: first.directory.number, with: Array(list.utf8))
            } catch {
                if error != .noSpace { throw StoreError(.system, "\(first.path): the list of tiers can't be written", errno: error) }
            }
        }
        return StoreTiers(
            tiers: tiers, firstIsLost: firstIsLost, signature: StoreSignature(identity: identity, tier: 0, segmentBytes: segmentBytes))
    }

    private typealias Place = (
        path: String, directory: SharedDescriptor, file: SharedDescriptor, signature: StoreSignature?, kind: FileSystem.Kind
    )

    private static func look(_ path: String, _ number: Int) throws(StoreError) -> Place {
        let directory: SharedDescriptor
        do throws(Errno) { directory = SharedDescriptor(try Files.open(path, [.readOnly, .directory])) } catch {
            if error == .noSuchFileOrDirectory || error == .notDirectory {
                throw StoreError(.missing, "\(path) is not a directory that is there; make it or give another", errno: error)
            }
            throw unusable(path, error)
        }
        let kind: FileSystem.Kind
        var names: [String] = []
        do throws(Errno) {
            kind = try FileSystem(of: directory.number).kind
            try Files.forEachName(in: directory.number) { names.append($0) }
        } catch { throw unusable(path, error) }
        if number > 0 { try refuseMemory(path, directory.number, kind) }
        if !names.contains(StoreSignature.fileName), names.contains(where: { $0 != "lost+found" }) {
            throw StoreError(.foreign, "\(path) holds something that is not a packed store; give an empty directory")
        }
        let file: SharedDescriptor
        let isOurs: Bool
        let bytes: [UInt8]
        do throws(Errno) {
            file = SharedDescriptor(try Files.open(StoreSignature.fileName, [.readWrite, .create, .noFollow], at: directory.number))
            isOurs = try lock(file.number)
            bytes = try Files.contents(of: StoreSignature.fileName, at: directory.number, limit: 65536)
        } catch { throw unusable(path, error) }
        guard isOurs else { throw StoreError(.busy, "\(path) is open in another server; stop it or give another directory") }
        // Empty: made, and not written before a crash.
        return (path, directory, file, bytes.isEmpty ? nil : try StoreSignature(parsing: bytes, of: path), kind)
    }

    /// A server that was killed a moment ago may still be ending: its lock is waited for, one second at most.
    private static func lock(_ fd: CInt) throws(Errno) -> Bool {
        let pause = Monitor<Void>(())
        for _ in 0..<100 {
            if try Files.tryLock(fd) { return true }
            _ = pause.wait(deadline: MonotonicTime.now().advanced(milliseconds: 10)) { _ -> Void? in nil }
        }
        return false
    }

    private static func unusable(_ path: String, _ error: Errno) -> StoreError {
        switch error {
        case .permissionDenied, .notPermitted:
            StoreError(.readOnly, "no permission to use \(path) as a store's directory; run as its owner or give another", errno: error)
        case .readOnlyFileSystem:
            StoreError(.readOnly, "\(path) is on a read-only file system; remount it writable or give another", errno: error)
        default: StoreError(.system, "\(path) can't be used as a store's directory", errno: error)
        }
    }

    /// What is behind the first tier must be something else than memory, or nothing is gained by moving there.
    private static func refuseMemory(_ path: String, _ fd: CInt, _ kind: FileSystem.Kind) throws(StoreError) {
        if kind == .memory || kind == .hugePages {
            throw StoreError(
                .unsupported, "\(path) lies in memory (tmpfs or ramfs), where a second tier saves nothing; give a directory on a disk")
        }
        let device: String?
        do throws(Errno) { device = try BlockDevices.compressedMemory(under: fd) } catch {
            throw StoreError(.system, "\(path): its device can't be told", errno: error)
        }
        if let device {
            throw StoreError(.unsupported, "\(path) lies on \(device), which is compressed memory; give a directory on a disk")
        }
    }
}
