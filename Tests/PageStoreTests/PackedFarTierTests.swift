import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// A second tier on a file system of its own that fills up, refuses, or is compressed memory in disguise.
@Suite(.serialized) struct PackedFarTierTests {
    private static func options() -> PackedOptions {
        var options = PackedOptions()
        options.segmentBytes = 1 << 20
        options.runsInBackground = false
        return options
    }

    private static let seed: UInt64 = 78

    private static func write(_ object: PackedObject, pages: Range<Int>) throws(Errno) {
        let bytes = pages.flatMap { PagePattern(seed: seed).page($0, zeroEvery: 0) }
        _ = try bytes.withBytes { buffer throws(Errno) in try object.write(buffer, at: pages.lowerBound * basePageSize, .buffered) }
    }

    private static func expectContent(_ object: PackedObject, pages: Range<Int>) throws {
        var bytes = [UInt8](repeating: 0, count: basePageSize)
        for page in pages {
            _ = try bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
            if bytes != PagePattern(seed: seed).page(page, zeroEvery: 0) { Issue.record("page \(page) is not as written") }
        }
    }

    private static func state(_ store: PackedStore, tier: Int) -> String? { store.facts().first { $0.key == "tier.\(tier).state" }?.value }

    @Test func aFullFarTierKeepsThePagesAbove() throws {
        guard let disk = ScratchDisk(sizeBytes: 16 << 20) else { return }
        let first = try ScratchDirectory()
        let id = try #require(StoredObjectID(rawValue: 1))
        do {
            let store = try PackedStore(directories: [first.path, disk.path], options: Self.options())
            let object = try store.create(id)
            // Pages of noise: 24 MiB stored.
            for page in stride(from: 0, to: 6144, by: 256) { try Self.write(object, pages: page..<page + 256) }
            #expect(throws: Errno.noSpace) { try object.sync() }
            #expect(Self.state(store, tier: 1)?.contains("errors") == true)
            #expect(Self.state(store, tier: 0) == "ok")
            try Self.expectContent(object, pages: 0..<6144)
            // Writing goes on, and what is in the full tier is there after reopening too.
            try Self.write(object, pages: 6144..<6400)
            store.close()
        }
        let again = try PackedStore(directories: [first.path, disk.path], options: Self.options())
        try Self.expectContent(try #require(try again.object(id)), pages: 0..<6400)
        again.close()
    }

    @Test func aFarTierThatRefusesKeepsThePagesAboveAndIsTakenBack() throws {
        guard let disk = ScratchDisk(sizeBytes: 64 << 20) else { return }
        let first = try ScratchDirectory()
        let store = try PackedStore(directories: [first.path, disk.path], options: Self.options())
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        try Self.write(object, pages: 0..<300)
        try object.sync()
        try Self.write(object, pages: 300..<600)
        // Nothing can be made in it any more, by root neither: stands in for a device that fails.
        try #require(ScratchDisk.run("chattr +i '\(disk.path)/segments'"))
        defer { _ = ScratchDisk.run("chattr -i '\(disk.path)/segments'") }
        #expect(throws: Errno.notPermitted) { try object.sync() }
        #expect(Self.state(store, tier: 1)?.contains("errors") == true)
        try Self.expectContent(object, pages: 0..<600)
        try Self.write(object, pages: 0..<10)
        try #require(ScratchDisk.run("chattr -i '\(disk.path)/segments'"))
        // It comes back, and nobody had to do anything.
        try object.sync()
        try Self.expectContent(object, pages: 0..<600)
        store.close()
    }

    /// A device that loses its upper part answers EIO there, long after the file system took what was written.
    @Test func aDeviceThatFailsKeepsThePagesAboveAndIsTakenBack() throws {
        guard let disk = ScratchDisk(sizeBytes: 64 << 20) else { return }
        let first = try ScratchDirectory()
        let store = try PackedStore(directories: [first.path, disk.path], options: Self.options())
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        // Pages of noise: 24 MiB stored.
        for page in stride(from: 0, to: 6144, by: 256) { try Self.write(object, pages: page..<page + 256) }
        try #require(disk.resize(16 << 20))
        var failures: [Errno] = []
        do throws(Errno) { try object.sync() } catch { failures.append(error) }
        #expect(failures == [.ioError])
        #expect(Self.state(store, tier: 1)?.contains("errors") == true)
        #expect(Self.state(store, tier: 0) == "ok")
        try Self.expectContent(object, pages: 0..<6144)
        try Self.write(object, pages: 6144..<6400)
        // The device is mended. What failed may be met again by the next sync, not for ever.
        try #require(disk.resize(64 << 20))
        var isBelow = false
        for _ in 0..<20 where !isBelow {
            do throws(Errno) {
                try object.sync()
                isBelow = true
            } catch { #expect(error == .ioError) }
        }
        #expect(isBelow, "the mended device is not taken back")
        #expect(try object.pagesByTier() == [0, 6400])
        try Self.expectContent(object, pages: 0..<6400)

        // It fails for good, with pages in it: those are errors, the others are what they were, and nothing reads as zeros.
        try #require(disk.resize(16 << 20) && disk.forgetCache())
        let lost = try Self.errors(object, pages: 0..<6400)
        #expect(lost > 0 && lost < 6400, "\(lost) of 6400 pages")
        #expect(Self.state(store, tier: 1)?.contains("errors") == true)
        try #require(disk.resize(64 << 20) && disk.forgetCache())
        #expect(try Self.errors(object, pages: 0..<6400) == lost, "what came back as zeros is an error too")
        try Self.write(object, pages: 0..<10)
        try Self.expectContent(object, pages: 0..<10)
        store.close()
    }

    /// How many pages can't be read; the others must be as written.
    private static func errors(_ object: PackedObject, pages: Range<Int>) throws -> Int {
        var bytes = [UInt8](repeating: 0, count: basePageSize)
        var count = 0
        for page in pages {
            do throws(Errno) {
                _ = try bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
                if bytes != PagePattern(seed: seed).page(page, zeroEvery: 0) { Issue.record("page \(page) is not as written") }
            } catch {
                if error != .ioError { Issue.record("page \(page): \(error)") }
                count += 1
            }
        }
        return count
    }

    @Test func aSecondTierOnCompressedMemoryIsRefusedWithTheReason() throws {
        guard let disk = ScratchDisk(compressedMemoryBytes: 64 << 20) else { return }
        let first = try ScratchDirectory()
        do throws(StoreError) {
            _ = try PackedStore(directories: [first.path, disk.path], options: Self.options())
            Issue.record("zram was taken for a disk")
        } catch {
            #expect(error.code == .unsupported && error.message.contains("zram"), "\(error.message)")
        }
    }

    /// While anybody writes, the cleaner gives way; when nobody does, it goes on.
    @Test func theCleanerStandsBackWhileSomebodyWrites() throws {
        let scratch = try ScratchDirectory()
        let store = try PackedStore(directories: [scratch.path], options: Self.options())
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        try Self.write(object, pages: 0..<600)
        for page in 0..<600 where page % 3 != 0 { try object.punch(at: page * basePageSize, length: basePageSize) }
        store.core.pool.writers.add(1, ordering: .relaxed)
        #expect(!store.cleanOneSegment())
        #expect(store.core.counters.cleanedSegments.load(ordering: .relaxed) == 0)
        store.core.pool.writers.subtract(1, ordering: .relaxed)
        #expect(store.cleanOneSegment())
        #expect(store.core.counters.cleanedSegments.load(ordering: .relaxed) == 1)
        store.close()
    }
}

/// A small ext4 on a device of its own; gone with its owner. nil, and told so, where the machine can't make one.
private final class ScratchDisk {
    let path: String
    private let directory: ScratchDirectory
    private var zram: String?

    static func run(_ command: String) -> Bool {
        guard let child = try? ChildProcess("/bin/sh", ["-c", "PATH=/sbin:/usr/sbin:/bin:/usr/bin; \(command)"], environment: []) else {
            return false
        }
        return (try? child.wait()) == .exited(0)
    }

    init?(sizeBytes: Int) {
        guard Machine.isRoot, let directory = try? ScratchDirectory() else {
            Machine.lacks("root", so: "far tiers that fill up or fail are not tested")
            return nil
        }
        self.directory = directory
        path = directory.file("disk")
        let image = directory.file("image")
        guard
            Self.run(
                "mkdir '\(path)' && truncate -s \(sizeBytes) '\(image)' && mke2fs -q -F -t ext4 -O ^has_journal '\(image)' && mount -o loop '\(image)' '\(path)' && rmdir '\(path)/lost+found'"
            )
        else {
            Machine.lacks("loop devices or mke2fs", so: "far tiers that fill up or fail are not tested")
            return nil
        }
    }

    /// Takes bytes away from the device at its end, or gives them back, empty.
    func resize(_ bytes: Int) -> Bool {
        let image = directory.file("image")
        return Self.run("truncate -s \(bytes) '\(image)' && losetup -c \"$(findmnt -no SOURCE '\(path)')\"")
    }

    /// What is read next comes from the device.
    func forgetCache() -> Bool {
        Self.run("sync -f '\(path)'; for f in '\(path)'/segments/*; do dd if=\"$f\" iflag=nocache count=0 2>&-; done; true")
    }

    init?(compressedMemoryBytes: Int) {
        guard Machine.isRoot, let directory = try? ScratchDirectory(), let text = try? Files.contents(of: "/sys/class/zram-control/hot_add")
        else {
            Machine.lacks("root or zram", so: "the refusal of zram as a second tier is not tested")
            return nil
        }
        self.directory = directory
        path = directory.file("disk")
        let number = String(decoding: text.filter { $0 >= 0x30 && $0 <= 0x39 }, as: UTF8.self)
        zram = number
        guard
            Self.run(
                "mkdir '\(path)' && echo \(compressedMemoryBytes) > /sys/block/zram\(number)/disksize && mke2fs -q -F -t ext4 /dev/zram\(number) && mount /dev/zram\(number) '\(path)' && rmdir '\(path)/lost+found'"
            )
        else {
            Machine.lacks("a zram device that can be mounted", so: "the refusal of zram as a second tier is not tested")
            return nil
        }
    }

    deinit {
        _ = Self.run("umount -l '\(path)'")
        if let zram { _ = Self.run("echo 1 > /sys/block/zram\(zram)/reset; echo \(zram) > /sys/class/zram-control/hot_remove") }
    }
}
