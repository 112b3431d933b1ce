import Glibc
public import SystemPackage

/// How much of a busy processor a thread gets, from -20 (most) to 19 (sched(7), "The nice value").
public enum Niceness {
    /// The calling thread's. The corresponding C function is `getpriority`.
    public static var ofThisThread: CInt { getpriority(CInt(PRIO_PROCESS.rawValue), 0) }

    /// Sets the calling thread's; threads that it starts from then on have the same. EACCES for a lower value without CAP_SYS_NICE where RLIMIT_NICE does not
    /// allow it. The corresponding C function is `setpriority`.
    public static func setOfThisThread(_ value: CInt) throws(Errno) { try check(setpriority(CInt(PRIO_PROCESS.rawValue), 0, value)) }
}
