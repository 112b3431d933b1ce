import ServiceSupport
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import Varlink

extension ControlService {
    func createPool(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, survival, sessions, connection) = (engine, survival, sessions, call.connection.id)
        return try await perform(call, .bookkeeping, CreatePoolParameters.self) { (parameters, caller) throws(ControlError) in
            let limits = try parameters.limits
            do throws(ParkedDescriptors.Full) { try survival.reservePool() } catch { throw .service(.limitReached, "\(error)") }
            do throws(EngineError) {
                let pool: PoolInfo
                do throws(EngineError) {
                    pool = try engine.createPool(
                        name: parameters.poolName, owner: caller.userID, size: ByteCount(parameters.sizeBytes), limits: limits,
                        of: parameters.huge == true ? .huge : .base)
                } catch {
                    survival.cancelPool()
                    throw error
                }
                do throws(EngineError) { try survival.keep(pool.id, of: engine) } catch {
                    try? engine.destroyPool(pool.id)
                    throw error
                }
                sessions.addPool(pool.id, connection)
                return try Self.reply(pool, engine)
            } catch {
                throw ControlError(error)
            }
        }
    }

    func openPool(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, sessions, connection) = (engine, sessions, call.connection.id)
        return try await perform(call, .bookkeeping, PoolAddress.self) { (address, caller) throws(ControlError) in
            let pool = try engine.pool(address, for: caller)
            sessions.addPool(pool.id, connection)
            do throws(EngineError) { return try Self.reply(pool, engine) } catch { throw ControlError(error) }
        }
    }

    private static func reply(_ pool: PoolInfo, _ engine: Engine) throws(EngineError) -> VarlinkReply {
        let memory = SharedDescriptor(try engine.poolDescriptor(pool.id))
        return VarlinkReply(PoolReply(pool: WirePool(pool), poolFileDescriptor: 0), descriptors: [memory])
    }

    func destroyPool(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, survival, sessions) = (engine, survival, sessions)
        try await perform(call, .backup, PoolAddress.self) { (address, caller) throws(ControlError) in
            let pool = try engine.pool(address, for: caller)
            do throws(EngineError) { try engine.destroyPool(pool.id) } catch { throw ControlError(error) }
            sessions.forget(pool.id)
            survival.forget(pool.id)
        }
        return VarlinkReply()
    }

    func listPools(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        let pools = try await perform(call, .bookkeeping, ListPoolsParameters.self) { (parameters, caller) throws(ControlError) in
            let after = parameters.afterPoolId ?? 0
            guard after >= 0 else { throw .parameter("afterPoolId") }
            return engine.pools().filter { caller.sees($0) && Int($0.id.rawValue) > after }.map { WirePool($0) }
        }
        var rest = pools[...]
        while call.wantsMore, rest.count > Methods.listChunk {
            let reply = ListPoolsReply(pools: Array(rest.prefix(Methods.listChunk)), nextAfterPoolId: nil)
            // Whoever is gone needs no more; the last reply then goes nowhere.
            do throws(VarlinkDisconnected) { try await call.send(VarlinkReply(reply)) } catch { return VarlinkReply() }
            rest = rest.dropFirst(Methods.listChunk)
        }
        let last = Array(rest.prefix(Methods.listChunk))
        return VarlinkReply(ListPoolsReply(pools: last, nextAfterPoolId: rest.count > last.count ? last.last?.poolId : nil))
    }
}
