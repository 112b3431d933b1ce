import PageStore
import Testing

@Suite struct NameTests {
    @Test(arguments: ["", "0", "00", "01", "+1", "-1", " 1", "1 ", "4294967296", "0x1", "١", "1\0"])
    func whatIsNotPlainDecimalIsNotAnObject(_ name: String) {
        #expect(StoredObjectID(name: name) == nil)
    }

    @Test func idsAndPagesReadBackAsWritten() {
        #expect(StoredObjectID(name: "4294967295")?.rawValue == .max)
        #expect(StoredPageIndex(name: "0")?.rawValue == 0)
        #expect(StoredPageIndex(name: "268435455")?.rawValue == StoredPageIndex.limit - 1)
        #expect(StoredPageIndex(name: "268435456") == nil)
        #expect(StoredPageIndex(name: "00") == nil)
    }
}
