// swift-tools-version: 6.3
import PackageDescription

let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    .treatAllWarnings(as: .error),
]

let system: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")

func room(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: dependencies, swiftSettings: strict)
}

func program(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .executableTarget(name: name, dependencies: dependencies, swiftSettings: strict)
}

let package = Package(
    name: "shrinkd",
    products: [
        // For programs that hold their own pools (docs/embedding.md). ShrinkLinux has the types of its signatures.
        .library(name: "ShrinkEngine", targets: ["ShrinkEngine"]),
        .library(name: "ShrinkLinux", targets: ["ShrinkLinux"]),
        // For programs that use a daemon's pools (docs/clients.md). ShrinkProtocol has the types of its signatures.
        .library(name: "ShrinkClient", targets: ["ShrinkClient"]),
        .library(name: "ShrinkProtocol", targets: ["ShrinkProtocol"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.0"),
    ],
    targets: [
        // Header-only views of the C libraries.
        .systemLibrary(name: "CShrinkLinux"),
        // The header of libshrinkd, which ShrinkLibrary implements.
        .systemLibrary(name: "CShrinkd"),
        .systemLibrary(name: "CFuse3", pkgConfig: "fuse3", providers: [.apt(["libfuse3-dev", "fuse3"])]),
        .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
        .systemLibrary(name: "CTouchFloor"),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),

        // Rooms, lower ones first. An arrow points down only.
        room("ShrinkLinux", ["CShrinkLinux", system]),
        room("ShrinkProtocol", []),
        room("ServiceSupport", ["ShrinkLinux", system, logging]),
        room("Varlink", ["ShrinkLinux", system]),
        room("PageStore", ["ShrinkLinux", "CLZ4", "CZstd", system]),
        room("ShrinkClient", ["ShrinkLinux", "ShrinkProtocol", "Varlink", system]),
        // libshrinkd: .ci/library links it, for SwiftPM links no dynamic library with the static standard library.
        room("ShrinkLibrary", ["CShrinkd", "ShrinkClient", "ShrinkLinux"]),
        room("BackupFileSystem", ["PageStore", "ShrinkLinux", "CFuse3", system, logging]),
        room("ShrinkEngine", ["ShrinkLinux", "ShrinkProtocol", logging, system]),
        room("ShrinkPressure", ["ShrinkLinux", system]),
        room(
            "ShrinkControl",
            ["ServiceSupport", "ShrinkEngine", "ShrinkPressure", "ShrinkLinux", "ShrinkProtocol", "Varlink", system, logging]),
        room("ShrinkKeeper", ["ServiceSupport", "ShrinkLinux", system, logging]),

        // Programs: they only wire.
        program("backupfs", ["BackupFileSystem", "PageStore", "ServiceSupport", "ShrinkLinux", system, logging, arguments]),
        program(
            "shrinkd",
            [
                "ServiceSupport", "ShrinkControl", "ShrinkEngine", "ShrinkKeeper", "ShrinkLinux", "ShrinkPressure", "ShrinkProtocol",
                "Varlink",
                system, logging,
                arguments,
            ]),
        program(
            "shrinkbench",
            [
                "CTouchFloor", "ShrinkClient", "ShrinkControl", "ShrinkEngine", "ShrinkLinux", "ShrinkProtocol", "Varlink", arguments,
                logging, system,
            ]),
        program("shrinkctl", ["ServiceSupport", "ShrinkClient", "ShrinkLinux", "ShrinkProtocol", system, arguments]),

        // Tests, one target a room.
        .target(
            name: "TestSupport", dependencies: ["ServiceSupport", "ShrinkLinux", system], path: "Tests/TestSupport", swiftSettings: strict),
        tests("ShrinkLinuxTests", ["CShrinkLinux", "ShrinkLinux", "TestSupport", system]),
        tests("ShrinkProtocolTests", ["ShrinkProtocol"]),
        tests(
            "BackupFileSystemTests",
            ["BackupFileSystem", "backupfs", "PageStore", "ServiceSupport", "ShrinkLinux", "TestSupport", system, logging]),
        tests("ServiceSupportTests", ["ServiceSupport", "ShrinkLinux", "TestSupport", system, logging]),
        tests("VarlinkTests", ["Varlink", "ShrinkLinux", "TestSupport", system]),
        tests("PageStoreTests", ["PageStore", "PackedWorkload", "packed-crash", "ShrinkLinux", "TestSupport", system]),
        tests("ShrinkPressureTests", ["ShrinkLinux", "ShrinkPressure", "TestSupport", system]),
        tests(
            "ShrinkEngineTests",
            [
                "ShrinkClient", "ShrinkEngine", logging, "ShrinkLinux", "ShrinkProtocol", "TestSupport", "touch-trial", "allocation-trial",
                system,
            ]),
        // An engine that serves another process's memory and dies at a given place; only the tests start it.
        .executableTarget(
            name: "touch-trial", dependencies: ["ShrinkEngine", "ShrinkLinux", "TestSupport", logging], path: "Tests/TouchTrial",
            swiftSettings: strict),
        // An engine in a program that counts how often it asks for memory; only the tests start it.
        .target(name: "AllocationCount", path: "Tests/AllocationCount"),
        .executableTarget(
            name: "allocation-trial", dependencies: ["AllocationCount", "ShrinkEngine", "ShrinkLinux", logging, system],
            path: "Tests/AllocationTrial", swiftSettings: strict),
        tests(
            "ShrinkControlTests",
            [
                "ShrinkClient", "ShrinkLibrary", "client-example", "ShrinkControl", "ShrinkEngine", "ShrinkLinux", "ShrinkProtocol",
                "TestSupport", "Varlink", logging, system,
            ]),
        // A keeper with parts that misbehave on request; only the tests start it.
        .executableTarget(
            name: "keepertrial", dependencies: ["ServiceSupport", "ShrinkKeeper", "ShrinkLinux", system, logging],
            path: "Tests/KeeperTrial", swiftSettings: strict),
        tests(
            "ShrinkKeeperTests",
            ["ServiceSupport", "ShrinkKeeper", "ShrinkLinux", "TestSupport", "keepertrial", "shrinkd", system, logging]),
        tests(
            "EndToEndTests",
            [
                "PageStore", "ServiceSupport", "ShrinkClient", "ShrinkEngine", "ShrinkLinux", "ShrinkProtocol", "TestSupport", "Varlink",
                "backupfs",
                "shrinkctl",
                "shrinkd", "survivor", system, "touch-trial",
            ]),
        // A client that is right to the end whatever is killed under it.
        .executableTarget(
            name: "survivor", dependencies: ["ShrinkClient", "ShrinkLinux", "ShrinkProtocol", "TestSupport", system],
            path: "Tests/Survivor", swiftSettings: strict),
        tests("SystemdTests", ["ShrinkLinux", "TestSupport", "keepertrial", "survivor", system]),
        // docs/clients.md's program in Swift.
        .executableTarget(
            name: "client-example", dependencies: ["ShrinkClient"], path: "Tests/ClientExample", swiftSettings: strict),
        // A workload for the packed store: done by a program that is killed, and by one that measures.
        .target(
            name: "PackedWorkload", dependencies: ["PageStore", "ShrinkLinux", "TestSupport", system], path: "Tests/PackedWorkload",
            swiftSettings: strict),
        .executableTarget(
            name: "packed-crash", dependencies: ["PackedWorkload", "PageStore", "ShrinkLinux", system], path: "Tests/PackedCrash",
            swiftSettings: strict),
        .executableTarget(
            name: "packed-bench", dependencies: ["PageStore", "ShrinkLinux", "CLZ4", system], path: "Tests/PackedBench",
            swiftSettings: strict),
    ]
)
