import CoreML
import Foundation

#if canImport(Accelerate)
import Accelerate
#endif

/// Works through one job in mode "alone" (bench_device/README.md) and tells what it measured.
@MainActor
public final class Bench {
    static let version = "1"
    static let canaryRuns = 5
    static let canarySide = 256

    private let folder: URL
    private let lines: Lines
    private let clock = ContinuousClock()
    private let began = ContinuousClock().now
    private var canaryA = [Float](repeating: 0.5, count: Bench.canarySide * Bench.canarySide)
    private var canaryOut = [Float](repeating: 0, count: Bench.canarySide * Bench.canarySide)

    public init(folder: URL, lines: Lines) {
        self.folder = folder
        self.lines = lines
    }

    /// Run the job. False when an `error` line was written.
    public func run() async -> Bool {
        do {
            try await work()
            return true
        } catch let failure as StageError {
            try? lines.tell("error", ["stage": failure.stage, "message": failure.message])
        } catch {
            try? lines.tell("error", ["stage": "run", "message": StageError("run", "\(error)").message])
        }
        return false
    }

    /// Compute units by the names that jobs and users have for them.
    static func units(_ provider: String) throws -> MLComputeUnits {
        switch provider {
        case "cpu", "cpuOnly": return .cpuOnly
        case "gpu", "cpuAndGPU": return .cpuAndGPU
        case "ane", "cpuAndNeuralEngine": return .cpuAndNeuralEngine
        case "all", "auto", "coreml": return .all
        default: throw StageError("start", "unknown compute unit \(provider); known: cpu, gpu, ane, all")
        }
    }

    private func work() async throws {
        let job = try Job.read(from: folder)
        guard let configuration = Opening.configuration(try Self.units(job.provider), function: job.function) else {
            throw StageError("start", "models with several graphs need macOS 15 or iOS 18")
        }
        let inputs = try job.runs.map { try features($0, job) }
        let before = Machine.footprint()

        let source = folder.appending(path: job.model)
        let compiled = try await staged("load") { try await MLModel.compileModel(at: source) }
        defer { try? FileManager.default.removeItem(at: compiled) }
        var model: MLModel?
        var loads: [Double] = []
        for _ in 0..<2 {
            model = nil
            let start = clock.now
            model = try await staged("load") { try await MLModel.load(contentsOf: compiled, configuration: configuration) }
            loads.append(milliseconds(since: start))
        }
        guard let model else { throw StageError("load", "no model") }
        try await meta(job, compiled, configuration)
        for (index, ms) in loads.enumerated() { try lines.tell("load", ["ms": ms, "cold": index == 0]) }

        let start = clock.now
        _ = try staged("first") { try model.prediction(from: inputs[0]) }
        try lines.tell("first", ["ms": milliseconds(since: start)])
        for (index, input) in inputs.enumerated() { try pictures(index, staged("run") { try model.prediction(from: input) }, job) }
        try heat()
        for _ in 0..<job.warmup { _ = try staged("run") { try model.prediction(from: inputs[0]) } }
        for number in 0..<job.repeats { try samples(number, model, inputs[0], job) }
        for minute in 0..<Int(job.sustainedMinutes.rounded(.up)) { try sustained(minute, model, inputs[0], job) }
        try memory(before)
        try heat()
        try lines.tell("done")
    }

    private func staged<T>(_ stage: String, _ body: () throws -> T) throws -> T {
        do { return try body() } catch { throw StageError(stage, error.localizedDescription) }
    }

    private func staged<T>(_ stage: String, _ body: () async throws -> T) async throws -> T {
        do { return try await body() } catch { throw StageError(stage, error.localizedDescription) }
    }

    private func features(_ run: [String: String], _ job: Job) throws -> MLDictionaryFeatureProvider {
        var values: [String: MLFeatureValue] = [:]
        for spec in job.inputs {
            guard let file = run[spec.name] else { throw StageError("start", "a run has no input \(spec.name)") }
            values[spec.name] = MLFeatureValue(multiArray: try Arrays.read(folder.appending(path: file), spec))
        }
        return try MLDictionaryFeatureProvider(dictionary: values)
    }

    private func meta(_ job: Job, _ compiled: URL, _ configuration: MLModelConfiguration) async throws {
        var (device, why) = Machine.describe()
        var placement: [String: Int]?
        var onCPU: [String] = []
        do {
            let plan = try await Placement.plan(of: compiled, function: job.function, configuration: configuration)
            placement = plan.operations.isEmpty ? nil : plan.operations
            onCPU = plan.onCPU.sorted()
        } catch {
            why["placement"] = StageError("load", "no compute plan: \(error.localizedDescription)").message
        }
        if placement == nil && why["placement"] == nil { why["placement"] = "the compute plan names no operation" }
        device["facts"] = ["thermal_state": Machine.thermalStatus]
        // The unit that most operations are planned for; which one really ran them is not told.
        let realized = placement?.max { ($0.value, $1.key) < ($1.value, $0.key) }?.key
        if realized == nil { why["realized"] = "Core ML does not tell" }
        why["threads"] = "Core ML's own affair"
        let system = ProcessInfo.processInfo.operatingSystemVersion
        try lines.tell(
            "meta",
            [
                "contract": 1, "runner": "apple", "runner_version": Self.version, "runtime": "coreml",
                "runtime_version": "\(system.majorVersion).\(system.minorVersion).\(system.patchVersion)",
                "realized": realized, "threads": nil, "placement": placement, "fallback_ops": onCPU,
                "tools": [String: String](), "device": device,
            ],
            why: why
        )
    }

    private func pictures(_ index: Int, _ outputs: MLFeatureProvider, _ job: Job) throws {
        for spec in job.outputs {
            guard let array = outputs.featureValue(for: spec.name)?.multiArrayValue else {
                throw StageError("run", "the model has no output \(spec.name)")
            }
            try lines.tell(
                "output",
                [
                    "run": index, "name": spec.name, "dtype": "float32", "shape": array.shape.map(\.intValue),
                    "data": Arrays.floats(array).withUnsafeBytes { Data($0) }.base64EncodedString(),
                ]
            )
        }
    }

    private func samples(_ number: Int, _ model: MLModel, _ input: MLFeatureProvider, _ job: Job) throws {
        // In rounds of some seconds: a run that is cut short has told what it had.
        let start = clock.now
        var count = 0
        var round = 0
        while count < job.minRuns || seconds(since: start) < job.minSeconds {
            var canary = sing()
            let begin = seconds(since: began)
            let times = try timed(model, input, runs: 1, lasting: min(2.0, max(job.minSeconds, 0.001)))
            let end = seconds(since: began)
            canary += sing()
            count += times.count
            try lines.tell(
                "samples",
                ["repeat": number, "round": round, "ms": times, "canary_ms": canary, "start_s": begin, "end_s": end]
            )
            round += 1
        }
    }

    private func sustained(_ minute: Int, _ model: MLModel, _ input: MLFeatureProvider, _ job: Job) throws {
        var canary = sing()
        let times = try timed(model, input, runs: 1, lasting: min(60, 60 * (job.sustainedMinutes - Double(minute))))
        canary += sing()
        try lines.tell(
            "minute", ["minute": minute, "ms": times, "canary_ms": canary, "celsius": nil],
            why: ["celsius": "Apple tells a state, no temperature"]
        )
        try heat()
    }

    private func timed(_ model: MLModel, _ input: MLFeatureProvider, runs: Int, lasting: Double) throws -> [Double] {
        var times: [Double] = []
        let begin = clock.now
        while times.count < runs || seconds(since: begin) < lasting {
            let start = clock.now
            try autoreleasepool { _ = try staged("run") { try model.prediction(from: input) } }
            times.append(milliseconds(since: start))
        }
        return times
    }

    /// A float32 matrix product that knows nothing of the model: when it slows down, the clock did.
    private func sing() -> [Double] {
        let side = Int32(Self.canarySide)
        // The first one finds the model's data in the caches: not counted.
        return (0...Self.canaryRuns).map { _ in
            let start = clock.now
            cblas_sgemm(
                CblasRowMajor, CblasNoTrans, CblasNoTrans, side, side, side, 1, canaryA, side, canaryA, side, 0,
                &canaryOut, side)
            return milliseconds(since: start)
        }.dropFirst().map { $0 }
    }

    private func memory(_ before: (now: Double, peak: Double)?) throws {
        let after = Machine.footprint()
        let why = "the kernel does not tell"
        try lines.tell(
            "memory",
            [
                "before_mb": before?.now, "peak_mb": after?.peak, "after_mb": after?.now,
                "method": "phys_footprint of TASK_VM_INFO",
            ],
            why: after == nil ? ["before_mb": why, "peak_mb": why, "after_mb": why] : [:]
        )
    }

    private func heat() throws {
        let status = Machine.thermalStatus
        try lines.tell(
            "thermal",
            [
                "t_s": seconds(since: began), "celsius": nil, "status": status,
                "throttled": status == "serious" || status == "critical",
            ],
            why: ["celsius": "Apple tells a state, no temperature"]
        )
    }

    private func seconds(since start: ContinuousClock.Instant) -> Double {
        milliseconds(since: start) / 1e3
    }

    private func milliseconds(since start: ContinuousClock.Instant) -> Double {
        let (seconds, attoseconds) = (clock.now - start).components
        return Double(seconds) * 1e3 + Double(attoseconds) / 1e15
    }
}
