import ShrinkLinux

/// Memory that is held so that it can be let go: when nothing at all is left, this is what deciding, asking and answering takes.
///
/// Used by one thread.
final class Ballast {
    static let bytes = 2 << 20

    private final class Held: Sendable {
        let memory: MappedMemory
        init(_ memory: consuming MappedMemory) { self.memory = memory }
    }
    private var held: Held?

    init() { take() }

    /// Nothing of it is needed to shrink; where it can't be had, shrinking begins a little poorer.
    private func take() {
        if let memory = try? MappedMemory(anonymous: Self.bytes, populated: true) { held = Held(memory) }
    }

    /// Lets go when less than this is left, and takes it again when there is plenty.
    func follow(_ reading: PressureReading, isShort: Bool) {
        let least = reading.headrooms.map(\.availableBytes).min() ?? .max
        if held != nil, least < 2 * Self.bytes {
            held = nil
        } else if held == nil, !isShort, least > 8 * Self.bytes {
            take()
        }
    }
}
