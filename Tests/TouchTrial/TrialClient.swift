import Glibc
import ShrinkLinux
import SystemPackage

// A program that uses a pool's memory on touch, as told on its standard input, a byte a command; it answers each with a byte.
//
//   touch-trial client PAGES FIRST COUNT EXPECTED
//
// Descriptors: 3 the pool's memory, 4 a socket over which it passes its userfaultfd and the mapping's address. EXPECTED is a sum over the object's COUNT pages
// from page FIRST of the pool.
//
//   s  reads the object; '=' if the sum is EXPECTED, '!' if not
//   b  touches every page with a plain load; '=' if none of them ended it
//   f  forks a child that does the same as s
//   w  writes to the pool's file from the object's memory, through the mapping that is served; '=' if all was written, 'E' for EFAULT
//   p  the same to the place behind the object: each page is read from memory before anything takes its place
//   x  writes to the pool's file from memory whose faults nobody serves, and so never answers
//   k  writes to every page for ever, without an answer

func runClient(_ arguments: [String]) {
    do {
        guard arguments.count == 4, let pages = Int(arguments[0]), let first = Int(arguments[1]), let count = Int(arguments[2]),
            let expected = UInt64(arguments[3])
        else { exit(64) }
        let memory = try MappedMemory(sharing: 3, count: pages * basePageSize)
        // The mapping is not kept from forks here: a child must be served too.
        let userfaults = try (try? Userfaults.open(.full)) ?? Userfaults.open(.userMode)
        var address = UInt64(UInt(bitPattern: memory.base))
        let number = userfaults.number
        try withUnsafeBytes(of: &address) { (bytes) throws(Errno) in
            _ = try UnixSocket.send(4, UnsafeRawBufferPointer(bytes), descriptors: [number])
        }
        let object = UnsafeMutableRawBufferPointer(start: memory.base + first * basePageSize, count: count * basePageSize)
        var command: UInt8 = 0
        while Glibc.read(0, &command, 1) == 1 {
            switch command {
            case UInt8(ascii: "s"): answer(sum(object) == expected ? "=" : "!")
            case UInt8(ascii: "b"):
                for page in 0..<count { readByte(object.baseAddress! + page * basePageSize) }
                answer("=")
            case UInt8(ascii: "f"): answer(try ThisProcess.inForkedChild { sum(object) == expected ? 0 : 1 } == 0 ? "=" : "!")
            case UInt8(ascii: "w"):
                let written = pwrite(3, object.baseAddress, object.count, first * basePageSize)
                answer(written == object.count ? "=" : errno == EFAULT ? "E" : "!")
            case UInt8(ascii: "p"):
                let written = pwrite(3, object.baseAddress, object.count, (first + count) * basePageSize)
                answer(written == object.count ? "=" : errno == EFAULT ? "E" : "!")
            case UInt8(ascii: "x"):
                let trap = try MappedMemory(anonymous: basePageSize, populated: false)
                let own = try Userfaults.open(.full)
                try Userfaults.begin(own.number, [])
                let start = UInt(bitPattern: trap.base)
                try Userfaults.register(own.number, start..<start + UInt(basePageSize), .missing)
                answer("x")
                _ = pwrite(3, trap.base, basePageSize, first * basePageSize)
            case UInt8(ascii: "k"):
                var value: UInt8 = 0
                while true {
                    // Through its owner, which would otherwise end before a loop that doesn't.
                    for page in first..<first + count { memory.bytes[page * basePageSize] = value }
                    value &+= 1
                }
            default: exit(64)
            }
        }
        let start = UInt(bitPattern: memory.base)
        try? Userfaults.unregister(userfaults.number, start..<start + UInt(memory.count))
        exit(0)
    } catch {
        exit(1)
    }
}

private func answer(_ byte: Unicode.Scalar) {
    var value = UInt8(ascii: byte)
    _ = write(1, &value, 1)
}

/// Every word of every page counts, its place too.
func sum(_ bytes: UnsafeMutableRawBufferPointer) -> UInt64 {
    var sum: UInt64 = 0
    for i in 0..<bytes.count / 8 { sum = (sum &* 31) &+ bytes.load(fromByteOffset: i * 8, as: UInt64.self) }
    return sum
}
