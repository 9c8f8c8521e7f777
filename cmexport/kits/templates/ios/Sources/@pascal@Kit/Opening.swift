import CoreML
import Foundation

/// How a compiled model is opened. The kit and the bench runner share this file.
enum Opening {
    /// The unit to compute on, and the function where a file holds several; nil on systems that know only one.
    static func configuration(_ units: MLComputeUnits, function: String?) -> MLModelConfiguration? {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        if let function {
            guard #available(macOS 15, iOS 18, *) else { return nil }
            configuration.functionName = function
        }
        return configuration
    }
}
