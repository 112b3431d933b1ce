import Glibc
import ShrinkClient

// A table of squares in memory that may go out while nobody looks at it.
let client = try ShrinkdClient()
let pool = try client.pool("squares", sizeBytes: 16 << 20)
let table = try pool.makeObject("table", sizeBytes: 8 << 20)

// A new object is accessed already: fill it, then let it go.
table.unsafeBytes.withMemoryRebound(to: UInt64.self) { numbers in
    for i in numbers.indices { numbers[i] = UInt64(i) * UInt64(i) }
}
try table.endAccess()

print("object \(table.objectID) may go now, by `shrinkctl shrink --object \(table.objectID)` for example; then press Enter")
fflush(nil)
_ = readLine()

// Beginning an access brings back what is out.
try table.withAccess { bytes, retained in
    let square = bytes.bytes.unsafeLoad(fromByteOffset: 1000 * 8, as: UInt64.self)
    print("content \(retained ? "still there" : "given up"), 1000 squared is \(square)")
}
try table.destroy()
