import ShrinkLinux
import SystemPackage

/// True if a process sleeps in a FUSE request (the kernel's name for where it waits).
public func isWaitingInFuse(_ process: Int32) throws -> Bool {
    for task in try taskNumbers(process) {
        let place = String(decoding: try Files.contents(of: "/proc/\(process)/task/\(task)/wchan"), as: UTF8.self)
        if place.contains("request_wait_answer") || place.contains("fuse") { return true }
    }
    return false
}

public func taskNumbers(_ process: Int32) throws -> [String] {
    let directory = try Files.open("/proc/\(process)/task", [.readOnly, .directory])
    var tasks: [String] = []
    try Files.forEachName(in: directory.number) { tasks.append($0) }
    return tasks
}
