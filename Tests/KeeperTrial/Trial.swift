import Glibc
import Logging
import ServiceSupport
import ShrinkKeeper
import ShrinkLinux

func exit(status: Int32) -> Never { Glibc.exit(status) }

/// Limits short enough for a test, in the proportions of the real ones.
private var shortLimits: SupervisionLimits {
    var limits = SupervisionLimits()
    limits.start = 3_000
    limits.firstPause = 20
    limits.lastPause = 200
    limits.failures = 4
    limits.engineSilence = 3_000
    limits.backupfsStop = 1_000
    limits.lastWarning = 1_000
    return limits
}

func keepTrial(runtimeDirectory: String, journal: String, backupfs: String, engine: String) -> Int32 {
    ServiceLogHandler.bootstrap(level: .debug)
    let log = Logger(label: "keeper")
    do throws(KeeperFailure) {
        guard let program = try? ThisProcess.executablePath() else { return 70 }
        func part(_ name: String, _ steps: String) -> KeeperPlan.Command {
            KeeperPlan.Command(program, ["part", name, journal, steps])
        }
        var plan = KeeperPlan(
            runtimeDirectory: runtimeDirectory, storeDirectories: [], backupfs: backupfs == "-" ? nil : part("backupfs", backupfs),
            engine: part("engine", engine))
        plan.limits = shortLimits
        return try Keeper(plan, log: log).run()
    } catch {
        log.error("\(error)")
        return 1
    }
}
