import ArgumentParser
import ShrinkClient
import ShrinkProtocol

struct ObjectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "object", abstract: "Make, list, show, read, write, set and destroy buffer objects.",
        subcommands: [
            ObjectCreateCommand.self, ObjectListCommand.self, ObjectShowCommand.self, ObjectReadCommand.self, ObjectWriteCommand.self,
            ObjectSetCommand.self, ObjectDestroyCommand.self,
        ])
}

struct ObjectCreateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Make an object of zeros, or of a file's content. It stays, unpinned, until it is destroyed.")

    @OptionGroup var pool: PoolArgument
    @Argument(help: "The object's name.") var name: String
    @Option(help: ArgumentHelp("The object's size; with --from, the file's size unless given.", valueName: "size")) var size: Size?
    @Option(help: ArgumentHelp("0 goes out first, 3 last.", valueName: "0..3")) var priority = 2
    @Option(help: ArgumentHelp("Fill the object with this file's bytes; what is left of it stays zero.", valueName: "file")) var from:
        String?
    @Flag(help: "Its content may be given up when memory is short.") var purgeable = false
    @Flag(help: "A device uses its memory; its users are asked before its pages go.") var leased = false
    @OptionGroup var global: GlobalOptions

    func validate() throws {
        if size == nil, from == nil { throw ValidationError("Missing expected argument '--size <size>'") }
        if !(0...3).contains(priority) { throw ValidationError("The priority is 0, 1, 2 or 3.") }
    }

    func run() throws {
        // The file is looked at first: nothing is made for one that cannot be read or does not fit.
        let source = try from.map { path throws(CommandFailure) in try ContentSource(path) }
        guard let bytes = size?.bytes ?? source?.knownSize else {
            throw CommandFailure("\(from ?? "") is no plain file, so its size is not known; add --size", exitCode: 64, name: "usage")
        }
        try source?.checkFits(bytes, "the object")
        let client = try global.connect()
        let object = try perform { () throws(ShrinkdError) in
            try client.call(
                Methods.createObject,
                CreateObjectParameters(
                    pool: pool.address, objectName: name, sizeBytes: bytes, priority: priority, purgeable: purgeable ? true : nil,
                    leased: leased ? true : nil)
            ).bufferObject
        }
        let address = ObjectAddress(objectId: object.objectId)
        if let source {
            do throws(CommandFailure) { _ = try source.copy(into: object, isNew: true, client) } catch {
                // Half an object is of no use to anybody.
                _ = try? client.call(Methods.destroyObject, address)
                throw error
            }
        }
        // Unpinned before this ends: the end of the connection would do it too, but not before the next command starts.
        _ = try perform { () throws(ShrinkdError) in try client.call(Methods.unpin, address) }
        let made = try perform { () throws(ShrinkdError) in try client.call(Methods.getObject, address).bufferObject }
        if global.json { return Console.printJSON(ObjectDocument(made)) }
        Console.say(
            "object \(made.objectId) (\(made.objectName)) of \(made.sizeBytes) bytes, \(Size.readable(made.roundedBytes)) of pool \(made.poolName)"
        )
    }
}

struct ObjectListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List the objects that you see.")

    @Argument(help: ArgumentHelp("Only of this pool.", valueName: "pool")) var only: String?
    @Option(help: ArgumentHelp("The same.", valueName: "name")) var pool: String?
    @Option(help: ArgumentHelp("Whose pool, if not yours (root only).", valueName: "uid")) var owner: Int?
    @OptionGroup var global: GlobalOptions

    func validate() throws {
        if owner != nil, pool == nil, only == nil { throw ValidationError("--owner needs a pool.") }
        if pool != nil, only != nil, pool != only { throw ValidationError("Two pools: name one.") }
    }

    func run() throws {
        let client = try global.connect()
        var objects: [WireObject] = []
        let parameters = ListObjectsParameters(pool: (only ?? pool).map { PoolAddress(name: $0, ownerUid: owner) })
        try perform { () throws(ShrinkdError) in
            try client.series(Methods.listObjects, parameters) { reply, _ in
                objects += reply.bufferObjects
                return .proceed
            }
        }
        if global.json { return Console.printJSON(ObjectListDocument(objects: objects.map { ObjectDocument($0) })) }
        var table = Table([
            ("ID", .right), ("NAME", .left), ("POOL", .left), ("OWNER", .right), ("SIZE", .right), ("PRIORITY", .right), ("PINS", .right),
            ("RESIDENT", .right), ("ZERO", .right), ("BACKED UP", .right), ("EMPTY", .right),
        ])
        for object in objects {
            table.add([
                "\(object.objectId)", object.objectName, object.poolName, "\(object.ownerUid)", Size.readable(object.sizeBytes),
                "\(object.priority)", "\(object.pinCount)", "\(object.pages.resident)", "\(object.pages.zero)", "\(object.pages.backedUp)",
                "\(object.pages.empty)",
            ])
        }
        Console.say(table.text)
    }
}

struct ObjectShowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Describe one object.")

    @Argument(help: "The object's id.") var id: Int
    @OptionGroup var global: GlobalOptions

    func run() throws {
        let client = try global.connect()
        let object = try perform { () throws(ShrinkdError) in
            try client.call(Methods.getObject, ObjectAddress(objectId: id)).bufferObject
        }
        if global.json { return Console.printJSON(ObjectDocument(object)) }
        Console.say("object \(object.objectId): \(object.objectName)")
        Console.say("pool: \(object.poolName) (\(object.poolId)), owner uid \(object.ownerUid)")
        Console.say(
            "size: \(object.sizeBytes) bytes, \(object.roundedBytes) in whole pages, at byte \(object.offsetBytes) of the pool's memory")
        Console.say("priority: \(object.priority), pins: \(object.pinCount)")
        if object.purged {
            Console.say("content: given up; reads as zeros when it is pinned next")
        } else if object.purgeable {
            Console.say("content: purgeable")
        }
        if object.leased { Console.say("leased: its users are asked before its pages go") }
        let pages = object.pages
        Console.say("pages: \(pages.resident) resident, \(pages.zero) zero, \(pages.backedUp) backed up, \(pages.empty) empty")
    }
}

struct ObjectDestroyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "destroy", abstract: "Destroy an object and its content. Refused while it is pinned.")

    @Argument(help: "The object's id.") var id: Int
    @OptionGroup var global: GlobalOptions

    func run() throws {
        let client = try global.connect()
        _ = try perform { () throws(ShrinkdError) in try client.call(Methods.destroyObject, ObjectAddress(objectId: id)) }
        if global.json { return Console.printJSON(DestroyedDocument(destroyed: "object", id: id)) }
        Console.say("object \(id) destroyed")
    }
}
