import Glibc
import SystemPackage

/// Files of the kernel's with a few numbers in them, read without asking for memory: who looks at them may be short of it.
enum SmallFile {
    /// What is read of a file; the kernel's are shorter, and what a caller looks for stands near the start.
    private static let limit = 8192

    /// Calls `body` with the start of a file. The corresponding C functions are `open` and `pread`.
    static func withContents<R>(of path: String, _ body: (UnsafeRawBufferPointer) -> R) throws(Errno) -> R {
        var storage = InlineArray<8192, UInt8>(repeating: 0)
        var bytes = storage.mutableSpan
        return try KernelFiles.withOpen(path) { (number) throws(Errno) -> R in
            let result = bytes.withUnsafeMutableBytes { buffer -> Result<R, Errno> in
                var count = 0
                while count < limit {
                    let n = pread(number, buffer.baseAddress! + count, limit - count, count)
                    if n < 0, errno == EINTR { continue }
                    if n < 0 { return .failure(lastErrno) }
                    if n == 0 { break }
                    count += n
                }
                return .success(body(UnsafeRawBufferPointer(rebasing: buffer[0..<count])))
            }
            return try result.get()
        }
    }

    /// The decimal number in a line that begins with `key`, blanks between them passed over; nil if there is no such line, or no number in it. An empty key
    /// is the first line's. Numbers too large are `UInt64.max`.
    static func number(after key: StaticString, in text: UnsafeRawBufferPointer) -> UInt64? {
        var line = 0
        while line < text.count {
            var i = line
            var k = 0
            while k < key.utf8CodeUnitCount, i < text.count, text[i] == key.utf8Start[k] { (i, k) = (i + 1, k + 1) }
            if k == key.utf8CodeUnitCount {
                while i < text.count, text[i] == UInt8(ascii: " ") || text[i] == UInt8(ascii: "\t") { i += 1 }
                var value: UInt64?
                while i < text.count, text[i] >= UInt8(ascii: "0"), text[i] <= UInt8(ascii: "9") {
                    let (tens, isLarge) = (value ?? 0).multipliedReportingOverflow(by: 10)
                    let (sum, isLarger) = tens.addingReportingOverflow(UInt64(text[i] - UInt8(ascii: "0")))
                    value = isLarge || isLarger ? .max : sum
                    i += 1
                }
                return value
            }
            while line < text.count, text[line] != UInt8(ascii: "\n") { line += 1 }
            line += 1
        }
        return nil
    }
}
