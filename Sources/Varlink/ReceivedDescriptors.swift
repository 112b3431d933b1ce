public import ShrinkLinux
import Synchronization

/// The descriptors that came with one message. Each is taken at most once; the ones nobody took are closed with this object.
public final class ReceivedDescriptors: Sendable {
    private let numbers: Mutex<[CInt?]>

    /// How many came.
    public let count: Int

    init(owning numbers: [CInt]) {
        self.count = numbers.count
        self.numbers = Mutex(numbers)
    }

    /// The descriptor of that index (a `…FileDescriptor` field carries it), or nil: none there, or taken already.
    public func take(_ index: Int) -> OwnedDescriptor? {
        let number: CInt? = numbers.withLock {
            guard index >= 0, index < $0.count else { return nil }
            let number = $0[index]
            $0[index] = nil
            return number
        }
        guard let number else { return nil }
        return OwnedDescriptor(owning: number)
    }

    deinit {
        numbers.withLock { for case let number? in $0 { _ = OwnedDescriptor(owning: number) } }
    }
}
