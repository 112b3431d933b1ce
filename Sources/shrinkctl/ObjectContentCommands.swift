import ArgumentParser
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage

struct ObjectReadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "read", abstract: "Print an object's bytes, or write them to a file. Changes no page's state.",
        discussion: "The bytes are those of one moment only if nobody writes to the object meanwhile.")

    @Argument(help: "The object's id.") var id: Int
    @Option(help: ArgumentHelp("Write to this file instead of standard output.", valueName: "file")) var output: String?
    @OptionGroup var global: GlobalOptions

    func validate() throws {
        if output == nil, global.json { throw ValidationError("--json needs --output, for the bytes would mix with the document.") }
    }

    func run() throws {
        if output == nil, Streams.isTerminal(1) {
            throw CommandFailure(
                "an object's bytes are not for a terminal; give --output FILE, or pipe them to a program", exitCode: 64, name: "usage")
        }
        let client = try global.connect()
        let object = try perform { () throws(ShrinkdError) in
            try client.call(Methods.getObject, ObjectAddress(objectId: id)).bufferObject
        }
        guard let output else { return try copy(object, to: 1, "standard output", client) }
        let file: OwnedDescriptor
        do throws(Errno) { file = try Files.open(output, [.writeOnly, .create], mode: 0o600) } catch {
            throw CommandFailure.output(output, error)
        }
        try copy(object, to: file.number, output, client)
        if global.json {
            Console.printJSON(TransferDocument(id: id, bytes: object.sizeBytes, file: output))
        } else {
            Console.say("\(object.sizeBytes) bytes of object \(id) written to \(output)")
        }
    }

    private func copy(_ object: WireObject, to fd: CInt, _ name: String, _ client: ShrinkdClient) throws(CommandFailure) {
        let progress = ProgressLine()
        defer { progress.clear() }
        var done = 0
        while done < object.sizeBytes {
            let length = min(ReadObjectParameters.lengthLimit, object.sizeBytes - done)
            let bytes = try perform { () throws(ShrinkdError) in try client.read(id, at: done, length: length) }
            // What the file had stays until the first bytes of the new content are here.
            if done == 0, fd != 1 { try? Files.truncate(fd, to: 0) }
            if bytes.isEmpty { throw CommandFailure("object \(id) ended at byte \(done); it was made anew meanwhile", name: "failed") }
            do throws(Errno) { try bytes.withBytes { (buffer) throws(Errno) in try Streams.write(fd, buffer) } } catch {
                throw .transfer("writing to \(name)", error)
            }
            done += bytes.count
            if fd != 1 { progress.show("\(Size.readable(done)) of \(Size.readable(object.sizeBytes))") }
        }
    }
}

struct ObjectWriteCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "write", abstract: "Replace an object's content by a file's; what is left of the object is set to zero.")

    @Argument(help: "The object's id.") var id: Int
    @Option(help: ArgumentHelp("The file.", valueName: "file")) var from: String
    @OptionGroup var global: GlobalOptions

    func run() throws {
        let source = try ContentSource(from)
        let client = try global.connect()
        let address = ObjectAddress(objectId: id)
        let object = try perform { () throws(ShrinkdError) in try client.call(Methods.getObject, address).bufferObject }
        try source.checkFits(object.sizeBytes, "object \(id)")
        let pinned = try perform { () throws(ShrinkdError) in try client.call(Methods.pin, address).bufferObject }
        let bytes = try source.copy(into: pinned, isNew: false, client)
        _ = try perform { () throws(ShrinkdError) in try client.call(Methods.unpin, address) }
        if global.json { return Console.printJSON(TransferDocument(id: id, bytes: bytes, file: from)) }
        Console.say("\(bytes) bytes of \(from) written to object \(id)")
    }
}
