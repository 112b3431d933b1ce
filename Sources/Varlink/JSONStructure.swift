/// What is wrong with a text that should be one JSON object, and where (byte offset).
struct JSONFault: Error, Equatable {
    enum Kind: Equatable {
        case notUTF8, notAnObject, syntax, tooDeep, duplicateMember(String)
    }

    var kind: Kind
    var offset: Int
}

/// The strict reading of JSON that precedes `JSONDecoder`, which accepts more than the wire may carry: the first of two equal members,
/// any depth, lone surrogates. Here a text is one object of RFC 8259 in valid UTF-8, without equal member names in any object, at most
/// `depthLimit` levels deep; everything else is refused. The values themselves are left to the decoder.
struct JSONStructure {
    enum Kind { case object, array, string, number, bool, null }

    /// A member of the outermost object: its name, and where its value lies in the text.
    struct Member {
        var name: String
        var kind: Kind
        var value: Range<Int>
    }

    static let depthLimit = 32

    private let bytes: [UInt8]
    private var at = 0
    private var outermost: [Member] = []

    /// The members of the outermost object, in order.
    static func members(of bytes: [UInt8]) throws(JSONFault) -> [Member] {
        guard String(validating: bytes, as: UTF8.self) != nil else { throw JSONFault(kind: .notUTF8, offset: 0) }
        var structure = JSONStructure(bytes)
        structure.skipSpace()
        guard structure.peek == UInt8(ascii: "{") else { throw JSONFault(kind: .notAnObject, offset: structure.at) }
        try structure.object(depth: 1)
        structure.skipSpace()
        guard structure.at == bytes.count else { throw structure.fault() }
        return structure.outermost
    }

    /// What a string between its quotes means; nil if it is not one.
    static func string(_ quoted: ArraySlice<UInt8>) -> String? {
        var structure = JSONStructure(Array(quoted))
        return try? structure.string()
    }

    private init(_ bytes: [UInt8]) { self.bytes = bytes }

    private var peek: UInt8? { at < bytes.count ? bytes[at] : nil }
    private func fault(_ kind: JSONFault.Kind = .syntax) -> JSONFault { JSONFault(kind: kind, offset: at) }

    private mutating func skipSpace() {
        while let c = peek, c == 0x20 || c == 0x09 || c == 0x0A || c == 0x0D { at += 1 }
    }

    private mutating func take(_ character: Unicode.Scalar) -> Bool {
        guard peek == UInt8(ascii: character) else { return false }
        at += 1
        return true
    }

    private mutating func object(depth: Int) throws(JSONFault) {
        guard depth <= Self.depthLimit else { throw fault(.tooDeep) }
        at += 1
        skipSpace()
        if take("}") { return }
        var names: Set<String> = []
        while true {
            skipSpace()
            let start = at
            let name = try string()
            guard names.insert(name).inserted else { throw JSONFault(kind: .duplicateMember(name), offset: start) }
            skipSpace()
            guard take(":") else { throw fault() }
            skipSpace()
            let begin = at
            let kind = try value(depth: depth)
            if depth == 1 { outermost.append(Member(name: name, kind: kind, value: begin..<at)) }
            skipSpace()
            if take("}") { return }
            guard take(",") else { throw fault() }
        }
    }

    private mutating func array(depth: Int) throws(JSONFault) {
        guard depth <= Self.depthLimit else { throw fault(.tooDeep) }
        at += 1
        skipSpace()
        if take("]") { return }
        while true {
            skipSpace()
            _ = try value(depth: depth)
            skipSpace()
            if take("]") { return }
            guard take(",") else { throw fault() }
        }
    }

    private mutating func value(depth: Int) throws(JSONFault) -> Kind {
        switch peek {
        case UInt8(ascii: "{"):
            try object(depth: depth + 1)
            return .object
        case UInt8(ascii: "["):
            try array(depth: depth + 1)
            return .array
        case UInt8(ascii: "\""):
            _ = try string()
            return .string
        case UInt8(ascii: "t"): return try literal("true", .bool)
        case UInt8(ascii: "f"): return try literal("false", .bool)
        case UInt8(ascii: "n"): return try literal("null", .null)
        default:
            try number()
            return .number
        }
    }

    private mutating func literal(_ word: StaticString, _ kind: Kind) throws(JSONFault) -> Kind {
        for i in 0..<word.utf8CodeUnitCount {
            guard peek == word.utf8Start[i] else { throw fault() }
            at += 1
        }
        return kind
    }

    private mutating func number() throws(JSONFault) {
        _ = take("-")
        if !take("0") { try digits() }
        if take(".") { try digits() }
        if take("e") || take("E") {
            if !take("+") { _ = take("-") }
            try digits()
        }
    }

    private mutating func digits() throws(JSONFault) {
        let start = at
        while let c = peek, c >= 0x30, c <= 0x39 { at += 1 }
        guard at > start else { throw fault() }
    }

    /// A string, unescaped: names are compared by what they mean, not by how they are spelled.
    private mutating func string() throws(JSONFault) -> String {
        guard take("\"") else { throw fault() }
        let start = at
        while let c = peek {
            if c == UInt8(ascii: "\"") {
                defer { at += 1 }
                return String(decoding: bytes[start..<at], as: UTF8.self)
            }
            if c == UInt8(ascii: "\\") { return try escapedString(from: start) }
            guard c >= 0x20 else { throw fault() }
            at += 1
        }
        throw fault()
    }

    private mutating func escapedString(from start: Int) throws(JSONFault) -> String {
        var out = Array(bytes[start..<at])
        while let c = peek {
            at += 1
            switch c {
            case UInt8(ascii: "\""): return String(decoding: out, as: UTF8.self)
            case UInt8(ascii: "\\"): out.append(contentsOf: try escape())
            case 0..<0x20: throw fault()
            default: out.append(c)
            }
        }
        throw fault()
    }

    private mutating func escape() throws(JSONFault) -> [UInt8] {
        guard let c = peek else { throw fault() }
        at += 1
        switch c {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [c]
        case UInt8(ascii: "b"): return [0x08]
        case UInt8(ascii: "f"): return [0x0C]
        case UInt8(ascii: "n"): return [0x0A]
        case UInt8(ascii: "r"): return [0x0D]
        case UInt8(ascii: "t"): return [0x09]
        case UInt8(ascii: "u"):
            var scalar = try hexadecimal()
            if scalar >= 0xD800, scalar < 0xDC00 {
                guard take("\\"), take("u") else { throw fault() }
                let low = try hexadecimal()
                guard low >= 0xDC00, low < 0xE000 else { throw fault() }
                scalar = 0x10000 + ((scalar - 0xD800) << 10) + (low - 0xDC00)
            }
            // A lone low surrogate is no scalar.
            guard let unicode = Unicode.Scalar(scalar) else { throw fault() }
            return Array(String(unicode).utf8)
        default: throw fault()
        }
    }

    private mutating func hexadecimal() throws(JSONFault) -> UInt32 {
        var value: UInt32 = 0
        for _ in 0..<4 {
            switch peek {
            case let c? where c >= 0x30 && c <= 0x39: value = value << 4 | UInt32(c - 0x30)
            case let c? where c >= 0x41 && c <= 0x46: value = value << 4 | UInt32(c - 0x41 + 10)
            case let c? where c >= 0x61 && c <= 0x66: value = value << 4 | UInt32(c - 0x61 + 10)
            default: throw fault()
            }
            at += 1
        }
        return value
    }
}
