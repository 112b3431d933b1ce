import FoundationEssentials

/// The texts of calls and replies. Built around the encoder's output, so that parameters are encoded once and never parsed again.
enum MessageText {
    static func encode(_ value: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.withoutEscapingSlashes, .sortedKeys]
        return Array(try encoder.encode(value))
    }

    /// A call with its terminator. Parameters `{}` are omitted, as senders should.
    static func call(_ method: String, parameters: [UInt8], flag: CallFlag?) -> [UInt8] {
        var text = Array("{\"method\":\"\(method)\"".utf8)
        append(parameters, to: &text)
        if let flag { text += Array(",\"\(flag.rawValue)\":true".utf8) }
        return text + [UInt8(ascii: "}"), 0]
    }

    static func reply(_ parameters: [UInt8], continues: Bool) -> [UInt8] {
        // `parameters` is always sent here, even if empty: some clients read it without asking.
        var text = Array("{\"parameters\":".utf8) + parameters
        if continues { text += Array(",\"continues\":true".utf8) }
        return text + [UInt8(ascii: "}"), 0]
    }

    static func error(_ error: VarlinkError) -> [UInt8] {
        var text = Array("{\"error\":\"\(error.name)\"".utf8)
        text += Array(",\"parameters\":".utf8) + error.parameters
        return text + [UInt8(ascii: "}"), 0]
    }

    private static func append(_ parameters: [UInt8], to text: inout [UInt8]) {
        if parameters != Array("{}".utf8) { text += Array(",\"parameters\":".utf8) + parameters }
    }
}

/// What a call asks for beyond one reply; at most one of them.
enum CallFlag: String {
    case oneway, more
}

/// Parameters of a method. A name that is not listed is refused with InvalidParameter, as is a member of the wrong type.
public protocol VarlinkParameters: Decodable, Sendable {
    /// The members the method knows, as on the wire.
    static var parameterNames: [String] { get }
}

enum ParameterText {
    /// Decodes checked text; every failure names the parameter at fault.
    static func decode<P: VarlinkParameters>(_ type: P.Type, from text: [UInt8]) throws(VarlinkError) -> P {
        let members: [JSONStructure.Member]
        do { members = try JSONStructure.members(of: text) } catch { throw .invalidParameter("") }
        for member in members where !P.parameterNames.contains(member.name) { throw .invalidParameter(member.name) }
        do {
            return try JSONDecoder().decode(type, from: Data(text))
        } catch DecodingError.keyNotFound(let key, let context) {
            throw .invalidParameter((context.codingPath.first ?? key).stringValue)
        } catch DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context) {
            throw .invalidParameter(context.codingPath.first?.stringValue ?? "")
        } catch DecodingError.dataCorrupted(let context) {
            throw .invalidParameter(context.codingPath.first?.stringValue ?? unfitNumber(type, text, members))
        } catch {
            throw .invalidParameter("")
        }
    }

    /// A number that does not fit its type fails in the decoder before it notes where it is. So every number is tried by itself,
    /// with 0 in the place of all others.
    private static func unfitNumber<P: VarlinkParameters>(_ type: P.Type, _ text: [UInt8], _ members: [JSONStructure.Member]) -> String {
        for suspect in members where suspect.kind == .number {
            var tried = text
            for other in members.reversed() where other.kind == .number && other.name != suspect.name {
                tried.replaceSubrange(other.value, with: [UInt8(ascii: "0")])
            }
            do { _ = try JSONDecoder().decode(type, from: Data(tried)) } catch { return suspect.name }
        }
        return ""
    }

    /// Decodes a reply's parameters, whose unknown members a client ignores.
    static func decodeReply<R: Decodable>(_ type: R.Type, from text: [UInt8]) throws -> R {
        try JSONDecoder().decode(type, from: Data(text))
    }
}
