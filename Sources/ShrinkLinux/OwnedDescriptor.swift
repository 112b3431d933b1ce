import CShrinkLinux
import Glibc
public import SystemPackage

/// A file descriptor that belongs to exactly one owner and is closed when the owner goes.
///
/// Every descriptor made by this module is close-on-exec.
public struct OwnedDescriptor: ~Copyable, Sendable {
    /// The number, for a call made while the owner is alive. Whoever keeps it past the owner holds a stale number; that goes for
    /// `make().number` too, whose owner is gone when the expression ends: bind the owner to a name first.
    public let number: CInt

    /// Takes over an open descriptor. Nobody else may close it afterwards.
    public init(owning number: CInt) {
        precondition(number >= 0, "a descriptor is not negative")
        self.number = number
    }

    deinit {
        // close(2) on Linux releases the descriptor whatever it returns, so EINTR is not retried.
        _ = Glibc.close(number)
    }

    /// Gives the descriptor away without closing it.
    public consuming func release() -> CInt {
        let number = self.number
        discard self
        return number
    }

    /// Keeps a descriptor that came with exec from going on to children; false if there is none of that number.
    public static func closesOnExec(_ number: CInt) -> Bool {
        let flags = fcntl(number, F_GETFD)
        return flags >= 0 && fcntl(number, F_SETFD, flags | FD_CLOEXEC) == 0
    }

    /// A second descriptor of the same open file. The corresponding C function is `fcntl(F_DUPFD_CLOEXEC)`.
    public func duplicate() throws(Errno) -> OwnedDescriptor {
        OwnedDescriptor(owning: try check(shl_duplicate_cloexec(number)))
    }
}

/// A descriptor shared by several holders and closed with the last of them.
public final class SharedDescriptor: Sendable {
    private let descriptor: OwnedDescriptor

    public init(_ descriptor: consuming OwnedDescriptor) {
        self.descriptor = descriptor
    }

    public var number: CInt { descriptor.number }

    public func duplicate() throws(Errno) -> OwnedDescriptor { try descriptor.duplicate() }
}
