import Logging
import PageStore
import ShrinkLinux
import SystemPackage

// `user.shrinkd.faults` on the root: how the daemon sets faults on the store (PageStore/Faults). The value is a rule a line; it replaces what is
// set, or adds to it behind a first `+`. Nothing at all, and removexattr(2), clear it. What is read has the counters beside the rules.
extension BackupTree {
    static let faultsName = "faults"
    /// The longest value that is taken.
    private static let maxFaultBytes = 8192

    /// EPERM unless faults are allowed and the caller is the daemon's user or root; EINVAL for what is no rule; ENOSPC for too many.
    func setFaults(_ value: UnsafeRawBufferPointer, _ change: AttributeChange, by user: UInt32) throws(Errno) {
        guard let faults = served.faults, ownership.mayGiveHints(user) else { throw .notPermitted }
        guard value.count <= Self.maxFaultBytes, let text = String(validating: value, as: UTF8.self) else { throw .invalidArgument }
        // The attribute is there as long as faults are allowed.
        if change == .createOnly { throw .fileExists }
        do throws(FaultRules.Refusal) { try faults.take(text) } catch {
            switch error {
            case .malformed: throw .invalidArgument
            case .tooMany: throw .noSpace
            }
        }
        errors.notice(
            "Faults were set on the store.",
            ["by_uid": "\(user)", "rules": "\(faults.listed.map(\.rule.text).joined(separator: "; "))"])
    }
}
