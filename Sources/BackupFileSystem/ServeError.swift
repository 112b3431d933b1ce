/// Why a file system can't be served: one sentence with cause and way out.
public struct ServeError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable {
        /// The mount point is missing, in use or otherwise not to be had.
        case mountPoint
        /// The machine refused something that should work.
        case system
    }

    public var code: Code
    public var message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}
