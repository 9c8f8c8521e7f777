import CoreML
import XCTest

@testable import CmexportBench

final class BenchTests: XCTestCase {
    func testUnits() async throws {
        let units = try await MainActor.run { try Bench.units("ane") }
        XCTAssertEqual(units, .cpuAndNeuralEngine)
    }
}
