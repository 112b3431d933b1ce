import ShrinkProtocol

/// An object's pages as rows of cells, and how many there are of each kind. Its size does not depend on the object's.
struct PageMap {
    enum Style { case colour, letters }

    /// What a page is, and in which tier.
    enum Kind: Hashable, Comparable {
        case resident, zero, empty, purged
        /// -1: the tier is not known.
        case backedUp(tier: Int)
        /// A state that this version does not know.
        case other

        init(_ run: WirePageRun) {
            switch run.state {
            case "resident": self = .resident
            case "zero": self = .zero
            case "empty": self = .empty
            case "purged": self = .purged
            case "backedUp": self = .backedUp(tier: run.tier ?? -1)
            default: self = .other
            }
        }

        /// As in the documents of --json.
        var word: String {
            switch self {
            case .resident: "resident"
            case .zero: "zero"
            case .empty: "empty"
            case .purged: "purged"
            case .backedUp: "backed_up"
            case .other: "unknown"
            }
        }

        var tier: Int? {
            if case .backedUp(let tier) = self, tier >= 0 { tier } else { nil }
        }

        var label: String {
            switch self {
            case .backedUp(let tier): tier >= 0 ? "backed up, tier \(tier)" : "backed up"
            default: word
            }
        }

        var letter: Character {
            switch self {
            case .resident: "R"
            case .zero: "z"
            case .empty: "."
            case .purged: "x"
            case .backedUp(let tier): (0...9).contains(tier) ? Character("\(tier)") : "B"
            case .other: "?"
            }
        }

        /// The background, of the 16 colours every terminal has: green, grey, black, red, then blue, magenta, cyan by tier.
        var colour: Int {
            switch self {
            case .resident: 42
            case .zero: 47
            case .empty: 100
            case .purged: 41
            case .backedUp(let tier): tier <= 0 ? 44 : tier == 1 ? 45 : 46
            case .other: 43
            }
        }
    }

    private static let columns = 64
    private static let rowLimit = 48

    let pageCount: Int
    let pageBytes: Int
    let pagesPerCell: Int
    private var cells: [[Kind: Int]]
    private var counts: [Kind: Int] = [:]

    init(pageCount: Int, pageBytes: Int = 4096) {
        self.pageCount = pageCount
        self.pageBytes = pageBytes
        var scale = 1
        while (pageCount + scale - 1) / scale > Self.columns * Self.rowLimit { scale *= 2 }
        pagesPerCell = scale
        cells = Array(repeating: [:], count: (pageCount + scale - 1) / scale)
    }

    var totals: [(Kind, Int)] { counts.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } }

    mutating func add(_ run: WirePageRun) {
        let kind = Kind(run)
        var page = max(0, run.firstPage)
        let end = min(pageCount, run.firstPage + run.count)
        guard page < end else { return }
        counts[kind, default: 0] += end - page
        while page < end {
            let cell = page / pagesPerCell
            let next = min(end, (cell + 1) * pagesPerCell)
            cells[cell][kind, default: 0] += next - page
            page = next
        }
    }

    func text(_ style: Style) -> String {
        var lines = pagesPerCell == 1 ? [] : ["each cell stands for \(pagesPerCell) pages and shows what most of them are"]
        let width = String(pageCount).count
        for start in stride(from: 0, to: cells.count, by: Self.columns) {
            let number = String(start * pagesPerCell)
            let row = cells[start..<min(start + Self.columns, cells.count)].map { cell in
                Self.drawn(cell.max { ($0.value, $0.key) < ($1.value, $1.key) }?.key, style)
            }
            lines.append(String(repeating: " ", count: width - number.count) + number + " " + row.joined())
        }
        var table = Table([("", .left), ("STATE", .left), ("PAGES", .right), ("BYTES", .right)])
        for (kind, pages) in totals { table.add([String(kind.letter), kind.label, "\(pages)", Size.readable(pages * pageBytes)]) }
        lines.append(table.text)
        if style == .colour { lines.append(totals.map { Self.drawn($0.0, .colour) + " " + $0.0.label }.joined(separator: "  ")) }
        return lines.joined(separator: "\n")
    }

    /// A cell nobody told of stays blank.
    private static func drawn(_ kind: Kind?, _ style: Style) -> String {
        guard let kind else { return " " }
        switch style {
        case .letters: return String(kind.letter)
        case .colour: return "\u{1B}[30;\(kind.colour)m\(kind.letter)\u{1B}[0m"
        }
    }
}
