import CoreML
import CoreVideo
import Foundation

/// Runs graphs with Core ML.
struct CoreMLEngine: Engine {
    let model: URL
    let packages: [Package]
    let units: MLComputeUnits
    let store: ModelStore

    /// - Parameters:
    ///   - model: the folder that the packages lie in.
    ///   - packages: what they are called, and their hashes.
    ///   - units: where Core ML may compute.
    ///   - store: where compiled models are kept.
    init(model: URL, packages: [Package], units: MLComputeUnits, store: ModelStore) {
        (self.model, self.packages, self.units, self.store) = (model, packages, units, store)
    }

    func isPrepared(_ graph: Graph) -> Bool {
        packages.contains { $0.path == graph.file && store.holds($0) }
    }

    func open(_ graph: Graph) async throws(KitError) -> any OpenGraph {
        guard let package = packages.first(where: { $0.path == graph.file }) else {
            throw .modelMissing(path: graph.file)
        }
        guard let configuration = Opening.configuration(units, function: graph.function) else {
            throw .runtime(message: "models with several functions need iOS 18 or macOS 15")
        }
        let known = store.holds(package)
        do {
            return try await load(package, graph, configuration)
        } catch {
            // What was compiled before may have suffered since; what was compiled just now has not.
            guard known, case .runtime = error else { throw error }
            store.remove(package)
            return try await load(package, graph, configuration)
        }
    }

    private func load(
        _ package: Package, _ graph: Graph, _ configuration: MLModelConfiguration
    ) async throws(KitError) -> any OpenGraph {
        let compiled = try await store.compiled(package, in: model) { try await MLModel.compileModel(at: $0) }
        do {
            return CoreMLGraph(graph, try await MLModel.load(contentsOf: compiled, configuration: configuration))
        } catch { throw KitError(error) }
    }
}

/// `@unchecked`, since `MLModel` may not be sendable: it is touched on `queue` alone.
final class CoreMLGraph: OpenGraph, @unchecked Sendable {
    private let graph: Graph
    private let model: MLModel
    // A prediction holds its thread for as long as it takes: not one of the few that tasks share.
    private let queue = DispatchQueue(label: "cmexport.kit", qos: .userInitiated)

    init(_ graph: Graph, _ model: MLModel) {
        (self.graph, self.model) = (graph, model)
    }

    func run(_ inputs: [String: Tensor]) async throws(KitError) -> Tensor {
        let result: Result<Tensor, KitError> = await withCheckedContinuation { continuation in
            queue.async {
                continuation.resume(
                    returning: autoreleasepool {
                        do { return .success(try self.predict(inputs)) } catch { return .failure(KitError(error)) }
                    })
            }
        }
        return try result.get()
    }

    private func predict(_ inputs: [String: Tensor]) throws -> Tensor {
        let features = try MLDictionaryFeatureProvider(dictionary: inputs.mapValues { try Self.feature($0) })
        guard let value = try model.prediction(from: features).featureValue(for: graph.output.name) else {
            throw KitError.runtime(message: "the model has no output \(graph.output.name)")
        }
        if let pixels = value.imageBufferValue { return try Self.bytes(pixels, shape: graph.output.shape) }
        guard let array = value.multiArrayValue else {
            throw KitError.runtime(message: "the model's \(graph.output.name) is no array")
        }
        return Tensor(.floats(Arrays.floats(array)), shape: array.shape.map(\.intValue))
    }

    private static func feature(_ tensor: Tensor) throws -> MLFeatureValue {
        let array =
            switch tensor.numbers {
            case .floats(let numbers):
                try numbers.withUnsafeBytes { try Arrays.filled(.float32, shape: tensor.shape, with: $0) }
            case .integers(let numbers):
                try numbers.withUnsafeBytes { try Arrays.filled(.int32, shape: tensor.shape, with: $0) }
            case .bytes:
                throw KitError.badInput(what: "Core ML takes no arrays of bytes")
            }
        return MLFeatureValue(multiArray: array)
    }

    /// Pixels as Core ML draws them, BGRA or one grey byte, as RGB or grey.
    static func bytes(_ pixels: CVPixelBuffer, shape: [Int]) throws -> Tensor {
        CVPixelBufferLockBaseAddress(pixels, .readOnly)
        defer { CVPixelBufferUnlockBaseAddress(pixels, .readOnly) }
        guard let base = CVPixelBufferGetBaseAddress(pixels) else {
            throw KitError.runtime(message: "the model's picture has no memory")
        }
        let grey = CVPixelBufferGetPixelFormatType(pixels) == kCVPixelFormatType_OneComponent8
        let (width, height) = (CVPixelBufferGetWidth(pixels), CVPixelBufferGetHeight(pixels))
        let row = CVPixelBufferGetBytesPerRow(pixels)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(width * height * (grey ? 1 : 3))
        for y in 0..<height {
            let line = base.advanced(by: y * row).assumingMemoryBound(to: UInt8.self)
            for x in 0..<width {
                if grey {
                    bytes.append(line[x])
                } else {
                    for channel in [2, 1, 0] { bytes.append(line[4 * x + channel]) }
                }
            }
        }
        return Tensor(.bytes(bytes), shape: shape)
    }
}
