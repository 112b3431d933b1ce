import ShrinkEngine
import ShrinkProtocol
import Varlink

extension ControlService {
    func listPages(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        var first: Int?
        while true {
            let chunk = try await pages(call, first: first)
            guard call.wantsMore, let next = chunk.nextFirstPage else { return VarlinkReply(chunk) }
            first = next
            let reply = ListPagesReply(runs: chunk.runs, nextFirstPage: nil)
            do throws(VarlinkDisconnected) { try await call.send(VarlinkReply(reply)) } catch { return VarlinkReply() }
        }
    }

    /// One reply: bounded in runs, and in pages looked at.
    private func pages(_ call: VarlinkCall, first: Int?) async throws(ControlError) -> ListPagesReply {
        let engine = engine
        return try await perform(call, .backup, ListPagesParameters.self) { (parameters, caller) throws(ControlError) in
            let object = try engine.object(parameters.objectId, for: caller)
            let start = first ?? parameters.firstPage ?? 0
            guard start >= 0 else { throw .parameter("firstPage") }
            do throws(EngineError) {
                let found = try engine.pageRuns(object.id, from: start, limit: Methods.pageRunChunk)
                return ListPagesReply(
                    runs: found.runs.map {
                        WirePageRun(firstPage: $0.first, count: $0.count, state: $0.state.rawValue, tier: $0.tier)
                    }, nextFirstPage: found.next)
            } catch {
                throw ControlError(error)
            }
        }
    }
}
