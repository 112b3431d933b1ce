import PageStore
import ShrinkLinux
import TestSupport
import Testing

@testable import BackupFileSystem

@Suite struct NodeTests {
    @Test func everyNodeHasItsOwnNumberAndComesBackFromIt() throws {
        let ids = [1, 2, 77, UInt32.max - 1, .max].compactMap { StoredObjectID(rawValue: $0) }
        let indices = [0, 1, StoredPageIndex.limit - 1].compactMap { StoredPageIndex(rawValue: $0) }
        var nodes: [Node] = [.root, .stats, .objects] + (0..<TransferWindows.limit).map { .window($0) }
        for id in ids {
            nodes += [.object(id), .data(id), .content(id), .info(id), .pages(id)]
            nodes += indices.map { .page(id, $0) }
        }
        for node in nodes {
            #expect(Node(number: node.number) == node)
            #expect(node.number <= UInt64(Int64.max))
        }
        #expect(Set(nodes.map(\.number)).count == nodes.count)
        #expect(Node.root.number == 1)
    }

    @Test func numbersThatNobodyWasGivenAreNoNodes() {
        var generator = SeededGenerator(seed: testSeed("nodes"))
        let strange: [UInt64] = [0, 4, 1 << 28, 1 << 60, 2 << 60 | 1 << 28 | 5, 7 << 60 | 1 << 28, .max]
        for number in strange { #expect(Node(number: number) == nil) }
        for _ in 0..<100_000 {
            let number = generator.next()
            if let node = Node(number: number) { #expect(node.number == number) }
        }
    }
}

@Suite struct OwnershipTests {
    @Test func anObjectOfTheDaemonsOwnUserHasPlainModes() throws {
        let ownership = Ownership()
        let id = try #require(StoredObjectID(rawValue: 1))
        let index = try #require(StoredPageIndex(rawValue: 0))
        let own: (Node) -> UInt32 = { ownership.access(to: $0, owner: ownership.daemon).mode & 0o7777 }
        #expect(own(.object(id)) == 0o700)
        #expect(own(.data(id)) == 0o600)
        #expect(own(.window(0)) == 0o600)
        #expect([own(.content(id)), own(.info(id)), own(.page(id, index))] == [0o400, 0o400, 0o400])
        let other: (Node) -> Ownership.Access = { ownership.access(to: $0, owner: 4711) }
        #expect(other(.object(id)) == Ownership.Access(uid: 4711, mode: 0o040570))
        #expect(other(.data(id)) == Ownership.Access(uid: ownership.daemon, mode: 0o100600))
        #expect(other(.content(id)) == Ownership.Access(uid: 4711, mode: 0o100440))
        #expect(other(.page(id, index)) == Ownership.Access(uid: 4711, mode: 0o100440))
    }
}

@Suite struct SnapshotTableTests {
    @Test func openSnapshotsTakeBoundedMemoryAndGiveItBack() throws {
        let table = SnapshotTable(firstHandle: 100)
        let megabyte = [UInt8](repeating: 1, count: 1 << 20)
        var handles: [UInt64] = []
        while let handle = try? table.open(7, megabyte) { handles.append(handle) }
        #expect(handles.count >= 60 && handles.count <= 64)
        #expect(throws: (any Error).self) { try table.open(7, megabyte) }
        for handle in handles { table.close(handle) }
        #expect(table.usedBytes == 0)
        #expect(table.bytes(handles[0]) == nil)
    }
}

@Suite struct SessionStateTests {
    @Test func registrationsAndVerdictOutliveTheirServer() throws {
        let first = try SessionState()
        [UInt8](repeating: 7, count: 104).withUnsafeBytes { first.saveInit($0) }
        first.saveVerdict(.no("a reason"))
        var registrations = Registrations(in: first)
        for node in 1...100 { registrations.insert(UInt64(node), backing: UInt32(1000 + node)) }
        #expect(registrations.addOpen(7) == 1007)
        for node in [3, 50, 100] { #expect(registrations.removeOpen(UInt64(node)) == UInt32(1000 + node)) }
        #expect(registrations.removeOpen(7) == nil)

        let firstHandle = first.firstHandle
        let copy = try first.descriptor.duplicate()
        let second = try #require(try SessionState(inherited: copy))
        #expect(second.verdict == .no("a reason"))
        #expect(second.generation == first.generation)
        #expect(second.firstHandle > firstHandle)
        var again = Registrations(in: second)
        #expect(again.openCount == 97)
        #expect(again.addOpen(3) == nil)
        #expect(again.removeOpen(7) == 1007)
        again.insert(3, backing: 5)
        #expect(again.addOpen(3) == 5)
    }
}
