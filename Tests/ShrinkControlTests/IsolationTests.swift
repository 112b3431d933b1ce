import ShrinkClient
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

@Suite(.serialized) struct IsolationTests {
    @Test func usageAndLimitsAreTold() async throws {
        try await withControl { control in
            let client = try control.client()
            let own = try client.ask(Methods.listUsers, ListUsersParameters()).users
            #expect(own.map(\.uid) == [Int(ThisProcess.userID)] && own[0].pools == 0 && own[0].poolLimit == nil)
            _ = try client.ask(
                Methods.createPool, CreatePoolParameters(poolName: "p", sizeBytes: 1 << 20, objectLimit: 1, backedUpLimitBytes: 8192))
            for uid in 1..<140 {
                _ = try control.engine.createPool(name: "p", owner: UInt32(uid) + 70_000, size: ByteCount(4096))
            }
            let first = try client.ask(Methods.listUsers, ListUsersParameters())
            #expect(first.users.count == 128 && first.users[0].pools == 1)
            #expect(first.users[1].poolLimit == 64 && first.users[1].poolBytes == 4096)
            let rest = try client.ask(Methods.listUsers, ListUsersParameters(afterUid: first.nextAfterUid))
            #expect(rest.users.count == 12 && rest.nextAfterUid == nil)
            #expect(
                client.refusal(Methods.createPool, CreatePoolParameters(poolName: "q", sizeBytes: 4096, objectLimit: -1))
                    == "InvalidParameter objectLimit")
            let object = CreateObjectParameters(pool: PoolAddress(name: "p"), objectName: "o", sizeBytes: 1)
            _ = try client.ask(Methods.createObject, object)
            #expect(client.refusal(Methods.createObject, object) == "LimitReached")
        }
    }

    /// Descriptors are all that is handed out, and none of them can change its size; gates go to their own connection alone.
    @Test func whatIsHandedOutCannotBeResized() async throws {
        try await withControl { control in
            let client = try ShrinkdClient(path: control.path)
            let pool = try client.call(Methods.createPool, CreatePoolParameters(poolName: "p", sizeBytes: 1 << 20)) {
                $0.poolFileDescriptor
            }
            let gates = try client.call(Methods.mapGates, NoParameters()) { $0.gatesFileDescriptor }
            for fd in [pool.descriptor.number, gates.descriptor.number] {
                for size in [0, 4096, 2 << 20] {
                    #expect(throws: Errno.notPermitted) { try Files.truncate(fd, to: size) }
                }
            }
            let again = try client.call(Methods.mapGates, NoParameters()) { $0.gatesFileDescriptor }
            #expect(try Files.status(again.descriptor.number).inode == Files.status(gates.descriptor.number).inode)
            let other = try ShrinkdClient(path: control.path)
            let others = try other.call(Methods.mapGates, NoParameters()) { $0.gatesFileDescriptor }
            #expect(try Files.status(others.descriptor.number).inode != Files.status(gates.descriptor.number).inode)
        }
    }

    /// From the command line, by the owner and by somebody else.
    @Test func anotherUserCannotSetOrSeeAnything() async throws {
        try await withControl { control in
            func run(_ arguments: [String], user: UInt32? = nil) throws -> CommandRun {
                try CommandRun(arguments + ["--json"], socket: control.path, user: user)
            }
            struct Shown: Decodable {
                var id: Int
                var purgeable: Bool
                var purged: Bool
                var leased: Bool
            }
            _ = try run(["pool", "create", "p", "--size", "1M", "--object-limit", "5"])
            let made = try run(["object", "create", "p", "o", "--size", "4K", "--purgeable"]).decode(Shown.self)
            #expect(made.purgeable && !made.purged && !made.leased)
            let set = try run(["object", "set", "\(made.id)", "--purgeable", "no", "--leased", "yes"])
            #expect(set.status == 0, "\(set.errors)")
            let changed = try set.decode(Shown.self)
            #expect(!changed.purgeable && changed.leased)
            #expect(try run(["object", "set", "\(made.id)"]).status == 64)
            struct Status: Decodable {
                struct User: Decodable {
                    var uid: Int
                    var pools: Int
                    var poolLimit: Int?
                }
                struct Leases: Decodable { var leasedObjects: Int }
                var users: [User]
                var leases: Leases
            }
            #expect(try run(["status"]).decode(Status.self).leases.leasedObjects == 1)
            #expect(try run(["status"]).decode(Status.self).users.map(\.pools) == [1])
            guard Machine.isRoot else { return Machine.lacks("root", so: "another user was not tried against gates and limits") }
            let refused = try run(["object", "set", "\(made.id)", "--purgeable", "yes"], user: 12_345)
            #expect(refused.status == 1 && refused.text.contains("no_such_object"), "\(refused.text)")
            let seen = try run(["status"], user: 12_345).decode(Status.self).users
            #expect(seen.map(\.uid) == [12_345] && seen[0].pools == 0 && seen[0].poolLimit == 64)
            #expect(try control.engine.object(ObjectID(rawValue: UInt32(made.id))).isPurgeable == false)
        }
    }
}
