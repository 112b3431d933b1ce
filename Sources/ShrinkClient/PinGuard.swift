import ShrinkLinux
import SystemPackage

/// The debug mode of programs that pin (`SHRINKD_DEBUG_PINS=1`): the memory of an object that is not pinned can't be touched at all, so a use that would
/// sometimes read zeros ends the program (SIGSEGV) every time. Pins then cost system calls.
final class PinGuard: Sendable {
    private let memory: PoolMemory
    /// Objects whose memory may be touched, by where they begin.
    private let open = Monitor<Set<Int>>([])

    /// Nil unless the environment asks for it.
    static func ifWanted(_ memory: PoolMemory) throws(ShrinkdError) -> PinGuard? {
        guard let wish = ThisProcess.environment("SHRINKD_DEBUG_PINS"), !wish.isEmpty, wish != "0" else { return nil }
        return try PinGuard(memory)
    }

    private init(_ memory: PoolMemory) throws(ShrinkdError) {
        self.memory = memory
        do throws(Errno) { try ProcessMemory.forbid(memory.all) } catch {
            throw ShrinkdError(.system, "SHRINKD_DEBUG_PINS: the pool's memory can't be guarded: \(error)")
        }
    }

    /// The gate's pins have changed: its object's memory may be touched while there are any.
    func follow(_ gate: Gate, _ bytes: UnsafeMutableRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        open.withLock { open in
            let key = Int(bitPattern: base)
            let isPinned = gate.pins > 0
            if isPinned == open.contains(key) { return }
            let pages = UnsafeMutableRawBufferPointer(start: base, count: (bytes.count + basePageSize - 1) / basePageSize * basePageSize)
            do throws(Errno) {
                if isPinned {
                    try ProcessMemory.allow(pages)
                    open.insert(key)
                } else {
                    try ProcessMemory.forbid(pages)
                    open.remove(key)
                }
            } catch {
                // More pieces than a process may have (vm.max_map_count): a pinned object must be usable, whatever becomes of the guard.
                fatalError("SHRINKD_DEBUG_PINS: mprotect: \(error); raise vm.max_map_count, or go on without the debug mode")
            }
        }
    }
}
