import PageStore
import ShrinkLinux
import SystemPackage

// Extended attributes: facts about pages and objects, and the hints that the daemon gives (user.shrinkd.*).
extension BackupTree {
    static let prefix = "user.shrinkd."
    /// The longest value of a hint.
    private static let maxHintBytes = 255

    func getxattr(_ reply: consuming Reply, _ node: Node?, _ name: String, room: Int) {
        counters.count(.getxattr)
        let value: String
        do throws(Errno) {
            guard let node else { throw .staleNFSFileHandle }
            // No ACLs and no labels here. "Not supported" and not "none on this file": `ls -l` then asks for the first page only.
            guard name.hasPrefix("user.") || name.hasPrefix("trusted.") || name == "security.capability" else { throw .notSupported }
            guard name.hasPrefix(Self.prefix) else { throw .noData }
            let short = name.dropFirst(Self.prefix.count)
            if let tiers = try tierRuns(short, of: node, room: room) {
                value = tiers
            } else {
                guard let found = try attributes(of: node).first(where: { $0.name == short }) else { throw .noData }
                value = found.value
            }
        } catch {
            return reply.fail(errors.noting(error, .getxattr, node))
        }
        reply.attributeBytes(Array(value.utf8), room: room)
    }

    func listxattr(_ reply: consuming Reply, _ node: Node?, room: Int) {
        counters.count(.getxattr)
        var names: [UInt8] = []
        do throws(Errno) {
            guard let node else { throw .staleNFSFileHandle }
            for attribute in try attributes(of: node) {
                names += Array((Self.prefix + attribute.name).utf8)
                names.append(0)
            }
        } catch {
            return reply.fail(errors.noting(error, .getxattr, node))
        }
        reply.attributeBytes(names, room: room)
    }

    private func attributes(of node: Node) throws(Errno) -> [(name: String, value: String)] {
        switch node {
        case .object(let id), .data(let id):
            let object = try self.object(id)
            var all = [(name: "stored_bytes", value: String(try object.attributes.storedBytes))]
            for hint in ObjectHint.allCases {
                if let value = object.hint(hint) { all.append((hint.rawValue, value)) }
            }
            return all
        case .page(let id, let index):
            guard let page = try object(id).page(index) else { throw .noSuchFileOrDirectory }
            var all: [(name: String, value: String)] = []
            if let tier = page.tier { all.append(("tier", String(tier))) }
            if let codec = page.codec { all.append(("codec", codec)) }
            all.append(("stored_bytes", String(page.storedBytes)))
            if let checksum = page.checksum {
                let digits = String(checksum, radix: 16)
                all.append(("checksum", String(repeating: "0", count: 8 - digits.count) + digits))
            }
            // The engine's name for the page.
            all.append(("handle", String(UInt64(index.rawValue) + 1)))
            return all
        case .root: return served.faults.map { [(Self.faultsName, $0.text)] } ?? []
        case .stats, .objects, .content, .info, .pages, .window: return []
        }
    }

    /// What setxattr(2) may do to a name.
    enum AttributeChange {
        case any, createOnly, replaceOnly
        init?(flags: CInt) {
            switch flags {
            case 0: self = .any
            case 1: self = .createOnly  // XATTR_CREATE
            case 2: self = .replaceOnly  // XATTR_REPLACE
            default: return nil
            }
        }
    }

    func setxattr(_ reply: consuming Reply, _ node: Node?, _ name: String, _ value: UnsafeRawBufferPointer, flags: CInt) {
        counters.count(.setxattr)
        let user = reply.userID
        do throws(Errno) {
            guard let change = AttributeChange(flags: flags) else { throw .invalidArgument }
            guard let node else { throw .staleNFSFileHandle }
            guard name.hasPrefix(Self.prefix) else { throw .notSupported }
            if node == .root, name.dropFirst(Self.prefix.count) == Self.faultsName {
                try setFaults(value, change, by: user)
                return reply.done()
            }
            guard let hint = ObjectHint(rawValue: String(name.dropFirst(Self.prefix.count))) else {
                // Facts are not for setting; unknown names are nobody's.
                let known = try attributes(of: node).contains { $0.name == name.dropFirst(Self.prefix.count) }
                throw known ? .notPermitted : .notSupported
            }
            switch node {
            case .object(let id), .data(let id):
                guard ownership.mayGiveHints(user) else { throw .notPermitted }
                let object = try self.object(id)
                guard value.count <= Self.maxHintBytes, let text = String(validating: value, as: UTF8.self), Self.isValid(text, for: hint)
                else { throw .invalidArgument }
                switch (change, object.hint(hint) != nil) {
                case (.createOnly, true): throw .fileExists
                case (.replaceOnly, false): throw .noData
                default: try object.setHint(hint, to: text)
                }
            default: throw .notSupported
            }
        } catch {
            return reply.fail(errors.noting(error, .setxattr, node))
        }
        reply.done()
    }

    private static func isValid(_ text: String, for hint: ObjectHint) -> Bool {
        switch hint {
        case .owner: UInt32(text).map { String($0) == text && $0 != .max } ?? false
        case .priority: ["0", "1", "2", "3"].contains(text)
        case .name: !text.isEmpty && !text.utf8.contains(0)
        }
    }

    func removexattr(_ reply: consuming Reply, _ node: Node?, _ name: String) {
        let user = reply.userID
        do throws(Errno) {
            guard let node else { throw .staleNFSFileHandle }
            guard name.hasPrefix("user.") else { throw .notSupported }
            if node == .root, name == Self.prefix + Self.faultsName {
                try setFaults(UnsafeRawBufferPointer(start: nil, count: 0), .any, by: user)
                return reply.done()
            }
            let known =
                name.hasPrefix(Self.prefix) ? try attributes(of: node).contains { $0.name == name.dropFirst(Self.prefix.count) } : false
            throw known ? .notPermitted : .noData
        } catch {
            reply.fail(error)
        }
    }
}
