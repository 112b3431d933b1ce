import Glibc

/// Limits of this process (getrlimit(2)).
public enum ResourceLimits {
    /// Raises the soft limit of open files to the hard one and returns what holds now. The corresponding C functions are
    /// `getrlimit(RLIMIT_NOFILE)` and `setrlimit`; a refusal leaves the limit as it was.
    public static func raiseOpenFiles() -> Int {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 256 }
        var raised = limit
        raised.rlim_cur = limit.rlim_max
        if setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &raised) == 0 { limit = raised }
        return Int(clamping: limit.rlim_cur)
    }
}
