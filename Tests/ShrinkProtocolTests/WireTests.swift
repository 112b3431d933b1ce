import FoundationEssentials
import ShrinkProtocol
import Testing

/// The types of a message, for checks that hold for all of them.
private struct Sample {
    var name: String
    var names: [String]
    /// The members of the encoded value with every field set.
    var encoded: Set<String>
    var decodesAgain: Bool

    init<P: Codable>(_ value: P, _ names: [String]) throws {
        name = "\(P.self)"
        self.names = names
        let data = try JSONEncoder().encode(value)
        encoded = Set(try JSONDecoder().decode([String: AnyMember].self, from: data).keys)
        let again = try JSONEncoder().encode(try JSONDecoder().decode(P.self, from: data))
        decodesAgain = try JSONDecoder().decode([String: AnyMember].self, from: again).keys.sorted() == encoded.sorted()
    }

    /// Any JSON value.
    struct AnyMember: Decodable {
        init(from decoder: any Decoder) {}
    }
}

@Suite struct WireTests {
    @Test func parametersListExactlyTheMembersTheyHave() throws {
        let pool = PoolAddress(name: "a", ownerUid: 1)
        var anyPool = pool
        anyPool.poolId = 1
        var create = CreateObjectParameters(pool: anyPool, objectName: "o", sizeBytes: 1, priority: 2, purgeable: true, leased: true)
        create.poolId = 1
        var list = ListObjectsParameters(pool: anyPool, afterObjectId: 1)
        list.poolId = 1
        var mapping = RegisterMappingParameters(pool: pool, userfaultFileDescriptor: 0, address: 4096, offsetBytes: 0, lengthBytes: 4096)
        mapping.poolId = 1
        var shrink = ShrinkParameters(.pool(anyPool))
        (shrink.goalBytes, shrink.objectId, shrink.everything) = (1, 1, true)
        var recover = try #require(RecoverParameters(.pool(anyPool)))
        (recover.objectId, recover.everything) = (1, true)
        let samples = [
            try Sample(NoParameters(), NoParameters.parameterNames),
            try Sample(ResumeSessionParameters(sessionToken: "a"), ResumeSessionParameters.parameterNames),
            try Sample(ListPinsParameters(afterObjectId: 1), ListPinsParameters.parameterNames),
            try Sample(anyPool, PoolAddress.parameterNames),
            try Sample(
                CreatePoolParameters(poolName: "a", sizeBytes: 1, huge: true, objectLimit: 1, backedUpLimitBytes: 1),
                CreatePoolParameters.parameterNames),
            try Sample(
                WaitForRevocationParameters(gateClientId: 1, acknowledgedRevocationId: 1), WaitForRevocationParameters.parameterNames),
            try Sample(GateClientAddress(gateClientId: 1), GateClientAddress.parameterNames),
            try Sample(ListUsersParameters(afterUid: 1), ListUsersParameters.parameterNames),
            try Sample(ListPoolsParameters(afterPoolId: 1), ListPoolsParameters.parameterNames),
            try Sample(create, CreateObjectParameters.parameterNames),
            try Sample(ObjectAddress(objectId: 1), ObjectAddress.parameterNames),
            try Sample(SetPurgeableParameters(objectId: 1, purgeable: true), SetPurgeableParameters.parameterNames),
            try Sample(SetLeaseParameters(objectId: 1, leased: true), SetLeaseParameters.parameterNames),
            try Sample(list, ListObjectsParameters.parameterNames),
            try Sample(shrink, ShrinkParameters.parameterNames),
            try Sample(recover, RecoverParameters.parameterNames),
            try Sample(ReadObjectParameters(objectId: 1, offsetBytes: 1, lengthBytes: 1), ReadObjectParameters.parameterNames),
            try Sample(mapping, RegisterMappingParameters.parameterNames),
            try Sample(UnregisterMappingParameters(mappingId: 1), UnregisterMappingParameters.parameterNames),
        ]
        for sample in samples {
            #expect(sample.encoded == Set(sample.names), "\(sample.name)")
            #expect(sample.names.count == Set(sample.names).count, "\(sample.name)")
            #expect(sample.decodesAgain, "\(sample.name)")
        }
    }

    /// A lost reply to Pin is replaced by the object's description: content that was ever given up counts as given up.
    @Test func aPinWhoseReplyWasLostIsReadFromTheObject() throws {
        let pages = WirePageCounts(resident: 1, zero: 1, backedUp: 1, empty: 1)
        for generation in [0, 3] {
            let object = WireObject(
                objectId: 1, objectName: "o", poolId: 1, poolName: "a", ownerUid: 1, sizeBytes: 1, roundedBytes: 1, offsetBytes: 1,
                priority: 1, pinCount: 1, purgeGeneration: generation, pages: pages)
            let reply = try JSONDecoder().decode(PinReply.self, from: try JSONEncoder().encode(ObjectReply(bufferObject: object)))
            #expect(reply == PinReply(bufferObject: object, retained: generation == 0, purgeGeneration: generation))
        }
    }

    @Test func exactlyOneTargetIsATarget() {
        #expect(ShrinkParameters(.everything).target != nil)
        #expect(ShrinkParameters(.goalBytes(1)).target != nil)
        #expect(RecoverParameters(.goalBytes(1)) == nil)
        var two = ShrinkParameters(.everything)
        two.objectId = 1
        #expect(two.target == nil)
        var none = ShrinkParameters(.everything)
        none.everything = false
        #expect(none.target == nil)
    }

    @Test func theTextNamesEveryMethodErrorAndMemberOfTheTypes() throws {
        let text = ShrinkInterface.text
        let members = [
            Methods.status.member, Methods.openSession.member, Methods.resumeSession.member, Methods.listPins.member,
            Methods.listUsers.member, Methods.createPool.member, Methods.openPool.member, Methods.destroyPool.member,
            Methods.listPools.member,
            Methods.createObject.member, Methods.destroyObject.member, Methods.listObjects.member, Methods.getObject.member,
            Methods.pin.member,
            Methods.unpin.member, Methods.shrink.member, Methods.recover.member, Methods.readObject.member,
            Methods.listenForRevocations.member, Methods.waitForRevocation.member, Methods.getLeases.member, Methods.setPurgeable.member,
            Methods.setLease.member,
            Methods.mapGates.member, Methods.attachGate.member,
            Methods.detachGate.member, Methods.pinGate.member, Methods.listPages.member, Methods.setFault.member, Methods.listFaults.member,
            Methods.clearFaults.member,
            Methods.registerMapping.member, Methods.unregisterMapping.member, Methods.openUserfaultDevice.member,
            Methods.getPressure.member, Methods.watchPressure.member, Methods.tellPressure.member,
        ]
        for member in members { #expect(text.contains("\nmethod \(member)("), "\(member)") }
        #expect(text.split(separator: "\n").count { $0.hasPrefix("method ") } == members.count)
        for error in WireErrorName.allCases {
            #expect(text.contains("\nerror \(error.rawValue) (message: string)"), "\(error)")
            #expect(WireErrorName(fullName: error.fullName) == error)
        }
        #expect(text.split(separator: "\n").count { $0.hasPrefix("error ") } == WireErrorName.allCases.count)
        for field in try fields() { #expect(text.contains("\(field): "), "\(field)") }
    }

    /// Every member that any reply can have.
    private func fields() throws -> Set<String> {
        let pages = WirePageCounts(resident: 1, zero: 1, backedUp: 1, empty: 1)
        let pool = WirePool(
            poolId: 1, poolName: "a", ownerUid: 1, sizeBytes: 1, freeBytes: 1, allocatedBytes: 1, objectCount: 1, objectLimit: 1,
            backedUpLimitBytes: 1,
            pages: pages)
        let object = WireObject(
            objectId: 1, objectName: "o", poolId: 1, poolName: "a", ownerUid: 1, sizeBytes: 1, roundedBytes: 1, offsetBytes: 1, priority: 1,
            pinCount: 1, pages: pages)
        var backup = WireBackup(mount: "/", bytesStored: 1, bytesAvailable: 1, orphans: 1)
        backup.silentMilliseconds = 1
        let failure = WireFailure(errorName: "a", message: "b")
        var shrink = ShrinkReply()
        (shrink.goalBytes, shrink.kernelFreedBytes, shrink.failure) = (1, 1, failure)
        var recover = RecoverReply()
        recover.failure = failure
        var all: Set<String> = []
        func add(_ value: some Codable) throws { all.formUnion(try Sample(value, []).encoded) }
        try add(pages)
        try add(pool)
        try add(object)
        try add(backup)
        try add(failure)
        try add(WireFeature(available: true, reason: "r"))
        var status = StatusReply(
            version: "1", pools: 1, objects: 1, pages: pages, backup: backup, strayPages: 1, damagedPages: 1, features: [:])
        let survival = WireSurvival(starts: 1, healedPages: 1, lostPages: 1, waitingSessions: 1, descriptors: 1, descriptorLimit: 1)
        status.survival = survival
        try add(status)
        try add(survival)
        try add(OpenSessionReply(sessionToken: "a", graceMilliseconds: 1))
        try add(ResumeSessionReply(poolIds: [1]))
        try add(WirePin(objectId: 1, count: 1))
        try add(ListPinsReply(pins: [WirePin(objectId: 1, count: 1)], nextAfterObjectId: 1))
        try add(PoolReply(pool: pool, poolFileDescriptor: 0))
        try add(ListPoolsReply(pools: [pool], nextAfterPoolId: 1))
        try add(ObjectReply(bufferObject: object))
        try add(ListObjectsReply(bufferObjects: [object], nextAfterObjectId: 1))
        try add(PinReply(bufferObject: object, retained: true, purgeGeneration: 1))
        try add(RevocationReply(objectId: 1, revocationId: 1, deadlineMilliseconds: 1))
        try add(LeasesReply(leasedObjects: 1, revocations: 1, answered: 1, unanswered: 1))
        try add(RetainedReply(retained: true))
        try add(MapGatesReply(gatesFileDescriptor: 0, gateCount: 1, gateClientId: 1))
        try add(AttachGateReply(bufferObject: object, gateIndex: 1, gateGeneration: 1, purgeGeneration: 1))
        let user = WireUserUsage(
            uid: 1, pools: 1, poolLimit: 1, objects: 1, objectLimit: 1, poolBytes: 1, poolBytesLimit: 1, residentBytes: 1, backedUpBytes: 1,
            backedUpLimitBytes: 1)
        try add(user)
        try add(ListUsersReply(users: [user], nextAfterUid: 1))
        try add(shrink)
        try add(recover)
        try add(ReadObjectReply(contentFileDescriptor: 0, lengthBytes: 1))
        try add(ListPagesReply(runs: [WirePageRun(firstPage: 1, count: 1, state: "empty", tier: 1)], nextFirstPage: 1))
        try add(
            ListFaultsReply(faults: [
                WireFault(
                    operation: "read", errno: "EIO", delayMilliseconds: 1, probability: 0.5, every: 1, count: 1, objectId: 1, seenCalls: 1,
                    hits: 1)
            ]))
        var decision = WirePressureDecision(number: 1, time: 1, action: "hold", reason: "calm", text: "t", goalBytes: 1, urgent: true)
        (decision.freedBytes, decision.storedBytes, decision.netFreedBytes, decision.durationNanoseconds) = (1, 1, 1, 1)
        decision.failure = "f"
        try add(decision)
        try add(WireHeadroom(scope: "machine", totalBytes: 1, availableBytes: 1, lowBytes: 1, highBytes: 1))
        try add(
            PressureReply(
                mode: "on", headrooms: [], memoryStallPercent: 1, ioStallPercent: 1, steps: 1, freedBytes: 1, storedBytes: 1, listeners: 1,
                decisions: [decision]))
        try add(WatchPressureReply(decision: decision))
        try add(TellPressureReply(listeners: 1))
        return all
    }

    @Test func theFileInDocsIsTheText() throws {
        // This file lies in Tests/ShrinkProtocolTests.
        let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }
        let file = try String(contentsOfFile: root + "/docs/io.shrinkd.varlink", encoding: .utf8)
        #expect(file == ShrinkInterface.text, "copy ShrinkInterface.text to docs/io.shrinkd.varlink")
    }
}
