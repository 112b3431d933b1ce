import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Every refusal is one line that names the cause and the way out, and an exit status that docs/backup-filesystem.md lists.
@Suite(.serialized) struct BadInputTests {
    private func serve(_ arguments: [String]) throws -> ProgramResult {
        try runProgram(Machine.program("backupfs"), arguments, seconds: 20)
    }

    private func expect(_ result: ProgramResult, status: Int32, mentions words: String..., line: SourceLocation = #_sourceLocation) {
        #expect(result.ending == .exited(status), "\(result.errors)", sourceLocation: line)
        let lines = result.errors.split(separator: "\n").filter { !$0.hasPrefix("notice:") }
        if status != 64 { #expect(lines.count == 1, "\(result.errors)", sourceLocation: line) }
        for word in words { #expect(result.errors.contains(word), "'\(word)' is missing in: \(result.errors)", sourceLocation: line) }
    }

    @Test func wrongUsageIsToldWithTheUsage() throws {
        expect(try serve([]), status: 64, mentions: "mount-point", "USAGE")
        expect(try serve(["/tmp"]), status: 64, mentions: "--store")
        expect(try serve(["/tmp", "--store"]), status: 64)
        expect(try serve(["--nonsense"]), status: 64)
        #expect(try serve(["--help"]).ending == .exited(0))
        let version = try serve(["--version"])
        #expect(version.ending == .exited(0) && version.output.split(separator: ".").count == 3)
    }

    @Test func aStoreThatOthersMayWriteIsRefusedAndASharedTmpfsIsWarnedOf() throws {
        let scratch = try ScratchDirectory()
        let (mount, store) = (scratch.file("mount"), scratch.file("store"))
        try Files.makeDirectory(mount)
        try Files.makeDirectory(store)
        for mode in [0o777, 0o770, 0o702] as [UInt32] {
            try Files.setMode(of: store, mode)
            expect(try serve([mount, "--store", store]), status: 64, mentions: store, "chmod 700")
        }
        // With the sticky bit it is served; here something else is wrong, so that it ends.
        try Files.setMode(of: store, 0o1777)
        try Files.replaceContents(of: store + "/letter", with: [1])
        let warned = try serve([mount, "--store", store])
        #expect(warned.ending == .exited(65) && warned.errors.contains("warning: Others may make files"), "\(warned.errors)")
    }

    @Test func aStoreOfAnotherUserCannotBeWritten() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "a store of another user is not tried") }
        let scratch = try ScratchDirectory()
        try Files.setMode(of: scratch.path, 0o755)
        let (mount, store) = (scratch.file("mount"), scratch.file("store"))
        try Files.makeDirectory(mount, mode: 0o777)
        try Files.makeDirectory(store, mode: 0o700)
        for layout in ["raw", "packed"] {
            let result = try runProgram(
                "/usr/bin/setpriv",
                [
                    "--reuid=65534", "--regid=65534", "--clear-groups", Machine.program("backupfs"), mount, "--store", store, "--layout",
                    layout,
                ])
            expect(result, status: 73, mentions: "no permission", store)
        }
    }

    @Test func anUnusableStoreIsRefusedUntouched() throws {
        let scratch = try ScratchDirectory()
        let (mount, store) = (scratch.file("mount"), scratch.file("store"))
        try Files.makeDirectory(mount)
        expect(try serve([mount, "--store", store]), status: 66, mentions: store, "mkdir")
        try Files.replaceContents(of: store, with: [1])
        expect(try serve([mount, "--store", store]), status: 65, mentions: "not a directory")
        try Files.remove(store)
        try Files.makeDirectory(store)
        try Files.replaceContents(of: store + "/letter", with: [1])
        expect(try serve([mount, "--store", store]), status: 65, mentions: "letter", "empty directory")
        let left = try runProgram("/bin/ls", ["-A", store])
        #expect(left.output == "letter\n")
        try Files.remove(store + "/letter")
        func format(_ text: String) throws { try Files.replaceContents(of: store + "/format", with: Array(text.utf8)) }
        try format("shrinkd page store\nlayout raw\nversion 99\n")
        expect(try serve([mount, "--store", store]), status: 65, mentions: "later version", "99")
        try format("shrinkd page store\nlayout packed\nversion 1\n")
        expect(try serve([mount, "--store", store]), status: 65, mentions: "damaged")
        expect(try serve([mount, "--store", store, "--layout", "raw"]), status: 65, mentions: "packed", "--layout")
        try format("shrinkd page store\nlayout cubes\nversion 1\n")
        expect(try serve([mount, "--store", store]), status: 65, mentions: "cubes", "--layout")
        try format("something else\n")
        expect(try serve([mount, "--store", store]), status: 65, mentions: "not ours")
        try format("shrinkd page store\nlayout raw\nversion 1\n")
        try Files.replaceContents(of: store + "/high-water", with: Array("many\n".utf8))
        expect(try serve([mount, "--store", store]), status: 65, mentions: "high-water")
        #expect(try Mounts.mount(at: mount) == nil)
        withExtendedLifetime(scratch) {}
    }

    @Test func aReadOnlyStoreIsRefused() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "a read-only store is not tested") }
        let scratch = try ScratchDirectory()
        try Files.makeDirectory(scratch.file("mount"))
        let memory = try ScratchMemoryFileSystem(sizeBytes: 1 << 20)
        try withExtendedLifetime((scratch, memory)) {
            #expect(try runProgram("/bin/mount", ["-o", "remount,ro", memory.path]).ending == .exited(0))
            expect(try serve([scratch.file("mount"), "--store", memory.path]), status: 73, mentions: "read-only")
        }
    }

    @Test func aStoreWithCoarseHolesIsRefused() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "a store on huge pages is not tested") }
        let scratch = try ScratchDirectory()
        try withExtendedLifetime(scratch) {
            let (mount, store) = (scratch.file("mount"), scratch.file("store"))
            try Files.makeDirectory(mount)
            try Files.makeDirectory(store)
            do { try Mounts.mount("none", on: store, type: "ramfs", [], options: "mode=700") } catch {
                return Machine.lacks("ramfs", so: "a store without holes is not tested")
            }
            defer { try? Mounts.detach(store) }
            expect(try serve([mount, "--store", store]), status: 69, mentions: "holes", "tmpfs")
        }
    }

    @Test func aSecondServerOnOneStoreIsRefused() throws {
        try withBackupFileSystem { server in
            let scratch = try ScratchDirectory()
            try withExtendedLifetime(scratch) {
                try Files.makeDirectory(scratch.file("mount"))
                expect(try serve([scratch.file("mount"), "--store", server.storeDirectory]), status: 69, mentions: "another server")
            }
            #expect(try server.names("").count == 2)
        }
    }

    @Test func anUnusableMountPointIsRefusedAndNothingIsMountedOverIt() throws {
        let scratch = try ScratchDirectory()
        try withExtendedLifetime(scratch) {
            let store = scratch.file("store")
            try Files.makeDirectory(store)
            let missing = scratch.file("missing")
            expect(try serve([missing, "--store", store]), status: 69, mentions: missing, "mkdir")
            expect(try serve([missing + "/below", "--store", store]), status: 69, mentions: "does not exist")
            expect(try serve(["/", "--store", store]), status: 69, mentions: "must name a directory")
            let file = scratch.file("file")
            try Files.replaceContents(of: file, with: [1])
            expect(try serve([file, "--store", store]), status: 69, mentions: "not a directory")
            let full = scratch.file("full")
            try Files.makeDirectory(full)
            try Files.replaceContents(of: full + "/letter", with: [1])
            expect(try serve([full, "--store", store]), status: 69, mentions: "not empty")
            expect(try serve([store, "--store", store]), status: 69, mentions: "not empty")
            #expect(symlink(full, scratch.file("link")) == 0)
            expect(try serve([scratch.file("link"), "--store", store]), status: 69, mentions: full, "not empty")
        }
        try withBackupFileSystem { server in
            let store = try ScratchDirectory()
            try withExtendedLifetime(store) {
                expect(try serve([server.mountPoint, "--store", store.path]), status: 69, mentions: "another backupfs")
                expect(try serve([server.mountPoint + "/./", "--store", store.path]), status: 69)
                let link = store.path + "-link"
                #expect(symlink(server.mountPoint, link) == 0)
                defer { unlink(link) }
                expect(try serve([link, "--store", store.path]), status: 69, mentions: "another backupfs")
            }
            #expect(try Mounts.all().filter { $0.path == server.mountPoint }.count == 1)
            #expect(try server.names("").count == 2)
        }
        guard Machine.isRoot else { return }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 1 << 20)
        let store = try ScratchDirectory()
        try withExtendedLifetime((memory, store)) {
            expect(try serve([memory.path, "--store", store.path]), status: 69, mentions: "tmpfs")
        }
    }

    @Test func aMountThatDoesNotAnswerIsNotWaitedFor() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "a silent mount is not tested") }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 1 << 20)
        let store = try ScratchDirectory()
        let server = try BackupFileSystemProcess(store: memory.path, keepsMount: true)
        try withExtendedLifetime((memory, store, server)) {
            try server.kill()
            expect(try serve([server.mountPoint, "--store", store.path]), status: 69, mentions: "does not answer", "umount -l")
            try server.startAgain()
            #expect(try runProgram("/bin/ls", [server.mountPoint]).output == "objects\nstats\n")
            #expect(try server.stop() == .exited(0))
        }
    }
}
