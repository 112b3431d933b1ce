import ShrinkLinux
import SystemPackage

// How a fault's pages come: out of the backup into a buffer, out of the buffer into the mapping, write-protected.

extension Engine {
    enum Fetching {
        case fetched
        /// The backup's server is away.
        case retry
        case failed(EngineError)
    }

    /// Reads pages of an object into the staging buffer.
    func fetch(_ pages: Range<Int>, _ object: TouchedObject, _ pool: Pool, _ server: FaultServer, _ staging: Staging) -> Fetching {
        let first = pages.lowerBound - object.firstPage
        do throws(EngineError) {
            try server.at(.touchBeforeCopyIn, object.id, first)
            let file = try pool.backup.open(object.id)
            do throws(Errno) {
                let length = pages.count * basePageSize
                guard try file.read(into: staging.pages(0..<pages.count), at: first * basePageSize) == length else { throw Errno.ioError }
                // As in ObjectRecover: a page of zeros is never backed up, so one that comes as zeros must prove that it is there.
                for i in 0..<pages.count where pool.words.isBackedUp(pages.lowerBound + i) {
                    guard let base = staging.pages(i..<i + 1).baseAddress, isZero(base, basePageSize) else { continue }
                    let offset = (first + i) * basePageSize
                    guard try file.nextData(from: offset) == offset else { throw Errno.noData }
                }
            } catch {
                throw .backup("bringing page \(first) of \(object.id) back on touch", error)
            }
            return .fetched
        } catch {
            switch error.errno {
            case .socketNotConnected?, .connectionAbort?:
                pool.backup.reconnect()
                return .retry
            // Not a word of the content: the process is short of something, or a test stops here.
            case .tooManyOpenFiles?, .tooManyOpenFilesInSystem?, .noMemory?, nil: return .retry
            default: return .failed(error)
            }
        }
    }

    struct Placing {
        var pages = RunMask()
        var isEmpty: Bool { pages.isEmpty }
        /// The first page was there already.
        var isFirstThere = false
        /// Nothing is wrong with the page: memory is short in the client's cgroup.
        var mustWait = false
    }

    /// Places fetched pages, write-protected and asleep; other mappings are protected first, for they see a page as soon as it is there.
    func place(_ pages: Range<Int>, _ pool: Pool, _ mapping: MappingID, _ staging: Staging) -> Placing {
        var placing = Placing()
        guard pool.touch.protect(pages, except: mapping, .none) else { return placing }
        for span in pool.touch.spans(of: pages, only: mapping) {
            var done = 0
            while done < span.addresses.count {
                let i = span.firstPage + done / basePageSize - pages.lowerBound
                let rest = UnsafeRawBufferPointer(staging.pages(i..<i + (span.addresses.count - done) / basePageSize))
                let placed = Userfaults.copy(
                    span.userfaults.number, to: span.addresses.lowerBound + UInt(done), from: rest, .writeProtected, .leavesAsleep)
                for k in 0..<placed.bytes / basePageSize { placing.pages.insert(i + k) }
                done += placed.bytes
                guard let error = placed.error else { continue }
                if error == .fileExists {
                    if i == 0, placed.bytes == 0 { placing.isFirstThere = true }
                    done += basePageSize
                } else if error == .resourceTemporarilyUnavailable, placed.bytes > 0 {
                    continue
                } else {
                    placing.mustWait = error == .noMemory
                    return placing
                }
            }
            // Seen through the first of several segments, it is in the pool.
            if !placing.isEmpty { break }
        }
        return placing
    }
}
