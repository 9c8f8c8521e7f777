import CoreML
import Foundation

extension Arrays {
    /// Read a file of the job as the input `spec`.
    static func read(_ file: URL, _ spec: Job.Tensor) throws -> MLMultiArray {
        guard let type = type(spec.dtype) else {
            throw StageError("start", "Core ML has no multi-arrays of \(spec.dtype)")
        }
        guard let data = try? Data(contentsOf: file) else {
            throw StageError("start", "\(file.path): can't be read")
        }
        let count = spec.shape.reduce(1, *)
        guard data.count == count * bytes(type) else {
            throw StageError("start", "\(file.lastPathComponent) holds \(data.count) bytes, not \(count * bytes(type))")
        }
        return try data.withUnsafeBytes { try filled(type, shape: spec.shape, with: $0) }
    }
}
