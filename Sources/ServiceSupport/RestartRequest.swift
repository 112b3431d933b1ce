/// How a program that leaves everything to its successor ends, so that its starter starts that one whatever it does otherwise.
///
/// Clean, and yet to be started again: `SuccessExitStatus=` and `RestartForceExitStatus=` in the unit, and the keeper, know it.
public enum RestartRequest {
    /// EX_TEMPFAIL of sysexits.h.
    public static let exitStatus: Int32 = 75
}
