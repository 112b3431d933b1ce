import Logging
import ShrinkLinux
import SystemPackage
import Testing

@testable import BackupFileSystem

@Suite struct ErrorLogTests {
    /// Counts lines.
    private struct CountingHandler: LogHandler {
        let lines: Monitor<[String]>
        var logLevel = Logger.Level.trace
        var metadata: Logger.Metadata = [:]
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }
        func log(event: LogEvent) { lines.withLock { $0.append("\(event.message) \(event.metadata ?? [:])") } }
    }

    @Test func failuresOfTheStoreAreToldOnceAMinuteAndCallersMistakesNever() {
        let lines = Monitor<[String]>([])
        let log = ErrorLog(Logger(label: "test") { _ in CountingHandler(lines: lines) })
        for error: Errno in [.noSuchFileOrDirectory, .noSpace, .fileExists, .notPermitted] {
            #expect(log.noting(error, .write, nil) == error)
        }
        #expect(log.total == 0 && lines.withLock { $0.isEmpty })
        for _ in 0..<1000 { #expect(log.noting(.ioError, .read, .root) == .ioError) }
        #expect(log.total == 1000)
        #expect(lines.withLock { $0.count } == 1)
    }
}
