import FoundationEssentials
import Testing

@testable import Varlink

/// The wire is stricter than JSONDecoder. Each refused text below is checked for what the decoder alone would do with it.
@Suite struct JSONStructureTests {
    private func fault(_ text: String) -> JSONFault.Kind? { fault(Array(text.utf8)) }

    private func fault(_ bytes: [UInt8]) -> JSONFault.Kind? {
        do {
            _ = try JSONStructure.members(of: bytes)
            return nil
        } catch {
            return error.kind
        }
    }

    @Test func membersAreFoundWithTheirTexts() throws {
        let text = #" {"method" : "a.b.C", "parameters":{"x":[1,{"y":null}]}, "more":true,"":-0.5e+3} "#
        let bytes = Array(text.utf8)
        let members = try JSONStructure.members(of: bytes)
        #expect(members.map(\.name) == ["method", "parameters", "more", ""])
        #expect(members.map(\.kind) == [.string, .object, .bool, .number])
        #expect(
            members.map { String(decoding: bytes[$0.value], as: UTF8.self) } == [#""a.b.C""#, #"{"x":[1,{"y":null}]}"#, "true", "-0.5e+3"])
    }

    @Test func twoEqualMembersAreRefusedAtEveryLevelHoweverSpelled() {
        #expect(fault(#"{"a":1,"a":2}"#) == .duplicateMember("a"))
        #expect(fault(#"{"a":1,"\u0061":2}"#) == .duplicateMember("a"))
        #expect(fault(#"{"x":[{"b":{},"b":{}}]}"#) == .duplicateMember("b"))
        #expect(fault(#"{"a":{"c":1},"b":{"c":1}}"#) == nil)
        // Why the check is there: the decoder takes one of the two in silence.
        #expect((try? JSONDecoder().decode([String: Int].self, from: Data(#"{"a":1,"a":2}"#.utf8))) != nil)
    }

    @Test func depthIsBounded() {
        func nested(_ n: Int) -> String { #"{"a":"# + String(repeating: "[", count: n) + String(repeating: "]", count: n) + "}" }
        #expect(fault(nested(31)) == nil)
        #expect(fault(nested(32)) == .tooDeep)
        #expect(fault(nested(100_000)) == .tooDeep)
        #expect(fault(String(repeating: #"{"a":"#, count: 33)) == .tooDeep)
    }

    @Test func textIsUTF8WithoutLoneSurrogatesOrRawControlBytes() {
        #expect(fault([0x7B, 0x22, 0xC3, 0x28, 0x22, 0x3A, 0x31, 0x7D]) == .notUTF8)
        #expect(fault([0x7B, 0x22, 0xED, 0xA0, 0x80, 0x22, 0x3A, 0x31, 0x7D]) == .notUTF8)
        #expect(fault(#"{"a":"\ud800"}"#) == .syntax)
        #expect(fault(#"{"a":"\udc00"}"#) == .syntax)
        #expect(fault(#"{"a":"\ud800\u0041"}"#) == .syntax)
        #expect(fault(#"{"a":"\ud83d\ude00"}"#) == nil)
        #expect(fault("{\"a\":\"\u{1}\"}") == .syntax)
        #expect(fault([0x7B, 0x22, 0x00, 0x22, 0x3A, 0x31, 0x7D]) == .syntax)
        #expect(fault(#"{"a":"\u0000"}"#) == nil)
    }

    @Test(arguments: [
        "", " ", "null", "[]", "1", #""a""#, "{", "}", "{}}", "{} {}", "{,}", #"{"a"}"#, #"{"a":}"#, #"{"a":1,}"#, #"{a:1}"#, #"{'a':1}"#,
        #"{"a":01}"#, #"{"a":+1}"#, #"{"a":.5}"#, #"{"a":1.}"#, #"{"a":1e}"#, #"{"a":-}"#, #"{"a":NaN}"#, #"{"a":Infinity}"#,
        #"{"a":0x10}"#,
        #"{"a":tru}"#, #"{"a":[1,]}"#, #"{"a":"\x"}"#, #"{"a":"\u12g4"}"#, #"{"a":"b}"#, "{\"a\":1}//", "\u{FEFF}{}",
    ])
    func everythingElseIsNoObject(_ text: String) {
        #expect(fault(text) != nil)
    }

    struct Numbers: VarlinkParameters {
        static let parameterNames = ["count", "size", "name"]
        var count: Int?
        var size: UInt64?
        var name: String?
    }

    @Test func numbersOutOfRangeAndMistypedMembersAreNamed() throws {
        func parameter(_ text: String) -> VarlinkError? {
            do throws(VarlinkError) {
                _ = try ParameterText.decode(Numbers.self, from: Array(text.utf8))
                return nil
            } catch { return error }
        }
        #expect(parameter(#"{"count":9223372036854775807,"size":18446744073709551615}"#) == nil)
        #expect(parameter(#"{"count":-9223372036854775808}"#) == nil)
        #expect(parameter(#"{"count":null}"#) == nil)
        #expect(parameter(#"{"name":"a","count":9223372036854775808}"#) == .invalidParameter("count"))
        #expect(parameter(#"{"count":1,"size":18446744073709551616}"#) == .invalidParameter("size"))
        #expect(parameter(#"{"count":1,"size":-1}"#) == .invalidParameter("size"))
        #expect(parameter(#"{"count":1.5}"#) == .invalidParameter("count"))
        #expect(parameter(#"{"count":1e999}"#) == .invalidParameter("count"))
        #expect(parameter(#"{"count":"1"}"#) == .invalidParameter("count"))
        #expect(parameter(#"{"count":true}"#) == .invalidParameter("count"))
        #expect(parameter(#"{"name":7}"#) == .invalidParameter("name"))
        #expect(parameter(#"{"other":7}"#) == .invalidParameter("other"))
    }

    @Test func headersAreCheckedAsTheSpecificationSays() throws {
        func fault(_ text: String) -> HeaderFault? {
            do throws(HeaderFault) {
                _ = try CallHeader(parsing: Array(text.utf8))
                return nil
            } catch { return error }
        }
        #expect(fault(#"{"method":"a.b.C"}"#) == nil)
        #expect(try CallHeader(parsing: Array(#"{"method":"a.\u0062.\u0043"}"#.utf8)).method == "a.b.C")
        #expect(fault(#"{"method":"a.b.C","parameters":null,"more":null,"oneway":false}"#) == nil)
        #expect(fault(#"{"method":"a.b.C","org.example":{"any":1}}"#) == nil)
        #expect(fault(#"{"method":"a.b.C","extra":1}"#) == .unknownMember("extra"))
        #expect(fault(#"{"parameters":{}}"#) == .missingMethod)
        #expect(fault(#"{"method":1}"#) == .mistypedMember("method"))
        #expect(fault(#"{"method":"a.b.C","parameters":[]}"#) == .mistypedMember("parameters"))
        #expect(fault(#"{"method":"a.b.C","more":1}"#) == .mistypedMember("more"))
        #expect(fault(#"{"method":"a.b.C","more":true,"oneway":true}"#) == .contradictoryFlags)
        #expect(fault(#"{"method":"a.b.C","more":true,"oneway":false}"#) == nil)
    }
}
