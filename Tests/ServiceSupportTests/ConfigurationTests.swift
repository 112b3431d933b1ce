import ServiceSupport
import ShrinkLinux
import TestSupport
import Testing

@Suite struct ConfigurationTests {
    private let scratch: ScratchDirectory
    private var file: String { scratch.file("shrinkd.conf") }

    init() throws { scratch = try ScratchDirectory() }

    private func write(_ text: String, dropIn: String? = nil) throws {
        if dropIn != nil { try Files.makeDirectories(file + ".d") }
        try Files.replaceContents(of: dropIn.map { file + ".d/" + $0 } ?? file, with: Array(text.utf8))
    }

    private func read(_ flags: [String: [String]] = [:], _ environment: [String: String] = [:]) throws -> Configuration {
        try Configuration(flags: flags, file: file, environment: { environment[$0] })
    }

    @Test func flagsCountMoreThanTheEnvironmentAndThatMoreThanDropInsAndThoseMoreThanTheFile() throws {
        try write("# the file\nlow-watermark = 1%\nhigh-watermark=2%\n\n  io-gate =  3  \nstep = 4\nidle = 5\n")
        try write("high-watermark = 20%\nio-gate = 20\nstep = 20", dropIn: "20.conf")
        try write("high-watermark = 10%\nio-gate = 30\nstep = 30", dropIn: "10.conf")
        try write("step = nonsense", dropIn: "30.conf.bak")
        let read = try read(["step": ["50"]], ["SHRINKD_IO_GATE": "40", "SHRINKD_STEP": "40"])
        #expect(read.percent("low-watermark") == 1 && read.percent("high-watermark") == 20)
        #expect(read.percent("io-gate") == 40 && read.percent("step") == 50 && read.percent("idle") == 5)
        #expect(read["pressure"] == nil)
        #expect(read.origin("low-watermark") == "\(file):2" && read.origin("high-watermark") == "\(file).d/20.conf:1")
        #expect(read.origin("io-gate") == "$SHRINKD_IO_GATE" && read.origin("step") == "--step")
        #expect(read.files == [file, file + ".d/10.conf", file + ".d/20.conf"])
    }

    @Test func listsAreReplacedAsAWholeAndAnEmptyValueTakesBack() throws {
        try write("store = /a\nstore = /b\nlow-watermark = 512M\n")
        #expect(try read().values("store") == ["/a", "/b"] && read().size("low-watermark") == 512 << 20)
        try write("store = /c\nlow-watermark =\n", dropIn: "a.conf")
        #expect(try read().values("store") == ["/c"] && read()["low-watermark"] == nil)
        #expect(try read([:], ["SHRINKD_STORE": "/x:/y"]).values("store") == ["/x", "/y"])
    }

    @Test(arguments: [
        ("low_watermark = 1%", "1: there is no key 'low_watermark' (did you mean 'low-watermark'?)"),
        ("\n\nnonsense = 1", "3: there is no key 'nonsense'; shrinkd.conf(5)"),
        ("pressure", "1: 'pressure' is no setting"),
        ("pressure = maybe", "1: 'maybe' is not possible for pressure; give on, dry-run, off"),
        ("low-watermark = 101%", "1: '101%' is not possible"),
        ("low-watermark = -1", "1: '-1' is not possible"),
        ("step = nan", "1: 'nan' is not possible"),
        ("stall-trigger = 0", "1: '0' is not possible for stall-trigger; give a whole number of 1 to 1000"),
        ("allow-faults = true", "1: 'true' is not possible for allow-faults; give yes or no"),
        ("step = 1\nstep = 2", "2: step was set at"),
        ("pools-floor = 9999999999G", "1: '9999999999G' is not possible"),
    ])
    func aMistakeIsNamedByFileAndLine(_ text: String, _ complaint: String) throws {
        try write(text)
        let error = #expect(throws: ConfigurationError.self) { try read() }
        #expect(error?.description.hasPrefix("\(file):\(complaint)") == true, "\(error?.description ?? "none")")
    }

    @Test func whatIsMissingOrUnreadableIsNamed() throws {
        #expect(throws: ConfigurationError.self) { try read() }
        #expect(try Configuration(flags: [:], file: nil, defaultFile: file, environment: { _ in nil }) == Configuration())
        let error = #expect(throws: ConfigurationError.self) {
            try Configuration(flags: [:], file: nil, defaultFile: nil, environment: { ["SHRINKD_AGE": "x"][$0] })
        }
        #expect(error?.description.hasPrefix("$SHRINKD_AGE: 'x'") == true)
    }

    @Test func theDefaultPlaceIsTheSystemsOrTheUsersOwn() {
        #expect(Configuration.defaultFile(userID: 0, environment: { _ in nil }) == "/etc/shrinkd/shrinkd.conf")
        #expect(Configuration.defaultFile(userID: 998, environment: { _ in "/h" }) == "/etc/shrinkd/shrinkd.conf")
        #expect(Configuration.defaultFile(userID: 1000, environment: { ["HOME": "/h"][$0] }) == "/h/.config/shrinkd/shrinkd.conf")
        #expect(Configuration.defaultFile(userID: 1000, environment: { ["XDG_CONFIG_HOME": "/c"][$0] }) == "/c/shrinkd/shrinkd.conf")
    }

    @Test func differencesAreByValueAndNotByOrigin() throws {
        try write("step = 5")
        let before = try read()
        try write("\nstep = 5\nidle = 1")
        #expect(try read().differences(from: before).map(\.name) == ["idle"])
    }

    @Test func signsOfLifeAreSentThreeTimesAsOftenAsTheyAreWanted() {
        #expect(Watchdog(environment: { _ in nil }) == nil)
        #expect(Watchdog(environment: { ["WATCHDOG_USEC": "3000000"][$0] })?.beatMilliseconds == 1000)
        #expect(Watchdog(environment: { ["WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"][$0] }, processID: 2) == nil)
    }

    /// The man page says what each key is, and nothing about keys that there are not.
    @Test func theManPageDescribesEveryKey() throws {
        let path = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 } + "/docs/shrinkd.conf.5"
        let lines = String(decoding: try Files.contents(of: path), as: UTF8.self).split(separator: "\n")
        let described = lines.filter { $0.hasPrefix(".It Cm ") }.map { $0.split(separator: " ") }
        #expect(described.map { String($0[2]) }.sorted() == ConfigurationKey.all.map(\.name).sorted())
        for words in described {
            #expect(words.contains("live") == (ConfigurationKey.named(String(words[2]))?.isLive ?? false), "\(words)")
        }
    }
}
