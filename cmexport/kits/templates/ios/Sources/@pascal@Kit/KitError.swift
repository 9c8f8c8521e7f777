import Foundation

/// Everything that can go wrong, the same six cases on every platform.
public enum KitError: Error, Equatable, Sendable {
    /// A file of the model, or of the kit, isn't where it should be.
    case modelMissing(path: String)
    /// A file is another one than the kit was made with.
    case modelDamaged(path: String)
    /// Core ML refused; its own words.
    case runtime(message: String)
    /// The app asked for something the model doesn't take.
    case badInput(what: String)
    /// The task was cancelled; nothing was drawn.
    case cancelled
    /// This device draws other pictures than the ones it should: PSNR of the worst, in dB.
    case selfTestFailed(decibels: Double)

    /// An error of a system library as one of these.
    init(_ error: any Error) {
        switch error {
        case let error as KitError: self = error
        case is CancellationError: self = .cancelled
        default: self = .runtime(message: error.localizedDescription)
        }
    }
}

extension KitError: LocalizedError {
    public var errorDescription: String? {
        switch self {
        case .modelMissing(let path): "The model is missing: \(path)"
        case .modelDamaged(let path): "The model is damaged: \(path)"
        case .runtime(let message): "The model could not run: \(message)"
        case .badInput(let what): what
        case .cancelled: "Cancelled"
        case .selfTestFailed(let decibels):
            "This device draws wrong pictures: \(String(format: "%.1f", decibels)) dB from the right ones"
        }
    }
}
