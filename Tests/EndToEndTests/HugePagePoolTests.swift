import Glibc
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// A pool of huge pages in a whole daemon, from its making on the command line to the end.
@Suite(.serialized) struct HugePagePoolTests {
    private static let unit = HugePages.pageBytes

    /// A word at the start of each base page.
    private static func word(_ bytes: UnsafeMutableRawBufferPointer, _ basePage: Int) -> UInt64 {
        bytes.load(fromByteOffset: basePage * basePageSize, as: UInt64.self)
    }

    private static func fill(_ bytes: UnsafeMutableRawBufferPointer, _ seed: UInt64) {
        for page in 0..<bytes.count / basePageSize {
            bytes.storeBytes(of: page % 5 == 0 ? 0 : seed &+ UInt64(page), toByteOffset: page * basePageSize, as: UInt64.self)
        }
    }

    private static func isFilled(_ bytes: UnsafeMutableRawBufferPointer, _ seed: UInt64) -> Bool {
        (0..<bytes.count / basePageSize).allSatisfy { word(bytes, $0) == ($0 % 5 == 0 ? 0 : seed &+ UInt64($0)) }
    }

    @Test(arguments: ["raw", "packed"]) func contentSurvivesEverything(_ layout: String) async throws {
        guard let reserve = try await HugePageReserve.take(32, so: "pools of huge pages are not tried in a whole daemon") else { return }
        defer { reserve.release() }
        try life(layout)
    }

    private func life(_ layout: String) throws {
        let daemon = try DaemonProcess(arguments: ["--layout", layout])
        let control = Control(daemon: daemon)
        let odd = try control("pool", "create", "odd", "--huge", "--size", "3M")
        #expect(odd.status != 0 && odd.output.contains("invalid_size"), "\(odd)")
        let made = try control("pool", "create", "huge", "--huge", "--size", "32M")
        #expect(made.number("page_bytes") == Self.unit && made.compact.contains("\"huge\":true"), "\(made)")
        let list = try runProgram(Machine.program("shrinkctl"), ["pool", "list", "--socket", daemon.socket])
        #expect(list.output.contains("PAGE") && list.output.contains("2.0 MiB"), "\(list.output)")
        let features = try control("status").compact
        #expect(features.contains("\"huge_pages\":{\"available\":true"), "\(features)")

        let client = try ShrinkdClient(path: daemon.socket)
        let pool = try client.pool("huge", sizeBytes: 32 << 20, pages: .huge)
        #expect(pool.pageBytes == Self.unit)
        #expect(throws: ShrinkdError.self) { try client.pool("huge", sizeBytes: 32 << 20) }
        let object = try pool.makeObject("o", sizeBytes: 2 * Self.unit + 5)
        #expect(object.info.roundedBytes == 3 * Self.unit && object.info.pageBytes == Self.unit)
        let bytes = UnsafeMutableRawBufferPointer(rebasing: object.unsafeBytes[0..<2 * Self.unit])
        Self.fill(bytes, 1000)
        #expect(try control("shrink", "--pool", "huge").number("freed_bytes") == 0, "it is pinned")
        try object.endAccess()
        let shrunk = try control("shrink", "--pool", "huge")
        #expect(shrunk.number("freed_bytes") == 3 * Self.unit && shrunk.number("huge_page_bytes") == 3 * Self.unit, "\(shrunk)")
        #expect(shrunk.number("returned_huge_page_bytes") == 3 * Self.unit, "\(shrunk)")
        #expect(shrunk.number("backed_up_pages") == 1024 && shrunk.number("zero_pages") == 512, "base pages")
        let shown = try control("object", "show", "\(object.objectID)")
        #expect(shown.number("pages.backed_up") == 2 && shown.number("pages.zero") == 1 && shown.number("page_bytes") == Self.unit)
        // People see base pages in the mount, the zeros left out.
        let names = try runProgram("/bin/ls", ["\(daemon.mountPoint)/objects/\(object.objectID)/pages"]).output.split(separator: "\n")
        #expect(names.count == 1024 - 205, "\(names.count)")
        // Both parts die, and the pool is taken over with its pages where they were.
        try daemon.killPart("backupfs")
        try daemon.killPart("engine")
        try daemon.waitFor("the session to be back") { (try? object.beginAccess()) != nil }
        #expect(Self.isFilled(bytes, 1000))
        try object.endAccess()
        #expect(try control("pool", "list").compact.contains("\"page_bytes\":\(Self.unit)"))
        let again = try control("shrink", "--object", "\(object.objectID)")
        #expect(again.status == 0 && again.number("freed_bytes") ?? 0 >= 2 * Self.unit, "\(again)")
        // On touch, without a pin.
        let touch = try client.mapForTouch(PoolAddress(name: "huge"))
        if let touched = touch.bytes(of: object.info) {
            #expect(Self.isFilled(UnsafeMutableRawBufferPointer(rebasing: touched[0..<2 * Self.unit]), 1000))
        }
        // An orderly end brings back what clients hold.
        #expect(try control("shrink", "--object", "\(object.objectID)").status == 0)
        try touch.unregister(from: client)
        #expect(try daemon.stop() == .exited(0), "\(daemon.said)")
        #expect(Self.isFilled(bytes, 1000))
    }

    @Test func withoutHugePagesTheCommandSaysWhatToDo() async throws {
        guard let reserve = try await HugePageReserve.take(0, so: "a daemon without huge pages is not tried") else { return }
        defer { reserve.release() }
        guard try !HugePages().isAny else { return }
        let daemon = try DaemonProcess()
        let made = try Control(daemon: daemon)("pool", "create", "huge", "--huge", "--size", "4M")
        #expect(made.status != 0 && made.output.contains("out_of_memory") && made.output.contains("vm.nr_hugepages"), "\(made)")
        #expect(try Control(daemon: daemon)("status").compact.contains("\"huge_pages\":{\"available\":false"))
    }
}
