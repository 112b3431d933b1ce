/// An error that travels as a reply: a name of its interface and parameters, a JSON object.
public struct VarlinkError: Error, Sendable, Equatable {
    /// Full name, `org.varlink.service.MethodNotFound` for example.
    public var name: String
    /// The text of a JSON object.
    public var parameters: [UInt8]

    /// An error without parameters.
    public init(_ name: String) {
        self.name = name
        parameters = Array("{}".utf8)
    }

    /// An error with parameters. What cannot be encoded is left out: the name alone still tells the client what happened.
    public init(_ name: String, _ parameters: some Encodable) {
        self.name = name
        self.parameters = (try? MessageText.encode(parameters)) ?? Array("{}".utf8)
    }

    init(name: String, text: [UInt8]) {
        self.name = name
        parameters = text
    }

    /// The parameters as a type of the caller's, or nil if they do not have its shape.
    public func decode<P: Decodable>(_ type: P.Type) -> P? { try? ParameterText.decodeReply(type, from: parameters) }
}

/// The errors every service answers with (UAPI.20, interface org.varlink.service).
extension VarlinkError {
    /// A parameter is unknown, missing, mistyped or out of its range.
    public static func invalidParameter(_ name: String) -> VarlinkError {
        VarlinkError("org.varlink.service.InvalidParameter", ["parameter": name])
    }

    public static func methodNotFound(_ method: String) -> VarlinkError {
        VarlinkError("org.varlink.service.MethodNotFound", ["method": method])
    }

    /// The method is described but this service does not have it.
    public static func methodNotImplemented(_ method: String) -> VarlinkError {
        VarlinkError("org.varlink.service.MethodNotImplemented", ["method": method])
    }

    public static func interfaceNotFound(_ interface: String) -> VarlinkError {
        VarlinkError("org.varlink.service.InterfaceNotFound", ["interface": interface])
    }

    /// The caller's uid may not do this.
    public static let permissionDenied = VarlinkError("org.varlink.service.PermissionDenied")

    /// The method answers with a series of replies only.
    public static let expectedMore = VarlinkError("org.varlink.service.ExpectedMore")
}

/// The connection is gone: nobody will read what a handler still has to say.
public struct VarlinkDisconnected: Error, Sendable {}
