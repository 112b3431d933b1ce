import Glibc
import ServiceSupport
import ShrinkLinux
import SystemPackage

/// A part that does what its steps say, separated by commas:
///
///     ready              READY=1
///     status:TEXT        STATUS=TEXT
///     keep:NAME          hands the starter a memory file to keep under NAME, unless one came with the start
///     once:FILE,STEP     the next step only if FILE is not there yet; makes it
///     mount:PATH         mounts a FUSE file system at PATH whose server answers INIT and nothing else
///     keepfuse           hands the starter the device of that mount to keep
///     open:PATH          opens PATH, which hangs below such a mount
///     exit:N             ends
///     crash              ends by SIGKILL
///     serve              until SIGTERM, then ends with 0
///     twice              as serve, but only the second SIGTERM counts
///     deaf               never ends by itself
func runPart(name: String, journal: String, steps: String) -> Int32 {
    do throws(Errno) {
        var part = try FakePart(name: name, journal: journal)
        return try part.run(steps.split(separator: ",").map(String.init))
    } catch {
        return 71
    }
}

private struct FakePart: ~Copyable {
    private let name: String
    /// Nil: standard output instead, for a starter that reads that.
    private let journal: SharedDescriptor?
    private let notifier = Notifier()
    private let signals: SignalDescriptor
    private var inherited: InheritedDescriptors

    init(name: String, journal: String) throws(Errno) {
        let signals = try SignalDescriptor([Signal.terminate])
        let socket = journal == "-" ? nil : SharedDescriptor(try UnixSocket.connect(journal, .datagram))
        var inherited = InheritedDescriptors()
        let names = inherited.names.filter { $0 != Lifeline.name }.sorted().joined(separator: ":")
        try Lifeline.watch(&inherited)
        self.name = name
        self.signals = signals
        self.journal = socket
        self.inherited = inherited
        say("started \(ThisProcess.processID) \(names)")
    }

    private func say(_ text: String) {
        let bytes = Array("\(name) \(text)".utf8)
        if let number = journal?.number {
            _ = try? bytes.withBytes { (buffer) throws(Errno) in try UnixSocket.send(number, buffer) }
        } else {
            (bytes + [UInt8(ascii: "\n")]).withUnsafeBytes { Files.appendOnce(1, $0) }
        }
    }

    mutating func run(_ steps: [String]) throws(Errno) -> Int32 {
        var skip = false
        var device: OwnedDescriptor?
        for step in steps {
            if skip {
                skip = false
                continue
            }
            let words = step.split(separator: ":", maxSplits: 1).map(String.init)
            let value = words.count > 1 ? words[1] : ""
            switch words[0] {
            case "ready":
                // In this order: what the starter does next must not be told before it.
                say("ready")
                try notifier.ready()
            case "status": try notifier.status(value)
            case "keep":
                guard inherited.take(value) == nil else { continue }
                let file = try MemoryFile.make(value, size: 0)
                try notifier.store([file.number], name: value)
            case "once":
                skip = (try? Files.status(of: value)) != nil
                _ = try Files.open(value, [.writeOnly, .create])
            case "mount": device = try mount(value)
            case "keepfuse":
                if let number = device?.number { try notifier.store([number], name: KeptDescriptor.fuseDevice) }
            case "open":
                say("opens")
                do throws(Errno) {
                    _ = try Files.open(value, .readOnly)
                    say("opened")
                } catch {
                    say("open failed \(error.rawValue)")
                }
            case "exit": return Int32(value) ?? 70
            case "crash": ThisProcess.signalItself(Signal.kill)
            case "serve": try wait(signals: 1)
            case "twice": try wait(signals: 2)
            case "deaf": try wait(signals: .max)
            default: return 64
            }
        }
        return 0
    }

    private func wait(signals count: Int) throws(Errno) {
        var left = count
        while left > 0 {
            _ = try waitReadable(signals.number)
            while try signals.next() != nil {
                say("term")
                left -= 1
            }
        }
    }

    /// A server that takes every request and answers only the first, INIT: the worst kind.
    private func mount(_ path: String) throws(Errno) -> OwnedDescriptor {
        let device = try Files.open("/dev/fuse", .readWrite)
        try Mounts.mount(
            "keepertrial", on: path, type: "fuse.backupfs", [.noSetUserID, .noDevices],
            options: "fd=\(device.number),rootmode=40000,user_id=\(ThisProcess.userID),group_id=\(ThisProcess.groupID)")
        let served = SharedDescriptor(try device.duplicate())
        _ = try DedicatedThread("fuse") {
            let request = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 16)
            while let count = try? Files.readNext(served.number, into: request), count > 0 {
                // struct fuse_in_header: length, opcode, unique; 26 is FUSE_INIT.
                guard request.load(fromByteOffset: 4, as: UInt32.self) == 26 else { continue }
                var reply = [UInt8](repeating: 0, count: 80)
                reply.withUnsafeMutableBytes { bytes in
                    bytes.storeBytes(of: 80, as: UInt32.self)
                    bytes.storeBytes(of: request.load(fromByteOffset: 8, as: UInt64.self), toByteOffset: 8, as: UInt64.self)
                    bytes.storeBytes(of: 7, toByteOffset: 16, as: UInt32.self)
                    bytes.storeBytes(of: 31, toByteOffset: 20, as: UInt32.self)
                    bytes.storeBytes(of: 4096, toByteOffset: 36, as: UInt32.self)
                    Files.appendOnce(served.number, UnsafeRawBufferPointer(bytes))
                }
            }
        }
        return device
    }
}
