public import ShrinkLinux

/// One call, as its handler sees it.
public struct VarlinkCall: Sendable {
    /// The full name, `io.shrinkd.Status` for example.
    public let method: String
    /// `io.shrinkd`
    public let interface: String
    /// `Status`
    public let member: String
    /// The text of a JSON object, checked: valid UTF-8, no member twice, at most 32 levels.
    public let parameters: [UInt8]
    /// The caller takes a series of replies.
    public let wantsMore: Bool
    /// The caller takes no reply at all, not even an error.
    public let isOneway: Bool
    public let descriptors: ReceivedDescriptors
    public let connection: VarlinkConnection

    init(_ incoming: IncomingCall, on connection: VarlinkConnection) {
        method = incoming.header.method
        interface = incoming.header.interface
        member = incoming.header.member
        parameters = incoming.header.parameters
        wantsMore = incoming.header.more
        isOneway = incoming.header.oneway
        descriptors = incoming.descriptors
        self.connection = connection
    }

    /// The parameters as a type. Anything unknown, missing or mistyped is InvalidParameter with its name.
    public func decode<P: VarlinkParameters>(_ type: P.Type) throws(VarlinkError) -> P {
        try ParameterText.decode(type, from: parameters)
    }

    /// Sends one reply of a series, when the reader has taken enough of those before. Only for calls that want more.
    public func send(_ reply: VarlinkReply) async throws(VarlinkDisconnected) {
        precondition(wantsMore, "a series of replies to a call that did not ask for one")
        try await connection.send(reply.message(continues: true))
    }

    /// As `send`, but for blocking code that must not wait: false, and nothing is sent, if the reader is behind or gone.
    public func offer(_ reply: VarlinkReply) -> Bool {
        precondition(wantsMore, "a series of replies to a call that did not ask for one")
        return connection.offer(reply.message(continues: true))
    }
}

/// What is answered: parameters, and descriptors that the parameters name by index.
public struct VarlinkReply: Sendable {
    let parameters: Result<[UInt8], any Error>
    let descriptors: [SharedDescriptor]

    /// `parameters` must encode to a JSON object. A type that cannot be encoded is a bug of the service; the connection is then closed.
    public init(_ parameters: some Encodable, descriptors: [SharedDescriptor] = []) {
        self.parameters = Result { try MessageText.encode(parameters) }
        self.descriptors = descriptors
    }

    /// No parameters.
    public init() {
        parameters = .success(Array("{}".utf8))
        descriptors = []
    }

    func message(continues: Bool) -> OutgoingMessage {
        guard case .success(let text) = parameters else { return OutgoingMessage(bytes: [], descriptors: []) }
        return OutgoingMessage(bytes: MessageText.reply(text, continues: continues), descriptors: descriptors)
    }
}

/// A call between the socket and its handler.
struct IncomingCall: Sendable {
    var header: CallHeader
    var descriptors: ReceivedDescriptors
}

/// Bytes on their way out. The descriptors go with the first of them.
struct OutgoingMessage: Sendable {
    var bytes: [UInt8]
    var descriptors: [SharedDescriptor]
}
