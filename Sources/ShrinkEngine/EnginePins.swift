import Logging
import ShrinkLinux
import ShrinkProtocol
import SystemPackage

/// What a pin says.
public struct PinAnswer: Sendable, Equatable {
    /// False if the content was given up since it was last pinned: it is all zeros now. Said once.
    public var retained: Bool
    /// How often the content was given up so far (modulo 2^20): who remembers it hears of a loss of which somebody else was told.
    public var purgeGeneration: UInt32 = 0
}

extension Engine {
    /// Brings the object's pages back if need be, then keeps them until `unpin`. Pins count.
    ///
    /// A cancellation ends the waits and stops the copying at the next run; what came back stays, and nothing is pinned.
    @discardableResult
    public func pin(_ id: ObjectID, cancellation: Cancellation? = nil) throws(EngineError) -> PinAnswer {
        var mayAsk = true
        while true {
            if let answer = try pinIfResident(id, cancellation) { return answer }
            try bringBack(id, mayAskForLeases: &mayAsk, cancellation)
        }
    }

    /// All of an object, for a pin. Where there is no room, users of leased memory are asked for it once, with nothing held while they are waited for.
    func bringBack(_ id: ObjectID, mayAskForLeases mayAsk: inout Bool, _ cancellation: Cancellation?) throws(EngineError) {
        do throws(EngineError) {
            try staging.withStaging(cancellation) { (staging) throws(EngineError) in
                let slot = try reserve(id, cancellation: cancellation)
                defer { release(slot) }
                let outcome = recoverReserved(slot, staging) { _ in cancellation?.isCancelled != true }
                if let failure = outcome.failure { throw failure }
                try populate(slot, staging)
            }
        } catch {
            guard error.code == .outOfMemory, mayAsk else { throw error }
            mayAsk = false
            guard askLeasesForRoom(id, cancellation) else { throw error }
        }
    }

    /// Nil if pages are in the backup, or huge ones are wanting.
    private func pinIfResident(_ id: ObjectID, _ cancellation: Cancellation?) throws(EngineError) -> PinAnswer? {
        let slot = try reserve(id, cancellation: cancellation)
        defer { release(slot) }
        try clearIfLost(slot)
        guard isPopulated(slot) else { return nil }
        let pinned = try state.withLock { state throws(EngineError) -> BufferObject? in
            try state.checkStays(slot)
            guard state.objects[slot].backedUpPages == 0 else { return nil }
            if state.objects[slot].pinCount == 0 { state.pool(of: slot).pinnedObjects += 1 }
            state.change(slot) { object in
                object.pinCount += 1
                object.isExhausted = false
            }
            return state.objects[slot]
        }
        guard let pinned else { return nil }
        forgetZeroWords(slot)
        if pinned.firstGate != GateTable.none { openGatesIfWhole(slot) }
        return PinAnswer(retained: !takeLoss(slot), purgeGeneration: pinned.purgeGeneration % GateWord.generations)
    }

    /// Content that was given up becomes zeros. Zeros first, answer afterwards: nobody ever reads the rest of what was given up.
    func clearIfLost(_ slot: UInt32) throws(EngineError) {
        let content = state.withLock { $0.objects[slot].content }
        guard content == .purged || content == .replaced else { return }
        try clearContent(slot)
        state.withLock { $0.objects[slot].isLossUntold = true }
    }

    /// Whether the content was given up since it was last pinned; said once.
    func takeLoss(_ slot: UInt32) -> Bool {
        state.withLock { state in
            defer { state.objects[slot].isLossUntold = false }
            return state.objects[slot].isLossUntold
        }
    }

    /// Zero words are a hint that a writer may now make untrue.
    func forgetZeroWords(_ slot: UInt32) {
        guard state.withLock({ $0.objects[slot].zeroPages > 0 }) else { return }
        let reserved = reservedObject(slot)
        let table = reserved.table
        // A fault of a mapping may make a zero page resident just now: each is counted once.
        let claim = reserved.touch.claim(reserved.poolPages(0..<table.count), .dropping)
        defer { reserved.touch.end(claim) }
        var forgotten = 0
        for page in 0..<table.count where table.isZero(page) {
            table.set(page, .resident)
            forgotten += 1
        }
        state.withLock { [forgotten] state in
            state.change(slot) { $0.zeroPages -= UInt32(forgotten) }
            state.pool(of: slot).zeroPages -= forgotten
        }
    }

    /// Undoes one `pin`. The last one makes the object shrinkable.
    public func unpin(_ id: ObjectID) throws(EngineError) {
        try state.withLock { state throws(EngineError) in
            guard let slot = state.objects.slot(of: id), state.objects[slot].life != .gone else {
                throw EngineError(.noSuchObject, "there is no \(id)")
            }
            guard state.objects[slot].pinCount > 0 else { throw EngineError(.notPinned, "\(id) is not pinned") }
            state.change(slot) { $0.pinCount -= 1 }
            if state.objects[slot].pinCount == 0 {
                state.pool(of: slot).pinnedObjects -= 1
                state.bump(slot)
            }
        }
    }
}
