import ShrinkLinux

// Which object a reclaim takes next: by the lists' order, by what the pass allows, and as long as others have not claimed the rest of the goal.

extension ReclaimWalk {
    /// Steps of the cursor in one hold of the engine's lock.
    private static let stepsPerLock = 1024

    /// Takes objects and shrinks them until the goal is reached or none is left.
    func work(_ staging: Staging) {
        while let taken = takeObject() { shrinkReserved(taken.slot, goalPages: taken.goalPages, staging, claimed: taken.goalPages) }
    }

    private enum Step {
        case taken(slot: UInt32, goalPages: Int)
        /// Somebody has it; this pass waits.
        case wait(ObjectID)
        /// No step was made, or many without a find: look at the goal again.
        case again
        case finished
    }

    /// The next object, reserved, and how many of its pages may go.
    private func takeObject() -> (slot: UInt32, goalPages: Int)? {
        while true {
            // Wait while others may still reach the goal with what they have.
            let isOpen = progress.wait { progress -> Bool? in
                if progress.isStopped || progress.freedPages >= self.goalPages { return false }
                return self.goalPages - progress.freedPages - progress.claimedPages > 0 ? true : nil
            }
            guard isOpen else { return nil }
            if cancellation?.isCancelled == true {
                stop(EngineError(.interrupted, "shrinking was stopped; it goes on when asked again"))
                return nil
            }
            switch engine.state.withLock({ step(&$0) }) {
            case .taken(let slot, let goal): return (slot, goal)
            case .wait(let id):
                guard case .reserved(let slot) = engine.reserve(id, cancellation.map { .interruptible($0) } ?? .wait) else { continue }
                let goal = engine.state.withLock { state in isWanted(state.objects[slot]) ? claim(state.objects[slot]) : 0 }
                if goal > 0 { return (slot, goal) }
                engine.release(slot)
            case .again: continue
            case .finished: return nil
            }
        }
    }

    /// Only one thread steps at a time: the engine's lock is held, and the cursor is stored back before it is let go.
    private func step(_ state: inout EngineState) -> Step {
        let (stored, pass, asleep, leftAlone) = progress.withLock { ($0.cursor, $0.pass, $0.power?.asleep ?? [], $0.leftAlone) }
        guard var cursor = stored else { return .finished }
        var chances = progress.withLock { $0.secondChances }
        defer {
            progress.withLock { progress in
                progress.cursor = cursor
                progress.secondChances = chances
            }
        }
        // Claims are made under the engine's lock only, so this room does not shrink until it is claimed.
        guard progress.withLock({ goalPages - $0.freedPages - $0.claimedPages }) > 0 else { return .again }
        for _ in 0..<Self.stepsPerLock {
            guard let slot = state.lru.next(&cursor) else { return .finished }
            let object = state.objects[slot]
            guard isWanted(object), pass != .purge || object.isExpendable else { continue }
            if !asleep.isEmpty, asleep.contains(object.pool), !object.isExpendable || object.backedUpPages > 0 {
                progress.withLock { $0.result.deferredObjects += 1 }
                continue
            }
            if !leftAlone.isEmpty, leftAlone.contains(object.pool), !object.isExpendable { continue }
            guard object.reservation == .free else {
                progress.withLock { $0.busyObjects += 1 }
                if pass == .busy { return .wait(ObjectID(rawValue: object.id)) }
                continue
            }
            if chances > 0, object.areGatesOpen, state.takeUsed(slot) {
                chances -= 1
                state.bump(slot)
                continue
            }
            let goal = claim(object)
            guard goal > 0 else { continue }
            state.take(slot)
            return .taken(slot: slot, goalPages: goal)
        }
        return .again
    }

    @inline(__always)
    private func isWanted(_ object: BufferObject) -> Bool {
        object.isShrinkable && (pool == nil || object.pool == pool?.rawValue) && kind.covers(isHuge: object.isHuge)
    }

    private func claim(_ object: BufferObject) -> Int {
        progress.withLock { progress in
            // Whatever its words say, any page may be in the pool; the goal is the limit.
            let claim = min(object.basePages, goalPages - progress.freedPages - progress.claimedPages)
            guard claim > 0 else { return 0 }
            if claim < object.basePages { progress.objectsCutShort += 1 }
            progress.claimedPages += claim
            return claim
        }
    }
}
