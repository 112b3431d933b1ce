import ArgumentParser
import ShrinkClient
import ShrinkProtocol

struct PoolCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pool", abstract: "Make, list and destroy pools.",
        subcommands: [PoolCreateCommand.self, PoolListCommand.self, PoolDestroyCommand.self])
}

struct PoolCreateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "create", abstract: "Make a pool.")

    @Argument(help: "The pool's name, unique for your uid.") var name: String
    @Option(help: ArgumentHelp("The pool's memory, in whole pages of 4096 bytes: 64M for example.", valueName: "size")) var size: Size
    @Flag(help: "Of huge pages of 2 MiB, which the machine has set aside (sysctl vm.nr_hugepages); the size is a multiple of them.")
    var huge = false
    @Option(help: ArgumentHelp("Objects that it may have.", valueName: "number")) var objectLimit: Int?
    @Option(help: ArgumentHelp("What it may have in the backup, as bytes in memory.", valueName: "size")) var backupLimit: Size?
    @OptionGroup var global: GlobalOptions

    func run() throws {
        let client = try global.connect()
        let pool = try perform { () throws(ShrinkdError) in
            try client.call(
                Methods.createPool,
                CreatePoolParameters(
                    poolName: name, sizeBytes: size.bytes, huge: huge ? true : nil, objectLimit: objectLimit,
                    backedUpLimitBytes: backupLimit?.bytes)
            ).pool
        }
        if global.json { return Console.printJSON(PoolDocument(pool)) }
        Console.say(
            "pool \(pool.poolName) (\(pool.poolId)) of \(Size.readable(pool.sizeBytes))\(pool.pageBytes == 2 << 20 ? " in huge pages of 2 MiB" : "")"
        )
    }
}

struct PoolListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List the pools that you see.")

    @OptionGroup var global: GlobalOptions

    func run() throws {
        let client = try global.connect()
        var pools: [WirePool] = []
        try perform { () throws(ShrinkdError) in
            try client.series(Methods.listPools, ListPoolsParameters()) { reply, _ in
                pools += reply.pools
                return .proceed
            }
        }
        if global.json { return Console.printJSON(PoolListDocument(pools: pools.map { PoolDocument($0) })) }
        var table = Table([
            ("ID", .right), ("NAME", .left), ("OWNER", .right), ("PAGE", .right), ("SIZE", .right), ("FREE", .right), ("MEMORY", .right),
            ("OBJECTS", .right),
            ("RESIDENT", .right), ("ZERO", .right), ("BACKED UP", .right), ("EMPTY", .right),
        ])
        for pool in pools {
            table.add([
                "\(pool.poolId)", pool.poolName, "\(pool.ownerUid)", Size.readable(pool.pageBytes ?? 4096), Size.readable(pool.sizeBytes),
                Size.readable(pool.freeBytes),
                Size.readable(pool.allocatedBytes), "\(pool.objectCount)", "\(pool.pages.resident)", "\(pool.pages.zero)",
                "\(pool.pages.backedUp)", "\(pool.pages.empty)",
            ])
        }
        Console.say(table.text)
    }
}

/// A pool on the command line.
struct PoolArgument: ParsableArguments {
    @Argument(help: "The pool's name.") var pool: String
    @Option(help: ArgumentHelp("Whose pool, if not yours (root only).", valueName: "uid")) var owner: Int?

    var address: PoolAddress { PoolAddress(name: pool, ownerUid: owner) }
}

struct PoolDestroyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "destroy", abstract: "Destroy a pool, its objects and their content. Refused while one is pinned.")

    @OptionGroup var pool: PoolArgument
    @OptionGroup var global: GlobalOptions

    func run() throws {
        let client = try global.connect()
        let opened = try perform { () throws(ShrinkdError) in try client.call(Methods.openPool, pool.address).pool }
        _ = try perform { () throws(ShrinkdError) in try client.call(Methods.destroyPool, PoolAddress(id: opened.poolId)) }
        if global.json { return Console.printJSON(DestroyedDocument(destroyed: "pool", id: opened.poolId)) }
        Console.say("pool \(opened.poolName) (\(opened.poolId)) destroyed")
    }
}
