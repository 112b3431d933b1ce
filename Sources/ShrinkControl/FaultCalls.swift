import ShrinkEngine
import ShrinkProtocol
import Varlink

// Faults are for who runs the daemon: they would harm everybody else.
extension ControlService {
    func setFault(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        try await perform(call, .backup, SetFaultParameters.self) { (parameters, caller) throws(ControlError) in
            guard caller.isAdministrator else { throw .permissionDenied }
            let line = try parameters.line
            do throws(EngineError) { try engine.faultInjection().addFault(line) } catch { throw ControlError(error) }
        }
        return VarlinkReply()
    }

    func listFaults(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        return VarlinkReply(
            try await perform(call, .backup, NoParameters.self) { (_, caller) throws(ControlError) in
                guard caller.isAdministrator else { throw .permissionDenied }
                do throws(EngineError) {
                    return ListFaultsReply(faults: try engine.faultInjection().faults().compactMap { WireFault(line: $0) })
                } catch {
                    throw ControlError(error)
                }
            })
    }

    func clearFaults(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        try await perform(call, .backup, NoParameters.self) { (_, caller) throws(ControlError) in
            guard caller.isAdministrator else { throw .permissionDenied }
            do throws(EngineError) { try engine.faultInjection().clearFaults() } catch { throw ControlError(error) }
        }
        return VarlinkReply()
    }
}

extension SetFaultParameters {
    /// The fault as the file server reads it. What the values may be is its business; what would make other words of them is refused here.
    fileprivate var line: String {
        get throws(ControlError) {
            func word(_ text: String, _ parameter: String) throws(ControlError) -> String {
                guard !text.isEmpty, text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: ";") }) else {
                    throw .parameter(parameter)
                }
                return text
            }
            var words = ["op=" + (try word(operation, "operation"))]
            if let errno { words.append("errno=" + (try word(errno, "errno"))) }
            if let delayMilliseconds { words.append("delay_ms=\(delayMilliseconds)") }
            if let probability { words.append("probability=\(probability)") }
            if let every { words.append("every=\(every)") }
            if let count { words.append("count=\(count)") }
            if let objectId { words.append("object=\(objectId)") }
            return words.joined(separator: " ")
        }
    }
}

extension WireFault {
    /// A line of the listing; nil if it is none.
    fileprivate init?(line: String) {
        var values: [String: String] = [:]
        for word in line.split(separator: " ") {
            guard let equals = word.firstIndex(of: "=") else { return nil }
            values[String(word[..<equals])] = String(word[word.index(after: equals)...])
        }
        guard let operation = values["op"] else { return nil }
        func number(_ key: String) -> Int? { values[key].flatMap { Int($0) } }
        self.init(
            operation: operation, errno: values["errno"], delayMilliseconds: number("delay_ms"),
            probability: values["probability"].flatMap { Double($0) }, every: number("every"), count: number("count"),
            objectId: number("object"), seenCalls: number("seen") ?? 0, hits: number("hits") ?? 0)
    }
}
