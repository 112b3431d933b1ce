import ServiceSupport
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Each key of the configuration can be set in the file, by a variable of the environment and by a flag of the program, and a value that is not possible is told by the
/// name of where it was.
@Suite(.serialized) struct EveryKeyTests {
    private func possible(_ key: ConfigurationKey) -> String {
        switch key.kind {
        case .path: "/nowhere"
        case .size, .sizeOrPercent: "512M"
        case .percent: "7"
        case .count(let range): "\(range.upperBound)"
        case .choice(let choices): choices[0]
        case .flag: "yes"
        case .text: "lz4"
        }
    }

    /// Nil where only the one whom it is for can tell.
    private func impossible(_ key: ConfigurationKey) -> String? {
        switch key.kind {
        case .path, .text: nil
        case .size, .sizeOrPercent: "12X"
        case .percent: "101"
        case .count(let range): "\(range.upperBound + 1)"
        case .choice: "neither"
        case .flag: "perhaps"
        }
    }

    @Test(arguments: ConfigurationKey.all.map(\.name)) func isReadFromAllThreePlaces(_ name: String) throws {
        let key = try #require(ConfigurationKey.named(name))
        let value = possible(key)
        let scratch = try ScratchDirectory()
        let file = scratch.file("conf")
        try Files.replaceContents(of: file, with: Array("\(name) = \(value)\n".utf8))
        let none: (String) -> String? = { _ in nil }
        #expect(try Configuration(flags: [:], file: file, environment: none).values(name) == [value])
        #expect(
            try Configuration(flags: [:], file: nil, defaultFile: nil, environment: { $0 == key.environmentName ? value : nil })
                .values(name) == [value])
        #expect(try Configuration(flags: [name: [value]], file: nil, defaultFile: nil, environment: none).values(name) == [value])
        #expect(key.environmentName.hasPrefix("SHRINKD_") && !key.environmentName.contains("-"))
    }

    @Test func theProgramHasAFlagForEach() throws {
        let help = try runProgram(Machine.program("shrinkd"), ["--help"]).output
        let words = Set(help.split(whereSeparator: { $0.isWhitespace || $0 == "," }).map(String.init))
        for key in ConfigurationKey.all { #expect(words.contains("--" + key.name), "--\(key.name)") }
    }

    @Test(arguments: ConfigurationKey.all.map(\.name)) func aWrongValueIsNamedByWhereItWas(_ name: String) throws {
        let key = try #require(ConfigurationKey.named(name))
        guard let wrong = impossible(key) else { return }
        let shrinkd = Machine.program("shrinkd")
        let scratch = try ScratchDirectory()
        let (file, place) = (scratch.file("conf"), ["--runtime-dir", scratch.file("run")])
        try Files.replaceContents(of: file, with: Array("# this one is wrong\n\(name) = \(wrong)\n".utf8))
        let fromFile = try runProgram(shrinkd, place + ["--config", file])
        #expect(fromFile.ending == .exited(78) && fromFile.errors.contains("\(file):2: '\(wrong)' is not possible"), "\(fromFile.errors)")
        let fromEnvironment = try runProgram(shrinkd, place, environment: ["HOME=/nonexistent", "\(key.environmentName)=\(wrong)"])
        #expect(
            fromEnvironment.ending == .exited(78) && fromEnvironment.errors.contains("$\(key.environmentName): '\(wrong)' is not possible"),
            "\(fromEnvironment.errors)")
        // A flag without a value has no wrong one.
        if key.kind == .flag { return }
        let fromFlag = try runProgram(shrinkd, place + ["--" + name, wrong])
        #expect(fromFlag.ending == .exited(64) && fromFlag.errors.contains("'\(wrong)'"), "\(fromFlag.errors)")
    }

    /// What cannot change while the daemon runs is named with the program that must be started again; each key is one or the other.
    @Test func eachKeyIsLiveOrHasAProgramToStartAgain() throws {
        let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }
        let page = String(decoding: try Files.contents(of: root + "/docs/shrinkd.conf.5"), as: UTF8.self)
        for key in ConfigurationKey.all where key.isLive {
            #expect(key.holder == .shrinkd, "\(key.name): only the engine reads again")
            #expect(page.contains(".It Cm \(key.name) Pq Em live"))
        }
    }
}
