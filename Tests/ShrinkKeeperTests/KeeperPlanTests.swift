import Testing

@testable import ShrinkKeeper

@Suite struct KeeperPlanTests {
    private func defaults(root: Bool, _ values: [String: String] = [:]) -> DefaultDirectories {
        DefaultDirectories(isRoot: root, environment: { values[$0] })
    }

    @Test func rootsDefaultsAreTheSystems() throws {
        let plan = try KeeperPlan(runtimeDirectory: nil, stores: [], backup: nil, defaults: defaults(root: true), programs: "/usr/bin")
        #expect(plan.runtimeDirectory == "/run/shrinkd")
        #expect(
            plan.backupfs
                == .init("/usr/bin/backupfs", ["{mount-point}", "--store", "/var/lib/shrinkd/store", "--default-layout", "packed"]))
        #expect(plan.engine == .init("/usr/bin/shrinkd", ["engine", "--runtime-dir", "{runtime-dir}", "--backup", "{mount-point}"]))
    }

    @Test func aUsersDefaultsFollowTheBaseDirectories() throws {
        let all = defaults(root: false, ["XDG_RUNTIME_DIR": "/run/user/1", "XDG_STATE_HOME": "/home/u/state", "HOME": "/home/u"])
        let plan = try KeeperPlan(runtimeDirectory: nil, stores: [], backup: nil, defaults: all, programs: "/p")
        #expect(plan.runtimeDirectory == "/run/user/1/shrinkd")
        #expect(plan.storeDirectories == ["/home/u/state/shrinkd/store"])
        // A relative path counts as not set.
        let relative = defaults(root: false, ["XDG_STATE_HOME": "state", "HOME": "/home/u"])
        #expect(try relative.store() == "/home/u/.local/state/shrinkd/store")
        #expect(throws: KeeperFailure.self) { try relative.runtime() }
    }

    @Test func anExplicitRuntimeDirectoryBringsItsStore() throws {
        let plan = try KeeperPlan(runtimeDirectory: "/r", stores: [], backup: nil, defaults: defaults(root: false), programs: "/p")
        #expect(plan.storeDirectories == ["/r/store"])
        let two = try KeeperPlan(
            runtimeDirectory: "/r", stores: ["/a", "/b"], backup: nil, defaults: defaults(root: false), programs: "/p")
        #expect(two.backupfs?.arguments == ["{mount-point}", "--store", "/a", "--store", "/b", "--default-layout", "packed"])
    }

    @Test func aBackupOfOnesOwnNeedsNoFileServer() throws {
        let plan = try KeeperPlan(runtimeDirectory: "/r", stores: [], backup: "/mnt/far", defaults: defaults(root: false), programs: "/p")
        #expect(plan.backupfs == nil && plan.storeDirectories.isEmpty)
        #expect(plan.engine.arguments.suffix(2) == ["--backup", "/mnt/far"])
        #expect(throws: KeeperFailure.self) {
            try KeeperPlan(runtimeDirectory: "/r", stores: ["/a"], backup: "/b", defaults: defaults(root: false), programs: "/p")
        }
    }

    @Test func whatTheStoreIsToBeGoesToTheFileServer() throws {
        let flags = StorageFlags(layout: "packed", codec: "zstd:3", segment: "8M", age: "60", writeBudget: "20G")
        let plan = try KeeperPlan(
            runtimeDirectory: "/r", stores: ["/a", "/b"], storage: flags, backup: nil, defaults: defaults(root: false), programs: "/p")
        #expect(
            plan.backupfs?.arguments == [
                "{mount-point}", "--store", "/a", "--store", "/b", "--layout", "packed", "--codec", "zstd:3", "--segment", "8M", "--age",
                "60",
                "--write-budget", "20G",
            ])
        let raw = try KeeperPlan(
            runtimeDirectory: "/r", stores: ["/a"], storage: StorageFlags(layout: "raw"), backup: nil, defaults: defaults(root: false),
            programs: "/p")
        #expect(raw.backupfs?.arguments == ["{mount-point}", "--store", "/a", "--layout", "raw"])
        var broken = StorageFlags()
        broken.allowsFaults = true
        let drill = try KeeperPlan(
            runtimeDirectory: "/r", stores: ["/a"], storage: broken, backup: nil, defaults: defaults(root: false), programs: "/p")
        #expect(drill.backupfs?.arguments.last == "--allow-faults")
        #expect(throws: KeeperFailure.self) {
            try KeeperPlan(
                runtimeDirectory: "/r", stores: [], storage: StorageFlags(codec: "lz4"), backup: "/b", defaults: defaults(root: false),
                programs: "/p")
        }
    }
}
