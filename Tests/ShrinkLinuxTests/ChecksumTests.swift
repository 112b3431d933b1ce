import CShrinkLinux
import TestSupport
import Testing

@testable import ShrinkLinux

/// A store is read on other machines than the one that wrote it: every way to the sum gives the same one.
@Suite struct ChecksumTests {
    @Test func knownSumsOfCRC32C() {
        let digits = Array("123456789".utf8)
        #expect(Checksum.bytes(digits, digits.count) == 0xE306_9283)
        // RFC 3720, B.4.
        #expect(Checksum.bytes([UInt8](repeating: 0, count: 32), 32) == 0x8A91_36AA)
        #expect(Checksum.bytes([UInt8](repeating: 0xFF, count: 32), 32) == 0x62A8_AB43)
        #expect(Checksum.bytes(Array(UInt8(0)..<32), 32) == 0x46DD_794E)
    }

    @Test func everyProcessorComesToTheSameSumOfAPage() {
        var random = SeededGenerator(seed: testSeed("checksum"))
        var pages: [[UInt8]] = (0..<200).map { _ in (0..<basePageSize / 8).flatMap { _ in bytes(of: random.next()) } }
        // Each single bit of the sums' polynomial algebra: a page of zeros but for one bit, at each place of a word, of a lane and of a stride.
        for bit in stride(from: 0, to: basePageSize * 8, by: 61) {
            var page = [UInt8](repeating: 0, count: basePageSize)
            page[bit / 8] = 1 << UInt8(bit % 8)
            pages.append(page)
        }
        let (fast, wide) = hardware
        for page in pages {
            let sum = page.withUnsafeBytes { ~shl_crc32c_portable(~0, $0.baseAddress, basePageSize) }
            page.withUnsafeBytes { bytes in
                #expect(Checksum.page(bytes.baseAddress!) == sum)
                #expect(Checksum.bytes(bytes.baseAddress!, basePageSize) == sum)
                // In two steps, too.
                #expect(
                    Checksum.bytes(bytes.baseAddress! + 13, basePageSize - 13, continuing: Checksum.bytes(bytes.baseAddress!, 13)) == sum)
                #if arch(x86_64)
                    if fast { #expect(~shl_crc32c_page_hardware(~0, bytes.baseAddress) == sum) }
                    if wide { #expect(~shl_crc32c_page_wide(~0, bytes.baseAddress) == sum) }
                #endif
            }
        }
        if !fast { Machine.lacks("PCLMULQDQ", so: "checksums by the crc32 instruction are not tested") }
        if !wide { Machine.lacks("VPCLMULQDQ with AVX-512", so: "checksums in wide registers are not tested") }
    }

    private var hardware: (fast: Bool, wide: Bool) {
        #if arch(x86_64)
            (shl_has_fast_crc() != 0, shl_has_wide_crc() != 0)
        #else
            (true, true)
        #endif
    }

    private func bytes(of word: UInt64) -> [UInt8] { withUnsafeBytes(of: word) { Array($0) } }
}
