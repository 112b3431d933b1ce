/// One word per client and object, in memory that the daemon shares with that client alone: how a resident object is pinned without a
/// system call.
///
/// Caveats first:
/// - The daemon never believes a word. What it closed, which object a gate belongs to and who may see it stand in its own memory. A client
///   that writes nonsense into its gates loses the protection of its own pins, or keeps its own objects in memory as a pin would; nobody else
///   notices.
/// - A pin protects an object that others may write as well. Gates keep pages in place; they are no lock between clients.
///
/// # Layout (64 bits, native-endian, 8-aligned; word *i* of the gate memory is gate *i*; gate 0 is never given out)
///
/// | bits | field | who changes it |
/// |---|---|---|
/// | 0 – 19 | pins of this client | client: +1, −1; daemon: sets it when it opens |
/// | 20 | closed: the object may be out, pin through the socket | daemon |
/// | 21 | used since the daemon last looked | client sets it with every pin; daemon clears |
/// | 22 | ended: the daemon was stopped, nobody opens the gate again; closed as well | daemon, last of all |
/// | 24 – 43 | purge generation: one more whenever the object's content was given up and made zeros | daemon |
/// | 44 – 63 | gate generation: one more whenever the gate is given to another object | daemon |
///
/// # Memory model
///
/// Every change of a word is one atomic read-modify-write of all 64 bits, so all changes of a word have one order that every thread agrees on.
///
/// - **Pin** (client): compare-and-swap from an open word of the expected gate generation with *n* pins to *n* + 1 pins, used; **acquire**. It
///   fails on a closed word. What the daemon wrote into the object's pages before it opened the gate (release) is seen after a pin that
///   succeeded.
/// - **Unpin** (client): compare-and-swap from *n* > 0 to *n* − 1 pins; **release**. What the client wrote into the pages before is seen by a
///   daemon whose close (acquire) comes after.
/// - **Close** (daemon): compare-and-swap from 0 pins to closed; **acquire and release**. It fails on a pinned word. The daemon closes the gates
///   of all clients of an object, one after the other; if one is pinned it opens again what it closed and leaves the object alone.
/// - **Open** (daemon): exchange with a word of its own making; **release**. Only while the object is whole in its pool and reserved.
///
/// A pin and a close of one gate change the same word, so one of the two comes first: a pin that comes first makes the close fail, a close
/// that comes first makes the pin fail. Hence between a pin that succeeded and its unpin no page of the object moves. The words of different clients
/// need no order among each other: the daemon moves pages only after every close has succeeded, and opens one only after all pages are back.
public struct GateWord: Hashable, Sendable {
    public var rawValue: UInt64

    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }

    @usableFromInline static let pinMask: UInt64 = (1 << 20) - 1
    @usableFromInline static let closedBit: UInt64 = 1 << 20
    @usableFromInline static let usedBit: UInt64 = 1 << 21
    @usableFromInline static let endedBit: UInt64 = 1 << 22
    @usableFromInline static let generationMask: UInt64 = (1 << 20) - 1
    @usableFromInline static let purgeShift: UInt64 = 24
    @usableFromInline static let gateShift: UInt64 = 44

    /// Pins that one client may have of one object at once.
    public static let pinLimit = Int(1 << 20) - 1
    /// Generations count modulo this.
    public static let generations: UInt32 = 1 << 20

    /// A word as the daemon makes it. Generations are taken modulo `generations`.
    public init(gateGeneration: UInt32, purgeGeneration: UInt32, pins: Int = 0, isClosed: Bool, isUsed: Bool = false) {
        rawValue =
            (UInt64(gateGeneration) & Self.generationMask) << Self.gateShift
            | (UInt64(purgeGeneration) & Self.generationMask) << Self.purgeShift | UInt64(min(max(pins, 0), Self.pinLimit))
            | (isClosed ? Self.closedBit : 0) | (isUsed ? Self.usedBit : 0)
    }

    @inlinable public var pins: Int { Int(rawValue & Self.pinMask) }
    @inlinable public var isClosed: Bool { rawValue & Self.closedBit != 0 }
    /// The daemon was stopped.
    @inlinable public var isEnded: Bool { rawValue & Self.endedBit != 0 }
    @inlinable public var isUsed: Bool { rawValue & Self.usedBit != 0 }
    @inlinable public var purgeGeneration: UInt32 { UInt32(truncatingIfNeeded: rawValue >> Self.purgeShift & Self.generationMask) }
    @inlinable public var gateGeneration: UInt32 { UInt32(truncatingIfNeeded: rawValue >> Self.gateShift & Self.generationMask) }

    /// The word with one pin more, used; nil if the gate is closed, belongs to another object by now, or has all the pins it can.
    @inlinable @inline(__always)
    public func pinned(by generation: UInt32) -> GateWord? {
        let mustBe = UInt64(generation) << Self.gateShift
        guard rawValue & (Self.generationMask << Self.gateShift | Self.closedBit) == mustBe, rawValue & Self.pinMask != Self.pinMask else {
            return nil
        }
        return GateWord(rawValue: (rawValue &+ 1) | Self.usedBit)
    }

    /// The word with one pin less; nil if it has none, or the gate belongs to another object by now.
    @inlinable @inline(__always)
    public func unpinned(by generation: UInt32) -> GateWord? {
        guard rawValue >> Self.gateShift == UInt64(generation), rawValue & Self.pinMask != 0 else { return nil }
        return GateWord(rawValue: rawValue &- 1)
    }

    /// The word closed for good, with the pins that it has: they can still be undone.
    public func ended() -> GateWord { GateWord(rawValue: rawValue | Self.closedBit | Self.endedBit) }

    /// Forgets that the gate was used.
    public mutating func clearUsed() { rawValue &= ~Self.usedBit }

    /// The word closed; nil if it is pinned.
    public func closed() -> GateWord? { pins == 0 ? GateWord(rawValue: rawValue | Self.closedBit) : nil }
}

/// The memory that holds one client's gates.
public enum GateMemoryLayout {
    /// Words, gate 0 included, which is never given out.
    public static let gateCount = 1 << 16
    public static let wordBytes = 8
    public static let sizeBytes = gateCount * wordBytes
}
