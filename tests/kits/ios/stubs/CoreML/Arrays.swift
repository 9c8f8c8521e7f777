import CoreVideo
import Foundation

public enum MLMultiArrayDataType: Int, Sendable { case float64 = 65600, float32 = 65568, float16 = 65552, int32 = 131104 }

public final class MLMultiArray {
    public let shape: [NSNumber]
    public let strides: [NSNumber]
    public let dataType: MLMultiArrayDataType
    private let memory: UnsafeMutableRawPointer
    private let bytes: Int
    private let deallocator: (UnsafeMutableRawPointer) -> Void

    private static func width(_ type: MLMultiArrayDataType) -> Int {
        switch type {
        case .float64: 8
        case .float16: 2
        case .float32, .int32: 4
        }
    }

    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        var strides: [NSNumber] = []
        var step = 1
        for side in shape.reversed() {
            strides.insert(NSNumber(value: step), at: 0)
            step *= side.intValue
        }
        (self.shape, self.strides, self.dataType) = (shape, strides, dataType)
        deallocator = { $0.deallocate() }
        bytes = step * Self.width(dataType)
        memory = .allocate(byteCount: max(bytes, 1), alignment: 64)
    }

    public init(
        dataPointer: UnsafeMutableRawPointer, shape: [NSNumber], dataType: MLMultiArrayDataType, strides: [NSNumber],
        deallocator: ((UnsafeMutableRawPointer) -> Void)? = nil
    ) throws {
        (self.shape, self.strides, self.dataType) = (shape, strides, dataType)
        self.deallocator = deallocator ?? { _ in }
        memory = dataPointer
        let last = zip(shape, strides).reduce(0) { $0 + ($1.0.intValue - 1) * $1.1.intValue }
        bytes = (last + 1) * Self.width(dataType)
    }

    deinit { deallocator(memory) }

    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try body(UnsafeRawBufferPointer(start: memory, count: bytes))
    }

    public func withUnsafeMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> R) rethrows -> R {
        try body(UnsafeMutableRawBufferPointer(start: memory, count: bytes), strides.map(\.intValue))
    }
}

public final class MLFeatureValue {
    public let multiArrayValue: MLMultiArray?
    public let imageBufferValue: CVPixelBuffer?

    public init(multiArray: MLMultiArray) { (multiArrayValue, imageBufferValue) = (multiArray, nil) }
    public init(pixelBuffer: CVPixelBuffer) { (multiArrayValue, imageBufferValue) = (nil, pixelBuffer) }
}

public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for name: String) -> MLFeatureValue?
}

public final class MLDictionaryFeatureProvider: MLFeatureProvider {
    private let values: [String: MLFeatureValue]

    public init(dictionary: [String: Any]) throws {
        values = dictionary.compactMapValues { $0 as? MLFeatureValue ?? ($0 as? MLMultiArray).map(MLFeatureValue.init) }
        guard values.count == dictionary.count else { throw StubError("a feature is neither a value nor an array") }
    }

    public var featureNames: Set<String> { Set(values.keys) }
    public func featureValue(for name: String) -> MLFeatureValue? { values[name] }
}

struct StubError: LocalizedError {
    let errorDescription: String?
    init(_ text: String) { errorDescription = text }
}
