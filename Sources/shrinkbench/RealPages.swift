import ShrinkLinux
import SystemPackage

/// The bytes a run moves: real files of the machine, or a file that is named, in a private mapping.
final class RealPages: @unchecked Sendable {
    // Sendable: written once in init.
    private let memory: MappedMemory
    let count: Int
    let zeroPages: Int
    let source: String

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(memory.bytes)[0..<count]) }
    var pageCount: Int { count / basePageSize }

    /// `size` bytes: a named file again and again, or shared libraries and programs with every fifth page made zero.
    init(size: Int, file: String?) throws {
        memory = try MappedMemory(anonymous: size, populated: true)
        var filled = 0
        if let file {
            source = file
            guard (try? Files.status(of: file)) != nil else { throw BenchError("\(file) is not there; name a file with --data") }
            while filled < size {
                let n = try Self.append(file, to: memory, at: filled, limit: size)
                guard n > 0 else { throw BenchError("\(file) has no bytes; give a file with content") }
                filled += n
            }
        } else {
            source = "shared libraries and programs, every fifth page zero"
            for path in Self.machineFiles() where filled < size {
                filled += (try? Self.append(path, to: memory, at: filled, limit: size)) ?? 0
            }
            guard filled > 0 else { throw BenchError("no shared libraries found; name a file with --data") }
            // A small machine has less: the files once more.
            let once = filled
            while filled < size {
                let n = min(once, size - filled)
                UnsafeMutableRawBufferPointer(rebasing: memory.bytes[filled..<filled + n]).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(memory.bytes)[0..<n]))
                filled += n
            }
            for page in stride(from: 4, to: size / basePageSize, by: 5) {
                UnsafeMutableRawBufferPointer(rebasing: memory.bytes[page * basePageSize..<(page + 1) * basePageSize]).initializeMemory(
                    as: UInt8.self, repeating: 0)
            }
        }
        count = size
        var zeros = 0
        for page in 0..<size / basePageSize where isZero(memory.base + page * basePageSize, basePageSize) { zeros += 1 }
        zeroPages = zeros
    }

    /// Whole pages of a file; the rest of its last page stays zero.
    private static func append(_ path: String, to memory: borrowing MappedMemory, at offset: Int, limit: Int) throws -> Int {
        let file = try Files.open(path, .readOnly)
        let size = min(try Files.status(file.number).sizeBytes, limit - offset)
        let n = try Files.read(file.number, into: UnsafeMutableRawBufferPointer(rebasing: memory.bytes[offset..<offset + size]), at: 0)
        return min((n + basePageSize - 1) & ~(basePageSize - 1), limit - offset)
    }

    /// Regular files under the library and program directories, in order of name.
    private static func machineFiles() -> [String] {
        var files: [String] = []
        var directories = ["/usr/lib", "/usr/bin", "/usr/libexec", "/opt"]
        while let directory = directories.popLast(), files.count < 200_000 {
            guard let opened = try? Files.open(directory, [.readOnly, .directory, .noFollow]) else { continue }
            var names: [String] = []
            try? Files.forEachName(in: opened.number) { names.append($0) }
            for name in names.sorted() {
                guard let status = try? Files.status(of: name, at: opened.number) else { continue }
                if status.kind == .directory { directories.append(directory + "/" + name) }
                if status.kind == .regular, status.sizeBytes >= 64 << 10, name.contains(".so") || status.mode & 0o111 != 0 {
                    files.append(directory + "/" + name)
                }
            }
        }
        return files.sorted()
    }
}

struct BenchError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

extension RealPages {
    /// Pages that are not all zeros.
    var contentPages: [Int] {
        (0..<pageCount).filter { page in bytes.baseAddress.map { !isZero($0 + page * basePageSize, basePageSize) } ?? false }
    }
}
