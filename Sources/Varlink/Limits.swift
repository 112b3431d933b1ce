/// What a server allows. Everything is bounded; what goes beyond is refused by closing the connection.
public struct VarlinkLimits: Sendable {
    /// Bytes of one message, its terminator not counted.
    public var messageBytes = 256 << 10
    public var connections = 4096
    /// Root's connections count like everybody's: a runaway tool must not lock the others out.
    public var connectionsPerUser = 1024
    /// Descriptors one message carries.
    public var descriptorsPerMessage = 16
    /// How long a message may stay half-sent. A connection without a begun message may be idle for ever: pins live on it.
    public var halfMessageMilliseconds: UInt64 = 45_000
    /// Reply bytes waiting for a slow reader before its producer is suspended. One message always fits.
    public var queuedReplyBytes = 256 << 10
    /// How long a reader may take nothing at all while replies wait, before it is dropped.
    public var slowReaderMilliseconds: UInt64 = 30_000
    /// How long accepting rests after the process ran out of descriptors (EMFILE): the listener stays readable, and asking again at once would spin.
    public var acceptRestMilliseconds: UInt64 = 200

    public init() {}
}
