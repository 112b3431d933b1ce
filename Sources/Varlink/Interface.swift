/// One interface that a server offers.
///
/// A handler returns the final reply or throws an error, so every call is answered exactly once by construction. Replies of a series go
/// out before that through `VarlinkCall.send`. A handler runs in a task of its connection: calls of one connection come one after the other,
/// those of different connections at the same time. When the client vanishes the task is cancelled.
public protocol VarlinkInterface: Sendable {
    /// `io.shrinkd` for example.
    var name: String { get }
    /// The interface in Varlink's own language; it must start with `interface` and `name`.
    var text: String { get }
    /// False refuses every call that brings descriptors.
    var acceptsDescriptors: Bool { get }
    /// Answers one call. `call.member` is the method without the interface's name; an unknown one is `methodNotFound`.
    func answer(_ call: VarlinkCall) async throws(VarlinkError) -> VarlinkReply
}

/// Who offers the interfaces: what GetInfo tells.
public struct VarlinkVendor: Sendable {
    public var vendor: String
    public var product: String
    public var version: String
    public var url: String

    public init(vendor: String, product: String, version: String, url: String) {
        self.vendor = vendor
        self.product = product
        self.version = version
        self.url = url
    }
}

/// Finds the interface of a call. Also `org.varlink.service` itself, which every server has.
struct Directory: Sendable {
    static let serviceName = "org.varlink.service"

    let vendor: VarlinkVendor
    let interfaces: [any VarlinkInterface]

    func answer(_ call: VarlinkCall) async throws(VarlinkError) -> VarlinkReply {
        if call.interface == Self.serviceName {
            if call.descriptors.count > 0 { throw .invalidParameter("fileDescriptors") }
            return try service(call)
        }
        guard let interface = interfaces.first(where: { $0.name == call.interface }) else { throw .interfaceNotFound(call.interface) }
        if call.descriptors.count > 0, !interface.acceptsDescriptors { throw .invalidParameter("fileDescriptors") }
        return try await interface.answer(call)
    }

    private struct NoParameters: VarlinkParameters {
        static let parameterNames: [String] = []
    }

    private struct DescriptionParameters: VarlinkParameters {
        static let parameterNames = ["interface"]
        var interface: String
    }

    private struct Info: Encodable {
        var vendor: String
        var product: String
        var version: String
        var url: String
        var interfaces: [String]
    }

    private func service(_ call: VarlinkCall) throws(VarlinkError) -> VarlinkReply {
        switch call.member {
        case "GetInfo":
            _ = try call.decode(NoParameters.self)
            return VarlinkReply(
                Info(
                    vendor: vendor.vendor, product: vendor.product, version: vendor.version, url: vendor.url,
                    interfaces: [Self.serviceName] + interfaces.map(\.name)))
        case "GetInterfaceDescription":
            let wanted = try call.decode(DescriptionParameters.self).interface
            if wanted == Self.serviceName { return VarlinkReply(["description": Self.serviceText]) }
            guard let interface = interfaces.first(where: { $0.name == wanted }) else { throw .interfaceNotFound(wanted) }
            return VarlinkReply(["description": interface.text])
        default: throw .methodNotFound(call.method)
        }
    }

    static let serviceText = """
        # Describes a service and its interfaces. Every Varlink service has this interface.
        interface org.varlink.service

        # Who made the service, and the names of its interfaces.
        method GetInfo() -> (
          vendor: string,
          product: string,
          version: string,
          url: string,
          interfaces: []string
        )

        # The text of one interface.
        method GetInterfaceDescription(interface: string) -> (description: string)

        # The service has no such interface.
        error InterfaceNotFound (interface: string)

        # The interface has no such method.
        error MethodNotFound (method: string)

        # The interface has the method, this service has not.
        error MethodNotImplemented (method: string)

        # A parameter is unknown, missing, mistyped or out of its range.
        error InvalidParameter (parameter: string)

        # The caller may not do this.
        error PermissionDenied ()

        # The method must be called with `more`.
        error ExpectedMore ()

        """
}
