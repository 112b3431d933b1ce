/// What a source of pressure asks before it asks for memory.
extension Engine {
    /// What all pools have in memory, ready blocks included.
    public var memoryInUse: ByteCount { ByteCount(residentBytes()) }

    /// True if what goes out stays in memory: a store on tmpfs, for example.
    public var isBackupInMemory: Bool { backup.isMemory }
}
