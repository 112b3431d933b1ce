import ServiceSupport
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage

// Gates lie with the starter as `gates-0`, the engine's directory of them, and `gates-ID` for each client; a note of each client has the token
// of its session. Pins in the words hold while no engine lives, for nobody moves pages then, and the next engine reads them before it does.
extension Survival {
    private static let gatesName = "gates-"
    private static let directoryName = "gates-0"
    private static let noteKind = ParkedNotes.Kind(rawValue: 0x6574_6167)
    private static let noteVersion: UInt8 = 1

    /// Gives the engine the gates that the last one had; after its pools.
    func takeOverGates(_ engine: Engine) throws(SurvivalError) {
        let ids = descriptors.waitingNames(prefix: Self.gatesName).compactMap { UInt32($0.dropFirst(Self.gatesName.count)) }.filter {
            $0 > 0
        }
        guard let directory = descriptors.take(Self.directoryName) else {
            // Nobody was told of gates before the directory was kept.
            for id in ids { forgetGates(GateClientID(rawValue: id)) }
            return
        }
        var files: [(id: GateClientID, file: SharedDescriptor)] = []
        for id in ids.sorted() {
            if let file = descriptors.take(Self.gatesName + "\(id)") { files.append((GateClientID(rawValue: id), file)) }
        }
        do {
            let adopted = Set(try engine.adoptGates(directory: try directory.duplicate(), clients: files))
            for (id, _) in files where !adopted.contains(id) { forgetGates(id) }
        } catch {
            throw SurvivalError("the gates of the last engine's clients cannot be taken over: \(error)")
        }
    }

    /// Leaves a new client's gates with the starter, and which session they belong to. On return a killed engine loses none of their pins.
    func keepGates(_ client: GateClientID, of engine: Engine, token: SessionToken) throws(ControlError) {
        let isFirst = !holdsGateDirectory
        let count = isFirst ? 2 : 1
        do throws(ParkedDescriptors.Full) { try descriptors.reserve(count) } catch { throw .service(.limitReached, "\(error)") }
        guard let files = engine.persistentGates(), let file = files.clients.first(where: { $0.id == client })?.file,
            notes.keep(Self.noteKind, UInt64(client.rawValue), Self.content(token))
        else {
            descriptors.cancel(count)
            throw .service(.limitReached, "there is no room to keep another client's gates over a restart; close a connection")
        }
        var parked = [(name: Self.gatesName + "\(client.rawValue)", number: file.number)]
        if isFirst { parked.append((Self.directoryName, files.directory.number)) }
        do throws(Errno) { try descriptors.park(parked) } catch {
            notes.remove(Self.noteKind, UInt64(client.rawValue))
            throw .service(.systemFailure, "the starter does not take the gates to keep them over a restart (\(error)); see its log")
        }
    }

    /// A client is gone.
    func forgetGates(_ client: GateClientID) {
        notes.remove(Self.noteKind, UInt64(client.rawValue))
        // A descriptor too many with the starter does no harm: the directory does not know it any more.
        try? descriptors.forget(Self.gatesName + "\(client.rawValue)")
    }

    /// Clients of the last engine by the session that they belong to.
    func gatesByToken() -> [SessionToken: GateClientID] {
        var found: [SessionToken: GateClientID] = [:]
        for (number, content) in notes.all(Self.noteKind) {
            guard let token = Self.token(content), let id = UInt32(exactly: number) else { continue }
            found[token] = GateClientID(rawValue: id)
        }
        return found
    }

    private static func content(_ token: SessionToken) -> [UInt8] { [noteVersion] + Array(token.text.utf8) }

    private static func token(_ content: [UInt8]) -> SessionToken? {
        content.first == noteVersion ? SessionToken(text: String(decoding: content.dropFirst(), as: UTF8.self)) : nil
    }

    private var holdsGateDirectory: Bool { descriptors.holds(Self.directoryName) }
}
