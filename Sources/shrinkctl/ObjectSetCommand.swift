import ArgumentParser
import ShrinkClient
import ShrinkProtocol

/// yes or no, as a word: a flag could not say no.
enum YesNo: String, ExpressibleByArgument, CaseIterable {
    case yes
    case no
}

struct ObjectSetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Say what may become of an object's content and memory.",
        discussion: "Content that was given up stays given up: the next pin says so, whatever is set here.")

    @Argument(help: "The object's id.") var id: Int
    @Option(help: ArgumentHelp("May its content be given up when memory is short?", valueName: "yes|no")) var purgeable: YesNo?
    @Option(help: ArgumentHelp("Does a device use its memory while it is pinned?", valueName: "yes|no")) var leased: YesNo?
    @OptionGroup var global: GlobalOptions

    func validate() throws {
        if purgeable == nil, leased == nil { throw ValidationError("Nothing to set: give --purgeable or --leased.") }
    }

    func run() throws {
        let client = try global.connect()
        var isRetained = true
        if let purgeable {
            isRetained = try perform { () throws(ShrinkdError) in
                try client.call(Methods.setPurgeable, SetPurgeableParameters(objectId: id, purgeable: purgeable == .yes)).retained
            }
        }
        if let leased {
            _ = try perform { () throws(ShrinkdError) in
                try client.call(Methods.setLease, SetLeaseParameters(objectId: id, leased: leased == .yes))
            }
        }
        let object = try perform { () throws(ShrinkdError) in
            try client.call(Methods.getObject, ObjectAddress(objectId: id)).bufferObject
        }
        if global.json { return Console.printJSON(ObjectDocument(object)) }
        if !isRetained { return Console.say("object \(id): its content was given up already; nothing changed") }
        Console.say("object \(id): purgeable \(object.purgeable ? "yes" : "no"), leased \(object.leased ? "yes" : "no")")
    }
}
