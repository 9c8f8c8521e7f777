import COrt
import Foundation

/// An ONNX file in ONNX Runtime, by its C interface.
final class Session {
    private static let api = ort_api()!.pointee
    private nonisolated(unsafe) static let environment = { () -> OpaquePointer? in
        var environment: OpaquePointer?
        try! check(api.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "stub", &environment))
        return environment
    }()

    private var session: OpaquePointer?
    private var memory: OpaquePointer?
    private var inputs: [String: ONNXTensorElementDataType] = [:]
    private var output = ""

    init(_ path: String) throws {
        let api = Self.api
        var options: OpaquePointer?
        try Self.check(api.CreateSessionOptions(&options))
        defer { api.ReleaseSessionOptions(options) }
        try Self.check(api.SetIntraOpNumThreads(options, 1))
        try Self.check(api.CreateSession(Self.environment, path, options, &session))
        try Self.check(api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory))
        var allocator: UnsafeMutablePointer<OrtAllocator>?
        try Self.check(api.GetAllocatorWithDefaultOptions(&allocator))
        var count = 0
        try Self.check(api.SessionGetInputCount(session, &count))
        for index in 0..<count {
            var name: UnsafeMutablePointer<CChar>?
            try Self.check(api.SessionGetInputName(session, index, allocator, &name))
            var info: OpaquePointer?
            try Self.check(api.SessionGetInputTypeInfo(session, index, &info))
            var tensor: OpaquePointer?
            try Self.check(api.CastTypeInfoToTensorInfo(info, &tensor))
            var type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
            try Self.check(api.GetTensorElementType(tensor, &type))
            inputs[String(cString: name!)] = type
            api.ReleaseTypeInfo(info)
            try Self.check(api.AllocatorFree(allocator, name))
        }
        var name: UnsafeMutablePointer<CChar>?
        try Self.check(api.SessionGetOutputName(session, 0, allocator, &name))
        output = String(cString: name!)
        try Self.check(api.AllocatorFree(allocator, name))
    }

    deinit {
        Self.api.ReleaseSession(session)
        Self.api.ReleaseMemoryInfo(memory)
    }

    func run(_ arrays: [String: MLMultiArray]) throws -> [String: MLMultiArray] {
        let api = Self.api
        guard Set(arrays.keys) == Set(inputs.keys) else {
            throw StubError("the model takes \(inputs.keys.sorted()), not \(arrays.keys.sorted())")
        }
        let names = arrays.keys.sorted()
        var values: [OpaquePointer?] = []
        // ONNX Runtime reads this memory while it runs.
        var held: [UnsafeMutableRawPointer] = []
        defer {
            values.forEach { api.ReleaseValue($0) }
            held.forEach { $0.deallocate() }
        }
        for name in names {
            let (value, memory) = try tensor(arrays[name]!, inputs[name]!)
            values.append(value)
            held.append(memory)
        }
        let spelled = (names + [output]).map { strdup($0) }
        defer { spelled.forEach { free($0) } }
        let given: [UnsafePointer<CChar>?] = spelled.dropLast().map { UnsafePointer($0) }
        var results: [OpaquePointer?] = [nil]
        try Self.check(api.Run(session, nil, given, values, values.count, [UnsafePointer(spelled.last!)], 1, &results))
        defer { api.ReleaseValue(results[0]) }
        return [output: try array(results[0])]
    }

    private func tensor(_ array: MLMultiArray, _ type: ONNXTensorElementDataType) throws -> (
        OpaquePointer?, UnsafeMutableRawPointer
    ) {
        let shape = array.shape.map(\.int64Value)
        let count = shape.reduce(1) { $0 * Int($1) }
        let wide = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
        guard array.dataType == (wide ? .int32 : .float32) else { throw StubError("an input is \(array.dataType)") }
        let bytes = count * (wide ? 8 : 4)
        let copy = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
        array.withUnsafeBytes { raw in
            if wide {
                for i in 0..<count {
                    let number = Int64(raw.load(fromByteOffset: 4 * i, as: Int32.self))
                    copy.storeBytes(of: number, toByteOffset: 8 * i, as: Int64.self)
                }
            } else {
                copy.copyMemory(from: raw.baseAddress!, byteCount: bytes)
            }
        }
        var value: OpaquePointer?
        try Self.check(api.CreateTensorWithDataAsOrtValue(memory, copy, bytes, shape, shape.count, type, &value))
        return (value, copy)
    }

    private var api: OrtApi { Self.api }

    /// Rows with a gap behind each, as the Neural Engine gives them.
    private func array(_ value: OpaquePointer?) throws -> MLMultiArray {
        var info: OpaquePointer?
        try Self.check(api.GetTensorTypeAndShape(value, &info))
        defer { api.ReleaseTensorTypeAndShapeInfo(info) }
        var rank = 0
        try Self.check(api.GetDimensionsCount(info, &rank))
        var shape = [Int64](repeating: 0, count: rank)
        try Self.check(api.GetDimensions(info, &shape, rank))
        var data: UnsafeMutableRawPointer?
        try Self.check(api.GetTensorMutableData(value, &data))
        let floats = data!.assumingMemoryBound(to: Float.self)
        let width = Int(shape[rank - 1])
        let rows = shape.dropLast().reduce(1) { $0 * Int($1) }
        let gapped = width + 16
        let padded = UnsafeMutablePointer<Float>.allocate(capacity: rows * gapped)
        for row in 0..<rows { for x in 0..<width { padded[row * gapped + x] = floats[row * width + x] } }
        var strides: [NSNumber] = [1]
        var step = gapped
        for side in shape.dropFirst().dropLast().reversed() {
            strides.insert(NSNumber(value: step), at: 0)
            step *= Int(side)
        }
        strides.insert(NSNumber(value: step), at: 0)
        return try MLMultiArray(
            dataPointer: padded, shape: shape.map { NSNumber(value: $0) }, dataType: .float32, strides: strides,
            deallocator: { $0.deallocate() })
    }

    private static func check(_ status: OpaquePointer?) throws {
        guard let status else { return }
        defer { api.ReleaseStatus(status) }
        throw StubError(String(cString: api.GetErrorMessage(status)!))
    }
}
