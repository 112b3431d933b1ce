/// Why a keeper cannot start: the cause, and the way out.
public struct KeeperFailure: Error, Equatable, CustomStringConvertible {
    public enum Code: Sendable, Equatable {
        /// Somebody else serves this runtime directory.
        case alreadyServed
        /// A path cannot be used as it is.
        case unusablePath
        /// The machine refused something else.
        case system
    }

    public var code: Code
    public var description: String

    init(_ code: Code, _ description: String) {
        self.code = code
        self.description = description
    }
}
