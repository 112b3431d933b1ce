@testable import PageStore

extension PackedOptions {
    /// A store that does nothing by itself, and takes memory to the last.
    static func alone(segmentBytes: Int) -> PackedOptions {
        var options = PackedOptions()
        options.segmentBytes = segmentBytes
        options.runsInBackground = false
        options.memoryFloorBytes = 0
        return options
    }
}
