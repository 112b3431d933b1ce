import ShrinkLinux
import SystemPackage

/// Tries on a real object whether a directory keeps the backup contract, before any page depends on it.
struct DirectoryProbe {
    let objects: CInt
    let path: String

    /// Returns whether `data` can be opened with O_DIRECT. Throws the reason if the directory is unsuitable. Leaves nothing behind, but
    /// if it dies: then what `Engine.removeLeftovers` knows, or what the next probe of a plain directory uses.
    func run(id: ObjectID, isMounted: Bool, isMemory: Bool) throws(EngineError) -> Bool {
        let name = isMounted ? "\(id.rawValue)" : BackupDirectory.probeName
        if !isMounted {
            try? Files.remove(name + "/data", at: objects)
            try? Files.removeDirectory(name, at: objects)
        }
        do throws(Errno) { try Files.makeDirectory(name, at: objects) } catch {
            throw EngineError(
                .unsuitableDirectory, "\(path)/objects is not writable; change its owner or name another directory", errno: error)
        }
        defer {
            try? Files.remove(name + "/data", at: objects)
            try? Files.removeDirectory(name, at: objects)
        }
        do throws(Errno) {
            let data = try Files.open(name + "/data", [.readWrite, .create], at: objects)
            if isMounted { try ExtendedAttributes.set("user.shrinkd.name", to: Array(BackupDirectory.probeName.utf8), of: data.number) }
            try Files.truncate(data.number, to: 16 * basePageSize)
        } catch {
            throw refused("it can't make a file of 64 KiB", error)
        }
        var direct = false
        if !isMemory, (try? check(name, [.readWrite, .direct], .dataSync)) != nil { direct = true }
        if !direct { try check(name, .readWrite, isMemory ? [] : .dataSync) }
        return direct
    }

    private func check(_ name: String, _ flags: Files.OpenFlags, _ write: Files.WriteFlags) throws(EngineError) {
        do {
            let data = try Files.open(name + "/data", flags, at: objects)
            let memory = try MappedMemory(anonymous: 2 * basePageSize, populated: true)
            let page = UnsafeMutableRawBufferPointer(start: memory.base, count: basePageSize)
            let back = UnsafeMutableRawBufferPointer(start: memory.base + basePageSize, count: basePageSize)
            for i in page.indices { page[i] = UInt8(truncatingIfNeeded: i &* 7 &+ 1) }
            try Files.punch(data.number, at: 0, length: 16 * basePageSize)
            for index in [3, 4, 9] {
                let written = Files.write(data.number, UnsafeRawBufferPointer(page), at: index * basePageSize, write)
                if let error = written.error { throw error }
            }
            guard try extents(data.number) == [3..<5, 9..<10] else {
                throw refused("SEEK_DATA and SEEK_HOLE are not exact to the page", nil)
            }
            try Files.punch(data.number, at: 3 * basePageSize, length: basePageSize)
            guard try extents(data.number) == [4..<5, 9..<10] else { throw refused("punching a page does not make a hole", nil) }
            guard try Files.read(data.number, into: back, at: 9 * basePageSize) == basePageSize, back.elementsEqual(page) else {
                throw refused("a page does not read back as written", nil)
            }
            guard try Files.read(data.number, into: back, at: 3 * basePageSize) == basePageSize,
                isZero(memory.base + basePageSize, basePageSize)
            else { throw refused("a hole does not read as zeros", nil) }
        } catch let error as EngineError {
            throw error
        } catch let error as Errno {
            throw refused("a call of the backup contract fails", error)
        } catch {
            throw refused("a call of the backup contract fails", nil)
        }
    }

    /// Ranges of pages with data.
    private func extents(_ fd: CInt) throws(Errno) -> [Range<Int>] {
        var found: [Range<Int>] = []
        var offset = 0
        while let data = try Files.nextData(fd, from: offset), data < 16 * basePageSize {
            let hole = try Files.nextHole(fd, from: data) ?? 16 * basePageSize
            found.append(data / basePageSize..<(hole + basePageSize - 1) / basePageSize)
            if data % basePageSize != 0 || hole % basePageSize != 0 { return [] }
            offset = hole
        }
        return found
    }

    private func refused(_ reason: String, _ error: Errno?) -> EngineError {
        EngineError(
            .unsuitableDirectory, "\(path) can't be a backup: \(reason); use tmpfs, ext4, XFS, btrfs or a mounted backupfs", errno: error)
    }
}
