/// The control interface in Varlink's own language. docs/io.shrinkd.varlink is this text; a test compares them.
public enum ShrinkInterface {
    /// Also the file name of the socket.
    public static let name = "io.shrinkd"

    public static let text = """
        # Pools of buffer objects, and the movement of their pages out to a backup and back.
        #
        # Rules that hold for every method:
        # - A pool's memory is mapped from the descriptor that CreatePool and OpenPool pass. Use an object's range of it only while
        #   the object is pinned; what is written to an unpinned object may be lost to the backup's version. The descriptor is for
        #   mmap alone: read, write and fallocate on it bypass the contract.
        # - Pins, by call or by gate, belong to the connection that made them and end with it. Only if the daemon's engine dies, and is started
        #   again, they are held: until the client resumes its session, until its process has ended, or for a grace.
        # - A client sees and touches the pools of its own uid. To it all others do not exist. Root, and the user who runs the
        #   daemon, see all.
        # - A pool is addressed either by poolId, or by poolName among those of the caller's uid; root may add ownerUid.
        # - Sizes are bytes. Pages have 4096 bytes, in pools of huge pages 2 MiB: pageBytes of the pool or object says which its pages, offsets and
        #   handles count. Sums over pools, and what Shrink and Recover count, are pages of 4096 bytes; a huge page is 512 of them.
        # - Fields that end in FileDescriptor are indexes into the descriptors that came with the message.
        interface io.shrinkd

        # Pages by state; together they are all pages of what is described.
        # resident: in the pool's memory. zero: found to be all zeros, freed and noted. backedUp: in the backup. empty: never touched.
        type PageCounts (
          resident: int,
          zero: int,
          backedUp: int,
          empty: int
        )

        # mount: the directory of the backup. bytesStored: what its objects take there, null where it does not tell.
        # bytesAvailable: what may still be stored, null without a limit. orphans: objects in it that no pool knows. silentMilliseconds: null;
        # or for how long the backup has not answered, and then the rest is what it last said.
        type Backup (
          mount: string,
          bytesStored: ?int,
          bytesAvailable: ?int,
          orphans: int,
          silentMilliseconds: ?int
        )

        # What the daemon's engines went through since the pools of now were first kept. starts: engines that have worked with them.
        # healedPages: found in two places after a death, and put right. lostPages: found nowhere. waitingSessions: of clients that have not
        # come back yet. descriptors: what the daemon's starter keeps for it, of at most descriptorLimit; null if it keeps none.
        type Survival (
          starts: int,
          healedPages: int,
          lostPages: int,
          waitingSessions: int,
          descriptors: int,
          descriptorLimit: ?int
        )

        # Pins that a connection has of an object.
        type ObjectPin (
          objectId: int,
          count: int
        )

        # Something that a machine may lack. reason: why it is not available, or null.
        type Feature (
          available: bool,
          reason: ?string
        )

        # sizeBytes: of the pool's memory. freeBytes: not in any object. allocatedBytes: what the memory file takes now, blocks that are
        # kept ready for reuse included. objectLimit, backedUpLimitBytes: what CreatePool was given, null without a limit. pageBytes: of one of its
        # pages, 2097152 in a pool of huge pages; null is 4096.
        type Pool (
          poolId: int,
          poolName: string,
          ownerUid: int,
          pageBytes: ?int,
          sizeBytes: int,
          freeBytes: int,
          allocatedBytes: int,
          objectCount: int,
          objectLimit: ?int,
          backedUpLimitBytes: ?int,
          pages: PageCounts
        )

        # sizeBytes: as asked for. roundedBytes: in whole pages, what the object takes of the pool. offsetBytes: where it starts in the pool's
        # memory. priority: 0 goes out first, 3 last. pinCount: pins of all connections, those of gates included. purgeable: its content may be
        # given up when memory is short. purged: it was; the next pin makes it zeros and says so. purgeGeneration: how often that happened so far, modulo
        # 2^20. leased: a device uses it (SetLease). pageBytes: its pool's.
        type BufferObject (
          objectId: int,
          objectName: string,
          poolId: int,
          poolName: string,
          ownerUid: int,
          pageBytes: ?int,
          sizeBytes: int,
          roundedBytes: int,
          offsetBytes: int,
          priority: int,
          pinCount: int,
          purgeable: bool,
          purged: bool,
          purgeGeneration: int,
          leased: bool,
          pages: PageCounts
        )

        # What a uid takes, and what it may take; limits are null where there is none, as for root and the user who runs the daemon. poolBytes: the
        # sizes of its pools together. residentBytes: what their memory files take now. backedUpBytes: its pages in the backup, as many bytes as they
        # have in memory.
        type UserUsage (
          uid: int,
          pools: int,
          poolLimit: ?int,
          objects: int,
          objectLimit: ?int,
          poolBytes: int,
          poolBytesLimit: ?int,
          residentBytes: int,
          backedUpBytes: int,
          backedUpLimitBytes: ?int
        )

        # Why an operation stopped early, or what some of its pages met with. errorName: the error that the call would have failed with,
        # had nothing been done.
        type Failure (
          errorName: string,
          message: string
        )

        # Neighbouring pages in one state: empty, resident, zero, backedUp or purged (given up, reads as zeros at the next pin). tier: of
        # backed-up pages, 0 is the fastest; null where the backup does not tell.
        type PageRun (
          firstPage: int,
          count: int,
          state: string,
          tier: ?int
        )

        # A fault that is set on the store. seenCalls: calls that it applied to. hits: those that it failed or held. The rest is SetFault's.
        type Fault (
          operation: string,
          errno: ?string,
          delayMilliseconds: ?int,
          probability: ?float,
          every: ?int,
          count: ?int,
          objectId: ?int,
          seenCalls: int,
          hits: int
        )

        # The whole daemon. strayPages: pages that clients wrote while the backup had them, since the start; the backup won.
        # damagedPages: pages found missing or unreadable in the backup, since the start.
        method Status() -> (
          version: string,
          pools: int,
          objects: int,
          pages: PageCounts,
          backup: Backup,
          strayPages: int,
          damagedPages: int,
          features: [string]Feature,
          survival: Survival
        )

        # The connection's session: the token brings what the connection holds back after the engine's death. graceMilliseconds: how long a
        # new engine waits for a client whose process lives.
        method OpenSession() -> (sessionToken: string, graceMilliseconds: int)

        # Gives this connection, which holds nothing yet, the session of a connection that the engine's death ended: its pins and pools.
        # For the same uid. poolIds: the pools whose memory it was given; they can be opened again, but a mapping that is there stays good.
        method ResumeSession(sessionToken: string) -> (poolIds: []int)

        # This connection's own pins, in ascending order of objectId, at most 1024 a reply; called again with afterObjectId set to
        # nextAfterObjectId until that is null. Tells a client which call was done whose reply it lost.
        method ListPins(afterObjectId: ?int) -> (pins: []ObjectPin, nextAfterObjectId: ?int)
        # What the uids take that have pools, in ascending order, those that the caller sees, at most 128 a reply; see ListPools. The caller's own
        # comes also without pools.
        method ListUsers(afterUid: ?int) -> (users: []UserUsage, nextAfterUid: ?int)

        # Makes a pool of sizeBytes, a positive multiple of 4096. Names are unique for a uid: 1 to 64 bytes, no slash, no control characters.
        # poolFileDescriptor: the pool's memory, of fixed size. objectLimit, backedUpLimitBytes: what this pool may have at most, beside the limits
        # of its uid (ListUsers). huge: of huge pages of 2 MiB, and sizeBytes a multiple of them; OutOfMemory if the machine has none set aside
        # (vm.nr_hugepages), and CreateObject, Pin, PinGate, Recover if none is free. Such a pool may be larger than what is set aside. Map it with
        # MAP_NORESERVE, or the kernel sets a huge page aside for each of it at once.
        method CreatePool(poolName: string, sizeBytes: int, huge: ?bool, objectLimit: ?int, backedUpLimitBytes: ?int) -> (
          pool: Pool,
          poolFileDescriptor: int
        )

        # The pool and its memory.
        method OpenPool(poolId: ?int, poolName: ?string, ownerUid: ?int) -> (pool: Pool, poolFileDescriptor: int)

        # Destroys a pool and its objects. Busy while one of them is pinned.
        method DestroyPool(poolId: ?int, poolName: ?string, ownerUid: ?int) -> ()

        # Pools in ascending order of poolId, at most 128 a reply. With `more` all come in a series of replies; without, the call is repeated
        # with afterPoolId set to nextAfterPoolId until that is null.
        method ListPools(afterPoolId: ?int) -> (pools: []Pool, nextAfterPoolId: ?int)

        # Makes an object of sizeBytes, rounded up to pages, that reads as zeros, and pins it for this connection. priority is 2 unless given.
        # purgeable and leased: false unless given; see SetPurgeable and SetLease.
        method CreateObject(
          poolId: ?int,
          poolName: ?string,
          ownerUid: ?int,
          objectName: string,
          sizeBytes: int,
          priority: ?int,
          purgeable: ?bool,
          leased: ?bool
        ) -> (bufferObject: BufferObject)

        # Destroys an object and its content. Busy while another connection has it pinned; this connection's own pins go with it.
        method DestroyObject(objectId: int) -> ()

        # Objects in ascending order of objectId, of one pool or of all that the caller sees, at most 128 a reply; see ListPools.
        method ListObjects(poolId: ?int, poolName: ?string, ownerUid: ?int, afterObjectId: ?int) -> (
          bufferObjects: []BufferObject,
          nextAfterObjectId: ?int
        )

        # One object.
        method GetObject(objectId: int) -> (bufferObject: BufferObject)

        # Brings the object's pages back if need be, and holds them until Unpin or the end of the connection. Pins count.
        # retained: false if the content was given up since this connection last pinned the object, or since anybody pinned it if this connection never
        # did: it reads as zeros now. purgeGeneration: the object's.
        method Pin(objectId: int) -> (bufferObject: BufferObject, retained: bool, purgeGeneration: int)

        # Undoes one Pin, or the pin that CreateObject made, of this connection.
        method Unpin(objectId: int) -> ()

        # Says whether the object's content may be given up when memory is short. retained: false if it was given up already; then nothing
        # changes, and the next pin says so too.
        method SetPurgeable(objectId: int, purgeable: bool) -> (retained: bool)

        # Says that a device uses the object's memory while it is pinned through a gate: its pages go only after its users were asked to
        # quiesce the device (WatchRevocations), unpinned and acknowledged.
        method SetLease(objectId: int, leased: bool) -> ()

        # Gates pin resident objects without a call (docs/clients.md; the word's layout and its rules are in GateWord.swift). gatesFileDescriptor: this
        # connection's gate memory, gateCount words of 8 bytes, for mmap alone; nobody else gets it. gateClientId: names this connection's gates
        # in WatchRevocations. Called again it passes the same memory.
        method MapGates() -> (gatesFileDescriptor: int, gateCount: int, gateClientId: int)

        # Gives this connection a gate of the object. gateIndex: which word. gateGeneration, purgeGeneration: what the word has in these fields as
        # long as the gate is the object's and its content is the same. This connection's pins of the object become pins of the gate.
        method AttachGate(objectId: int) -> (bufferObject: BufferObject, gateIndex: int, gateGeneration: int, purgeGeneration: int)

        # Takes this connection's gate of the object away, pins and all.
        method DetachGate(objectId: int) -> ()

        # For one who found the gate closed: brings the object's pages back, opens its gates and adds a pin to this connection's word, to be undone there.
        method PinGate(objectId: int) -> (bufferObject: BufferObject, retained: bool, purgeGeneration: int)

        # From now on the users of these gates can be asked: what they are asked waits for WaitForRevocation, which is called next.
        method ListenForRevocations(gateClientId: int) -> ()

        # Waits, as long as it takes, until the users of a leased object are asked to let go of it. gateClientId: whose revocations, from MapGates on
        # another connection of the same uid: this call occupies its own. acknowledgedRevocationId: what was told last and is done by now: the device is
        # quiesced and the object unpinned. The answer is waited for deadlineMilliseconds after it was asked; the one who comes late keeps its memory.
        method WaitForRevocation(gateClientId: int, acknowledgedRevocationId: ?int) -> (
          objectId: int,
          revocationId: int,
          deadlineMilliseconds: int
        )

        # Leases of the whole daemon, since the start. leasedObjects: now. revocations: users asked. answered: those that let go in time. unanswered: those
        # that did not, or did not listen.
        method GetLeases() -> (leasedObjects: int, revocations: int, answered: int, unanswered: int)

        # Moves pages out. Exactly one target: goalBytes (so much, of the longest unused objects), objectId, a pool, or everything: true.
        # Pinned objects are left alone. With `more`, replies before the last tell how far it is, in the same fields.
        # freedBytes: blocks that the pools' memory lost. storedBytes: growth of the store. netFreedBytes: freedBytes less growth of a store in memory.
        # failure: why it stopped before the target was reached; what is out stays out.
        # Users of leased objects are asked for what the target needs beyond the rest, and waited for (5 s unless set otherwise). revokedLeases: objects that
        # they let go of. unansweredLeases: objects that stayed. kernelFreedBytes: what the machine's free memory grew by when leased pages went, null if
        # none did; less than was freed means that something still holds the pages, or that others took memory. hugePageBytes: of freedBytes, what was huge
        # pages, which are in netFreedBytes with nothing, for the machine has no more memory than before; null if none went. returnedHugePageBytes: what the
        # machine's free huge pages (HugePages_Free) grew by meanwhile, null if none went. goalBytes is a wish for memory and leaves huge pages alone.
        method Shrink(
          goalBytes: ?int,
          objectId: ?int,
          poolId: ?int,
          poolName: ?string,
          ownerUid: ?int,
          everything: ?bool
        ) -> (
          goalBytes: ?int,
          scannedPages: int,
          backedUpPages: int,
          zeroPages: int,
          freedBytes: int,
          storedBytes: int,
          netFreedBytes: int,
          durationNanoseconds: int,
          skippedObjects: int,
          revokedLeases: int,
          unansweredLeases: int,
          kernelFreedBytes: ?int,
          hugePageBytes: ?int,
          returnedHugePageBytes: ?int,
          failure: ?Failure
        )

        # Brings pages back without pinning them. Exactly one target: objectId, a pool, or everything: true. A bad page is counted in failedPages
        # and does not stop the rest. With `more`, replies before the last tell how far it is.
        method Recover(
          objectId: ?int,
          poolId: ?int,
          poolName: ?string,
          ownerUid: ?int,
          everything: ?bool
        ) -> (
          recoveredPages: int,
          failedPages: int,
          durationNanoseconds: int,
          failure: ?Failure
        )

        # Copies a range of an object, at most 4194304 bytes and no further than its end, without changing any page's state.
        # contentFileDescriptor: a sealed memory file of lengthBytes. The copy is of one moment only if the object is not written meanwhile.
        method ReadObject(objectId: int, offsetBytes: int, lengthBytes: int) -> (contentFileDescriptor: int, lengthBytes: int)

        # Where an object's pages are, from firstPage on (0 unless given), without changing any page's state: runs in order and without gaps, at
        # most 1024 a reply. With `more` all come in a series of replies; without, the call is repeated with firstPage set to nextFirstPage
        # until that is null. Each reply is of one moment, a series is not.
        method ListPages(objectId: int, firstPage: ?int) -> (runs: []PageRun, nextFirstPage: ?int)

        # Registers a mapping of a pool, of lengthBytes from address on, that shows the pool from offsetBytes on: until the connection ends its memory
        # may be used without a pin. A page that is out comes back when it is touched, one that is written while it goes out stays, one that can't be
        # had is SIGBUS. All three are multiples of 4096. userfaultFileDescriptor: a userfaultfd of the process that has the mapping, fresh from
        # userfaultfd(2) or /dev/userfaultfd, one for each mapping; or one that is registered at the same place already: the same id is told again, and
        # the mapping is this connection's from now on. If the engine dies, threads wait for the next one, which serves the mapping at once and keeps it
        # for the session's client (ResumeSession). Keep a duplicate too. When the daemon is stopped, what it could not bring back is SIGBUS. At most 64
        # of a connection, 1024 of a pool, and as many as the starter of the daemon keeps descriptors for: LimitReached.
        method RegisterMapping(
          poolId: ?int,
          poolName: ?string,
          ownerUid: ?int,
          userfaultFileDescriptor: int,
          address: int,
          offsetBytes: int,
          lengthBytes: int
        ) -> (mappingId: int)

        # Ends a registration of this connection. From then on the mapping's memory may be used only while its objects are pinned.
        method UnregisterMapping(mappingId: int) -> ()

        # /dev/userfaultfd, open: what USERFAULTFD_IOC_NEW makes of it also serves system calls that are given memory whose pages are out. For root and
        # the daemon's own user; others open the device themselves, if they may.
        method OpenUserfaultDevice() -> (deviceFileDescriptor: int)

        # Sets a fault on the store, for tests: calls of operation (open, create, remove, resize, read, write, punch, sync, seek, status, list,
        # hint) fail with errno (a name: EIO, ENOSPC, …), or wait delayMilliseconds (1 … 10000) and go on; exactly one of the two.
        # probability: of each call, 0 … 1; or every: each Nth call, 1 unless given. count: at most so many times. objectId: on one object alone.
        # For root and the daemon's own user, and only if the daemon was started with --allow-faults: FaultsNotAllowed otherwise.
        method SetFault(
          operation: string,
          errno: ?string,
          delayMilliseconds: ?int,
          probability: ?float,
          every: ?int,
          count: ?int,
          objectId: ?int
        ) -> ()

        # The faults that are set, with counters. For whom SetFault is.
        method ListFaults() -> (faults: []Fault)

        # Takes all faults away; calls that one of them holds go on. For whom SetFault is.
        method ClearFaults() -> ()

        # What one whole has left: the machine, or a memory cgroup by its directory. Below lowBytes shrinking begins, at highBytes it ends.
        type Headroom (
          scope: string,
          totalBytes: int,
          availableBytes: int,
          lowBytes: int,
          highBytes: int
        )

        # One decision about memory pressure. number: counted from 1 since the start. time: seconds since 1970. action: hold, reclaim, or
        # would-reclaim (a dry run). reason: calm, at-floor, nothing-left, io-busy, over-budget, backing-off, stall-elsewhere (to hold); below-low,
        # below-high, told, stall, idle, request (to act). text: the same for people, with figures. urgent: nearly out of memory, so that gates
        # and budgets did not hold. The rest is what came of it, null where nothing was done.
        type PressureDecision (
          number: int,
          time: int,
          action: string,
          reason: string,
          text: string,
          goalBytes: int,
          urgent: bool,
          freedBytes: ?int,
          storedBytes: ?int,
          netFreedBytes: ?int,
          durationNanoseconds: ?int,
          failure: ?string
        )

        # How memory stands and what is done about it. mode: on, dry-run or off. The stalls are percents of the last 10 seconds, null where the kernel
        # does not tell. steps, freedBytes, storedBytes: since the start, by the daemon's own decisions. listeners: services at the pressure socket.
        # decisions: the latest, oldest first; one to hold is there once, however long it lasts.
        method GetPressure() -> (
          mode: string,
          headrooms: []Headroom,
          memoryStallPercent: ?float,
          ioStallPercent: ?float,
          steps: int,
          freedBytes: int,
          storedBytes: int,
          listeners: int,
          decisions: []PressureDecision
        )

        # With `more` alone: the latest decision, then each as it is made, without an end.
        method WatchPressure() -> (decision: PressureDecision)

        # Tells the services that listen at the pressure socket to give memory back. For root and the daemon's own user.
        method TellPressure() -> (listeners: int)

        # There is no such pool among those that the caller sees.
        error NoSuchPool (message: string)

        # There is no such object among those that the caller sees.
        error NoSuchObject (message: string)

        # The caller's uid has a pool of that name already.
        error NameTaken (message: string)

        # A name is empty, too long, or has a slash or control characters.
        error InvalidName (message: string)

        # A size or offset is not positive, not a multiple of the page where it must be, or beyond a limit.
        error InvalidSize (message: string)

        # The pool has no free range of that length.
        error OutOfSpace (message: string)

        # Bringing pages back would take memory that the machine does not have. Nothing changed.
        error OutOfMemory (message: string)

        # The store is full.
        error BackupFull (message: string)

        # The store failed in another way.
        error BackupFailed (message: string)

        # The object, or one of the pool, is pinned.
        error Busy (message: string)

        # This connection has not pinned the object.
        error NotPinned (message: string)

        # The backup has lost a page or has it wrong. It is reported, and never replaced by zeros.
        error Damaged (message: string)

        # The operation was stopped; called again it goes on where it stopped.
        error Interrupted (message: string)

        # The daemon is stopping.
        error ShuttingDown (message: string)

        # One of the daemon's limits; the message says which.
        error LimitReached (message: string)

        # The store takes no faults; the message says what to start it with.
        error FaultsNotAllowed (message: string)

        # The file server does not know such a fault; the message says what there is.
        error InvalidFault (message: string)

        # The memory or the userfaultfd of a mapping can't be registered; the message says why.
        error UnsuitableMapping (message: string)

        # No session waits under that token: its pins are gone.
        error NoSuchSession (message: string)

        # The system refused something that is not the caller's fault.
        error SystemFailure (message: string)

        """
}
