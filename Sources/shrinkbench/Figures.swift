import FoundationEssentials
import Glibc

func memcmpEqual(_ a: UnsafeRawPointer, _ b: UnsafeRawPointer, _ count: Int) -> Bool { memcmp(a, b, count) == 0 }

func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    guard let middle = sorted.indices.dropFirst(sorted.count / 2).first else { return 0 }
    return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

func gibPerSecond(_ bytes: Int, _ nanoseconds: UInt64) -> Double { Double(bytes) / Double(1 << 30) / (Double(nanoseconds) / 1e9) }

/// Two decimals, enough for what a noisy machine can tell.
func rounded(_ value: Double) -> Double { (value * 100).rounded() / 100 }

func printJSON(_ value: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    print(String(decoding: try encoder.encode(value), as: UTF8.self))
}

/// A figure in a fixed width, for tables.
func column(_ value: Double, width: Int = 8) -> String {
    let text = "\(rounded(value))"
    return String(repeating: " ", count: max(0, width - text.count)) + text
}
