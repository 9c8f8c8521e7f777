import CoreML
import XCTest

@testable import CmexportBench

final class ArraysTests: XCTestCase {
    func testHalf() {
        XCTAssertEqual(Arrays.half(0x3C00), 1)
        XCTAssertEqual(Arrays.half(0xC000), -2)
        XCTAssertEqual(Arrays.half(0x7BFF), 65504)
        XCTAssertEqual(Arrays.half(0x0001), 0x1p-24)
        XCTAssertEqual(Arrays.half(0x0400), 0x1p-14)
        XCTAssertEqual(Arrays.half(0xFC00), -.infinity)
        XCTAssertTrue(Arrays.half(0x7E00).isNaN)
    }

    func testFloatsFollowTheStrides() throws {
        // Two rows of three with a gap behind each, as the Neural Engine gives them.
        var numbers: [Float32] = [1, 2, 3, 99, 4, 5, 6, 99]
        try numbers.withUnsafeMutableBytes { raw in
            let array = try MLMultiArray(
                dataPointer: raw.baseAddress!, shape: [2, 3], dataType: .float32, strides: [4, 1])
            XCTAssertEqual(Arrays.floats(array), [1, 2, 3, 4, 5, 6])
        }
    }

    func testUnits() async throws {
        let units = try await MainActor.run { try Bench.units("ane") }
        XCTAssertEqual(units, .cpuAndNeuralEngine)
    }
}
