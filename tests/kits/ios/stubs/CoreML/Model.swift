import Foundation

public enum MLComputeUnits: Int, Sendable { case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine }

public final class MLModelConfiguration {
    public var computeUnits = MLComputeUnits.all
    public var functionName: String?
    public init() {}
}

/// Core ML's model, computed by ONNX Runtime: the package that it is compiled from holds the same network's ONNX export,
/// under its function's name or as model.onnx. Not sendable, to be as strict as any release of the SDK.
public final class MLModel {
    private let session: Session

    private init(_ session: Session) { self.session = session }

    public static func compileModel(at package: URL) async throws -> URL {
        let place = FileManager.default.temporaryDirectory.appending(path: "\(UUID().uuidString).mlmodelc")
        try FileManager.default.createDirectory(at: place, withIntermediateDirectories: true)
        try FileManager.default.copyItem(at: package, to: place.appending(path: "package"))
        return place
    }

    public static func load(contentsOf compiled: URL, configuration: MLModelConfiguration) async throws -> MLModel {
        let file = compiled.appending(path: "package/\(configuration.functionName ?? "model").onnx").path
        guard FileManager.default.fileExists(atPath: file) else {
            throw StubError("\(compiled.lastPathComponent) is no compiled model")
        }
        return MLModel(try Session(file))
    }

    public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        var arrays: [String: MLMultiArray] = [:]
        for name in input.featureNames { arrays[name] = input.featureValue(for: name)?.multiArrayValue }
        return try MLDictionaryFeatureProvider(dictionary: try session.run(arrays))
    }
}

public func autoreleasepool<T>(invoking body: () throws -> T) rethrows -> T { try body() }
