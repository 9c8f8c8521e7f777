import CoreGraphics
import CoreML
import CoreVideo
import XCTest

@testable import CmCifar10Kit

/// An engine whose graphs take as long as they are told, and count.
private final class Paced: Engine, OpenGraph, @unchecked Sendable {
    private let lock = NSLock()
    private var counts = (opened: 0, begun: 0)
    private let pause: Duration
    let failures: Int

    init(pause: Duration = .zero, failures: Int = 0) { (self.pause, self.failures) = (pause, failures) }

    var opened: Int { lock.withLock { counts.opened } }
    var begun: Int { lock.withLock { counts.begun } }

    func isPrepared(_ graph: Graph) -> Bool { opened > 0 }

    func open(_ graph: Graph) async throws(KitError) -> any OpenGraph {
        let count = lock.withLock { counts.opened += 1; return counts.opened }
        if count <= failures { throw .runtime(message: "no memory") }
        return self
    }

    func run(_ inputs: [String: Tensor]) async throws(KitError) -> Tensor {
        lock.withLock { counts.begun += 1 }
        // As Core ML: nothing stops it.
        await Task.detached { [pause] in try? await Task.sleep(for: pause) }.value
        return Tensor(.floats([Float](repeating: 0, count: 3072)), shape: [1, 3, 32, 32])
    }
}

final class GeneratorTests: XCTestCase {
    private let nowhere = URL(fileURLWithPath: "/nowhere")

    private func generator(_ engine: Paced) -> Generator {
        Generator(engine: engine, model: nowhere, golden: nowhere)
    }

    func testStates() async throws {
        let engine = Paced()
        let generator = generator(engine)
        let states = generator.states
        _ = try await generator.generate(.ship, seed: 1)
        Pressure.raise()
        // The handler's task comes when it comes.
        while await generator.isOpen { try await Task.sleep(for: .milliseconds(1)) }
        _ = try await generator.generate(.ship, seed: 1)
        XCTAssertEqual(engine.opened, 2)
        var found: [LoadState] = []
        for await state in states {
            found.append(state)
            if found.count == 6 { break }
        }
        XCTAssertEqual(
            found,
            [.unloaded, .preparing(firstTime: true), .ready, .unloaded, .preparing(firstTime: false), .ready])
    }

    func testACancelledRunEndsAfterTheGraphThatGoesOn() async throws {
        let engine = Paced(pause: .milliseconds(300))
        let generator = generator(engine)
        let drawing = Task { try await generator.generate(.ship, seed: 1) }
        while engine.begun == 0 { try await Task.sleep(for: .milliseconds(1)) }
        let waiting = Task { try await generator.generate(.ship, seed: 2) }
        drawing.cancel()
        waiting.cancel()
        for task in [drawing, waiting] {
            do {
                _ = try await task.value
                XCTFail("nothing was thrown")
            } catch { XCTAssertEqual(error as? KitError, .cancelled) }
        }
        // The one that waited was never begun.
        XCTAssertEqual(engine.begun, 1)
        _ = try await generator.generate(.ship, seed: 3)
        XCTAssertEqual(engine.begun, 2)
    }

    func testAFailedLoadIsTriedAgain() async throws {
        let generator = generator(Paced(failures: 1))
        do {
            _ = try await generator.generate(.ship, seed: 1)
            XCTFail("nothing was thrown")
        } catch { XCTAssertEqual(error, .runtime(message: "no memory")) }
        _ = try await generator.generate(.ship, seed: 1)
    }

    func testAWrongPictureFailsTheSelfTest() async throws {
        let generator = Generator(engine: Paced(), model: nowhere, golden: try Generator().golden)
        do {
            _ = try await generator.selfTest()
            XCTFail("nothing was thrown")
        } catch { guard case .selfTestFailed(let decibels) = error, decibels < 30 else { return XCTFail("\(error)") } }
    }

    func testABrokenCompiledModelIsCompiledAgain() async throws {
        let store = ModelStore(folder: FileManager.default.temporaryDirectory.appending(path: UUID().uuidString))
        let broken = store.place(of: Model.packages[0])
        try FileManager.default.createDirectory(at: broken, withIntermediateDirectories: true)
        let generator = try Generator(model: .bundled, store: store)
        let (one, other) = (try await generator.generatePixels(.ship, seed: 1), try Generator())
        let expected = try await other.generatePixels(.ship, seed: 1)
        XCTAssertEqual(one, expected)
    }

    func testEditedImages() async throws {
        let generator = try Generator()
        // 64 x 48: the middle is taken, at half the size.
        let pixels = (0..<64 * 48 * 4).map { UInt8(truncatingIfNeeded: $0 * 13) }
        let photo = CGImage(width: 64, height: 48, pixels: pixels)
        let white = CGImage(width: 32, height: 32, pixels: [UInt8](repeating: 255, count: 4096))
        let kept = try await generator.edit(photo, keeping: white, label: .cat, seed: 5)
        let expected = try Picture(photo, width: 32, height: 32, channels: 3).image()
        XCTAssertEqual(kept.pixels, expected.pixels)
        let black = CGImage(width: 32, height: 32, pixels: [UInt8](repeating: 0, count: 4096))
        let painted = try await generator.edit(photo, keeping: black, label: .cat, seed: 5)
        XCTAssertNotEqual(painted.pixels, expected.pixels)
    }

    func testPicturesThatCoreMLGivesAsPixels() throws {
        // Blue, green, red, alpha; rows with a gap behind each.
        let colours = CVPixelBuffer(
            width: 2, height: 2, format: kCVPixelFormatType_32BGRA,
            bytes: [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 10, 11, 12, 0])
        XCTAssertEqual(
            try CoreMLGraph.bytes(colours, shape: [1, 2, 2, 3]).numbers,
            .bytes([3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]))
        let grey = CVPixelBuffer(width: 2, height: 2, format: kCVPixelFormatType_OneComponent8, bytes: [1, 2, 3, 4])
        XCTAssertEqual(try CoreMLGraph.bytes(grey, shape: [1, 2, 2, 1]).numbers, .bytes([1, 2, 3, 4]))
    }

    func testInterpolation() async throws {
        let generator = try Generator()
        let way = try await generator.interpolate(.ship, from: 1, to: 2, count: 3)
        let first = try await generator.generate(.ship, seed: 1)
        XCTAssertEqual(way.count, 3)
        // The sphere's formula rounds where a seed's own noise does not.
        let largest = zip(way[0].pixels, first.pixels).map { abs(Int($0) - Int($1)) }.max()
        XCTAssertLessThanOrEqual(try XCTUnwrap(largest), 1)
        do {
            _ = try await generator.interpolate(.ship, from: 1, to: 2, count: 1)
            XCTFail("nothing was thrown")
        } catch { guard case .badInput = error else { return XCTFail("\(error)") } }
    }

    func testErrorsHaveWords() {
        let errors: [KitError] = [
            .modelMissing(path: "a"), .modelDamaged(path: "a"), .runtime(message: "a"), .badInput(what: "a"),
            .cancelled, .selfTestFailed(decibels: 12.34),
        ]
        XCTAssertEqual(Set(errors.map(\.localizedDescription)).count, 6)
        XCTAssertTrue(errors[5].localizedDescription.contains("12.3 dB"))
    }

    /// Set CMEXPORT_RUNS to see whether so many runs take more memory than the first few.
    func testMemoryDoesNotGrow() async throws {
        let runs = Int(ProcessInfo.processInfo.environment["CMEXPORT_RUNS"] ?? "") ?? 20
        let generator = try Generator()
        for seed in 0..<10 { _ = try await generator.generate(.ship, seed: UInt64(seed)) }
        let before = try resident()
        for seed in 0..<runs { _ = try await generator.generate(.ship, seed: UInt64(seed)) }
        let growth = try resident() - before
        print("memory: \(growth) KiB more after \(runs) runs")
        XCTAssertLessThan(growth, 1024)
    }

    private func resident() throws -> Int {
        let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
        let line = try XCTUnwrap(status.split(separator: "\n").first { $0.hasPrefix("VmRSS") })
        return try XCTUnwrap(line.split(separator: " ").compactMap { Int($0) }.first)
    }
}
