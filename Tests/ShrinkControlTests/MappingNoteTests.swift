import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkControl

/// What is written down of a mapping for the next engine.
@Suite struct MappingNoteTests {
    private func mapping(_ id: UInt32, pieces: Int, _ first: UInt = 0x7000_0000_0000) throws -> PersistentMapping {
        PersistentMapping(
            id: MappingID(rawValue: id), registration: MappingID(rawValue: 1), pool: PoolID(rawValue: 7),
            userfaults: SharedDescriptor(try MemoryFile.make("uffd", size: 0)),
            pieces: (0..<pieces).map { i in
                MappingPlace(
                    address: first + UInt(3 * i * basePageSize), offset: ByteCount(2 * i * basePageSize), length: ByteCount(basePageSize))
            }, isPoisoned: id == 2)
    }

    /// Whatever the number of pieces, before and after it changes, and with other mappings beside it.
    @Test func whatWasWrittenIsRead() throws {
        let seed = testSeed("mapping notes")
        var generator = SeededGenerator(seed: seed)
        let state = try ParkedState()
        let notes = ParkedNotes(state)
        let token = SessionToken.random()
        var expected: [MappingID: PersistentMapping] = [:]
        for _ in 0..<60 {
            let id = UInt32.random(in: 1...4, using: &generator)
            let pieces = [0, 1, 12, 13, 26, 27, 300].randomElement(using: &generator)!
            if Int.random(in: 0..<5, using: &generator) == 0 {
                MappingNote.remove(MappingID(rawValue: id), from: notes)
                expected[MappingID(rawValue: id)] = nil
            } else {
                let mapping = try mapping(id, pieces: pieces, UInt.random(in: 1...1000, using: &generator) << 20)
                #expect(MappingNote(token: token, mapping: mapping).keep(mapping.id, in: notes))
                expected[mapping.id] = mapping
            }
            // As the next engine finds them.
            let found = MappingNote.all(in: ParkedNotes(state))
            #expect(Set(found.keys) == Set(expected.keys), "seed \(seed)")
            for (id, note) in found {
                let read = note.mapping(id, SharedDescriptor(try MemoryFile.make("uffd", size: 0)))
                #expect(note.token == token && read.pieces == expected[id]?.pieces, "seed \(seed)")
                #expect(read.isPoisoned == (id.rawValue == 2) && read.registration.rawValue == 1 && read.pool.rawValue == 7)
            }
        }
        for id in expected.keys { MappingNote.remove(id, from: notes) }
        #expect(state.notesInUse().isEmpty, "nothing is left behind")
    }

    /// A program that moves a registered mapping about for hours has its note replaced as often.
    @Test func theFourThousandMillionthNoteIsANoteLikeAnyOther() throws {
        let state = try ParkedState()
        let kind = ParkedNotes.Kind(rawValue: 9)
        #expect(ParkedNotes(state).keep(kind, 1, [1]))
        let first = try #require(state.notesInUse().first)
        try #require(state.note(first)).storeBytes(of: UInt32.max - 2, as: UInt32.self)
        let notes = ParkedNotes(state)
        for number in 2..<9 as Range<UInt64> { #expect(notes.keep(kind, number, [UInt8(number)])) }
        // The old one of key 1 comes back, as after a kill between writing a note and freeing the one before it: the later counts.
        let old = try #require(state.note(first))
        let before = (0..<32).map { old.load(fromByteOffset: $0, as: UInt8.self) }
        #expect(notes.keep(kind, 1, [42]))
        UnsafeMutableRawBufferPointer(start: old, count: 32).copyBytes(from: before)
        let next = ParkedNotes(state)
        #expect(next.content(kind, 1) == [42])
        #expect(next.all(kind).count == 8 && state.notesInUse().count == 8)
        #expect(next.keep(kind, 1, [43]) && ParkedNotes(state).content(kind, 1) == [43])
    }

    @Test func tooManyPiecesAreRefusedAndLeaveTheOldNote() throws {
        let state = try ParkedState()
        let notes = ParkedNotes(state)
        let token = SessionToken.random()
        let small = try mapping(1, pieces: 2)
        #expect(MappingNote(token: token, mapping: small).keep(small.id, in: notes))
        let used = state.notesInUse().count
        let large = try mapping(1, pieces: MappingNote.pieceLimit + 1)
        #expect(!MappingNote(token: token, mapping: large).keep(large.id, in: notes))
        #expect(state.notesInUse().count == used)
        #expect(MappingNote.all(in: notes)[small.id]?.mapping(small.id, small.userfaults).pieces == small.pieces)
    }
}
