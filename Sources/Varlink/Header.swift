/// Why a message is no call or no reply. Every case closes the connection (UAPI.20 "Varlink", section on messages).
enum HeaderFault: Error, Equatable {
    case json(JSONFault)
    case unknownMember(String)
    case mistypedMember(String)
    case missingMethod
    case contradictoryFlags
}

/// The outer object of a call, its parameters still as text.
struct CallHeader: Sendable {
    var method = ""
    var parameters: [UInt8] = Array("{}".utf8)
    var oneway = false
    var more = false
    var upgrade = false

    init(parsing bytes: [UInt8]) throws(HeaderFault) {
        for member in try checkedMembers(bytes) {
            switch (member.name, member.kind) {
            case ("method", .string): method = string(bytes[member.value])
            case ("parameters", .object): parameters = Array(bytes[member.value])
            // Null is the same as absent.
            case ("parameters", .null), ("oneway", .null), ("more", .null), ("upgrade", .null): break
            case ("oneway", .bool): oneway = isTrue(bytes, member)
            case ("more", .bool): more = isTrue(bytes, member)
            case ("upgrade", .bool): upgrade = isTrue(bytes, member)
            case ("method", _), ("parameters", _), ("oneway", _), ("more", _), ("upgrade", _): throw .mistypedMember(member.name)
            default: try refuseUnlessVendors(member.name)
            }
        }
        if method.isEmpty { throw .missingMethod }
        if [oneway, more, upgrade].count(where: { $0 }) > 1 { throw .contradictoryFlags }
    }

    /// The interface part of the method's full name, "" where there is none.
    var interface: String { method.lastIndex(of: ".").map { String(method[..<$0]) } ?? "" }
    /// The member part.
    var member: String { method.lastIndex(of: ".").map { String(method[method.index(after: $0)...]) } ?? method }
}

/// The outer object of a reply.
struct ReplyHeader {
    var parameters: [UInt8] = Array("{}".utf8)
    var continues = false
    var error: String?

    init(parsing bytes: [UInt8]) throws(HeaderFault) {
        for member in try checkedMembers(bytes) {
            switch (member.name, member.kind) {
            case ("parameters", .object): parameters = Array(bytes[member.value])
            case ("parameters", .null), ("continues", .null), ("error", .null): break
            case ("continues", .bool): continues = isTrue(bytes, member)
            case ("error", .string): error = string(bytes[member.value])
            case ("parameters", _), ("continues", _), ("error", _): throw .mistypedMember(member.name)
            default: try refuseUnlessVendors(member.name)
            }
        }
        if error != nil, continues { throw .contradictoryFlags }
    }
}

private func checkedMembers(_ bytes: [UInt8]) throws(HeaderFault) -> [JSONStructure.Member] {
    do { return try JSONStructure.members(of: bytes) } catch { throw .json(error) }
}

/// Vendors put their members under a name with a dot; those are ignored, all others are known or wrong.
private func refuseUnlessVendors(_ name: String) throws(HeaderFault) {
    if !name.utf8.contains(UInt8(ascii: ".")) { throw .unknownMember(name) }
}

private func isTrue(_ bytes: [UInt8], _ member: JSONStructure.Member) -> Bool { bytes[member.value.lowerBound] == UInt8(ascii: "t") }

/// A method's or error's name. It is there: the message was read once as a whole.
private func string(_ quoted: ArraySlice<UInt8>) -> String { JSONStructure.string(quoted) ?? "" }
