import CLZ4
import CZstd
import ShrinkLinux
import SystemPackage

/// One thread's compressor and decompressor. Its state is made once: compressing and decompressing allocate nothing.
final class BlockCodec {
    // Not Sendable: it belongs to one WorkerContext, which one thread holds at a time.
    private let choice: PackedCodec
    private let lz4State: UnsafeMutableRawPointer
    private var zstdCompressor: OpaquePointer?
    private var zstdDecompressor: OpaquePointer?

    init(_ choice: PackedCodec) {
        self.choice = choice
        lz4State = .allocate(byteCount: Int(LZ4_sizeofState()), alignment: 64)
        if case .zstd = choice { zstdCompressor = ZSTD_createCCtx() }
    }

    deinit {
        lz4State.deallocate()
        if let zstdCompressor { ZSTD_freeCCtx(zstdCompressor) }
        if let zstdDecompressor { ZSTD_freeDCtx(zstdDecompressor) }
    }

    /// The most bytes that a block of `count` may come to; one that comes to more is stored plain.
    ///
    /// Every block costs as much to decompress, whatever it saved. With lz4 the line is drawn at 25/32, where zram draws its own (a page that comes to more
    /// than four fifths takes a whole one there). Who asked for zstd asked for space: what saves a sixteenth stays compressed.
    @inline(__always)
    func worthwhile(_ count: Int) -> Int {
        switch choice {
        case .lz4: count / 32 * 25
        case .zstd: count - count / 16
        }
    }

    /// Compresses into at most `capacity` bytes; nil if it doesn't fit. Both compressors stop early at the limit, and skip
    /// faster the longer they find nothing: that is how incompressible pages are found out cheaply.
    @inline(__always)
    func compress(_ source: UnsafeRawPointer, _ count: Int, into target: UnsafeMutableRawPointer, capacity: Int) -> (
        codec: BlockHeader.Codec, bytes: Int
    )? {
        switch choice {
        case .lz4(let acceleration):
            let n = LZ4_compress_fast_extState(
                lz4State, source.assumingMemoryBound(to: CChar.self), target.assumingMemoryBound(to: CChar.self), CInt(count),
                CInt(capacity),
                acceleration)
            return n > 0 ? (.lz4, Int(n)) : nil
        case .zstd(let level):
            let n = ZSTD_compressCCtx(zstdCompressor, target, capacity, source, count, level)
            return ZSTD_isError(n) == 0 ? (.zstd, n) : nil
        }
    }

    /// Makes the first `wanted` of `count` bytes; false if the payload isn't what a compressor made.
    @inline(__always)
    func decompress(
        _ codec: BlockHeader.Codec, _ payload: UnsafeRawPointer, _ payloadBytes: Int, into target: UnsafeMutableRawPointer, wanted: Int,
        of count: Int
    ) -> Bool {
        switch codec {
        case .plain:
            guard payloadBytes == count else { return false }
            target.copyMemory(from: payload, byteCount: wanted)
            return true
        case .lz4:
            let source = payload.assumingMemoryBound(to: CChar.self)
            let destination = target.assumingMemoryBound(to: CChar.self)
            if wanted == count { return LZ4_decompress_safe(source, destination, CInt(payloadBytes), CInt(count)) == CInt(count) }
            return LZ4_decompress_safe_partial(source, destination, CInt(payloadBytes), CInt(wanted), CInt(wanted)) == CInt(wanted)
        case .zstd:
            // Made at first need: a store of lz4 has no zstd blocks unless it was opened with another codec before.
            if zstdDecompressor == nil { zstdDecompressor = ZSTD_createDCtx() }
            return ZSTD_decompressDCtx(zstdDecompressor, target, count, payload, payloadBytes) == count
        }
    }

    /// Whether a block of this codec has to be decompressed whole, whatever is wanted of it.
    static func needsWholeBlock(_ codec: BlockHeader.Codec) -> Bool { codec == .zstd }
}
