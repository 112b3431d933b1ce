import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import Varlink

/// Who calls, and what that one may see: the pools of its own uid; everything for root and for the user who runs the daemon.
struct Caller: Sendable {
    let userID: UInt32
    let isAdministrator: Bool

    init(_ peer: PeerCredentials, daemon: UInt32 = ThisProcess.userID) {
        userID = peer.userID
        isAdministrator = peer.userID == 0 || peer.userID == daemon
    }

    func sees(_ pool: PoolInfo) -> Bool { isAdministrator || pool.owner == userID }
    func sees(_ object: ObjectInfo) -> Bool { isAdministrator || object.owner == userID }
}

extension Engine {
    /// The pool of that address, if the caller sees it. One that it does not see is not told from one that is not there.
    func pool(_ address: PoolAddress, for caller: Caller) throws(ControlError) -> PoolInfo {
        switch (address.poolId, address.poolName) {
        case (let id?, nil):
            guard address.ownerUid == nil else { throw .parameter("ownerUid") }
            guard let number = UInt32(exactly: id), number > 0 else { throw .parameter("poolId") }
            let found = try? pool(PoolID(rawValue: number))
            guard let found, caller.sees(found) else {
                throw .service(.noSuchPool, "there is no pool \(number); list the pools to see which there are")
            }
            return found
        case (nil, let name?):
            var owner = caller.userID
            if let wanted = address.ownerUid {
                guard let uid = UInt32(exactly: wanted) else { throw .parameter("ownerUid") }
                guard caller.isAdministrator || uid == caller.userID else { throw .permissionDenied }
                owner = uid
            }
            guard let found = try? pool(named: name, owner: owner) else {
                throw .service(.noSuchPool, "uid \(owner) has no pool named \(name); list the pools to see which there are")
            }
            return found
        default:
            // None, or both.
            throw .parameter("poolId")
        }
    }

    /// The object of that id, if the caller sees it.
    /// Without the pages by state, unless they are asked for: counting them takes longer than most calls.
    func object(_ number: Int, for caller: Caller, countingPages: Bool = false) throws(ControlError) -> ObjectInfo {
        guard let id = UInt32(exactly: number), id > 0 else { throw .parameter("objectId") }
        guard let found = try? object(ObjectID(rawValue: id), countingPages: countingPages), caller.sees(found) else {
            throw .service(.noSuchObject, "there is no object \(id); list the objects to see which there are")
        }
        return found
    }
}
