import XCTest

@testable import CmCifar10Kit

/// Where compiled models are kept, on folders of the system's temporary place.
final class StoreTests: XCTestCase {
    private let place = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    private var model: URL { place.appending(path: "model") }
    private var package: Package {
        Package(
            path: "a.mlpackage", key: "0123456789abcdef",
            files: [
                .init(
                    path: "a.mlpackage/b", bytes: 3, sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
            ])
    }

    override func setUpWithError() throws {
        try FileManager.default.createDirectory(
            at: model.appending(path: "a.mlpackage"), withIntermediateDirectories: true)
        try Data("abc".utf8).write(to: model.appending(path: "a.mlpackage/b"))
    }

    override func tearDownWithError() throws {
        try FileManager.default.removeItem(at: place)
    }

    private func store(system: String = "Version 18.1 (Build 22B83)") -> ModelStore {
        ModelStore(folder: place.appending(path: "store"), system: system)
    }

    private let compile: @Sendable (URL) throws -> URL = { package in
        let fresh = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
        try FileManager.default.copyItem(at: package, to: fresh)
        return fresh
    }

    private func kept() throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: place.appending(path: "store").path).sorted()
    }

    func testCompiledOnce() async throws {
        let compiled = try await store().compiled(package, in: model, compile: compile)
        XCTAssertEqual(compiled.lastPathComponent, "0123456789abcdef-Version-18-1--Build-22B83-.mlmodelc")
        XCTAssertTrue(FileManager.default.fileExists(atPath: compiled.appending(path: "b").path))
        let again = try await store().compiled(package, in: model) { _ in throw KitError.cancelled }
        XCTAssertEqual(again, compiled)
    }

    func testAnUpdateOfTheSystemCompilesAnew() async throws {
        _ = try await store().compiled(package, in: model, compile: compile)
        let newer = store(system: "Version 18.2 (Build 22C152)")
        XCTAssertFalse(newer.holds(package))
        let compiled = try await newer.compiled(package, in: model, compile: compile)
        XCTAssertEqual(try kept(), [compiled.lastPathComponent])
    }

    func testNothingIsLeftOfACompilerThatFails() async throws {
        do {
            _ = try await store().compiled(package, in: model) { _ in throw CocoaError(.fileReadCorruptFile) }
            XCTFail("nothing was thrown")
        } catch { guard case .runtime = error else { return XCTFail("\(error)") } }
        XCTAssertFalse(store().holds(package))
    }

    func testTwoAtOnce() async throws {
        let store = store()
        let (package, model, compile) = (package, model, compile)
        try await withThrowingTaskGroup(of: URL.self) { group in
            for _ in 0..<8 { group.addTask { try await store.compiled(package, in: model, compile: compile) } }
            for try await compiled in group { XCTAssertEqual(compiled, store.place(of: package)) }
        }
        XCTAssertEqual(try kept(), [store.place(of: package).lastPathComponent])
    }

    func testADamagedFile() async throws {
        for damage in ["abd", "ab"] {
            try Data(damage.utf8).write(to: model.appending(path: "a.mlpackage/b"))
            XCTAssertThrowsError(try ModelStore.check(package, in: model)) {
                guard case KitError.modelDamaged = $0 else { return XCTFail("\($0)") }
            }
        }
        try FileManager.default.removeItem(at: model.appending(path: "a.mlpackage/b"))
        XCTAssertThrowsError(try ModelStore.check(package, in: model)) {
            guard case KitError.modelMissing = $0 else { return XCTFail("\($0)") }
        }
    }
}
