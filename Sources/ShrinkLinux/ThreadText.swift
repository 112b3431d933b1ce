import Glibc

/// A C string that each thread has of its own: what a library tells about the last failure.
public struct ThreadText: Sendable {
    private let key: pthread_key_t

    /// The corresponding C function is `pthread_key_create`; there are few keys in a process, so make one and keep it.
    public init() {
        var key = pthread_key_t()
        guard pthread_key_create(&key, { free($0) }) == 0 else { fatalError("no thread-specific storage is left") }
        self.key = key
    }

    /// Replaces this thread's text.
    public func set(_ text: String) {
        free(pthread_getspecific(key))
        pthread_setspecific(key, strdup(text))
    }

    /// This thread's text, valid until it is replaced; nil if there is none.
    public var current: UnsafePointer<CChar>? {
        pthread_getspecific(key).map { UnsafePointer($0.assumingMemoryBound(to: CChar.self)) }
    }
}
