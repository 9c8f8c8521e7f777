import Foundation

/// `job.json` of bench_device/README.md. Keys that this runner does not need are left out.
public struct Job: Decodable, Sendable {
    public struct Tensor: Decodable, Sendable {
        public let name: String
        public let dtype: String
        public let shape: [Int]
    }

    public let contract: Int
    public let name: String
    public let target: String
    public let model: String
    public let function: String?
    public let provider: String
    public let inputs: [Tensor]
    public let outputs: [Tensor]
    public let runs: [[String: String]]
    public let warmup: Int
    public let minRuns: Int
    public let minSeconds: Double
    public let repeats: Int
    public let sustainedMinutes: Double

    enum CodingKeys: String, CodingKey {
        case contract, name, target, model, function, provider, inputs, outputs, runs, warmup, repeats
        case minRuns = "min_runs"
        case minSeconds = "min_seconds"
        case sustainedMinutes = "sustained_minutes"
    }

    /// Read the job that lies in `folder`.
    ///
    /// - Throws: `StageError` when it isn't there, is damaged, or is of another contract.
    public static func read(from folder: URL) throws -> Job {
        let file = folder.appending(path: "job.json")
        let job: Job
        do {
            job = try JSONDecoder().decode(Job.self, from: Data(contentsOf: file))
        } catch {
            throw StageError("start", "\(file.path): can't be read: \(error)")
        }
        guard job.contract == 1 else {
            throw StageError("start", "job.json has contract \(job.contract), this runner 1")
        }
        guard job.target == "coreml" else {
            throw StageError("start", "this runner runs coreml artefacts, not \(job.target)")
        }
        guard !job.runs.isEmpty else { throw StageError("start", "job.json has no runs") }
        return job
    }
}

/// Something expected went wrong; `stage` is one of "start", "load", "first", "run".
public struct StageError: Error {
    public let stage: String
    public let message: String

    public init(_ stage: String, _ message: String) {
        self.stage = stage
        self.message = String(message.prefix(500)).replacingOccurrences(of: "\n", with: " ")
    }
}
