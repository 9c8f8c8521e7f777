import CoreGraphics
import CoreML
import Foundation

/// Whether the model is in memory.
public enum LoadState: Sendable, Equatable {
    case unloaded
    /// Being opened. The first time on a device, and after an update, the system compiles it, which may take minutes.
    case preparing(firstTime: Bool)
    case ready
}

/// Where the model's packages are.
public enum ModelSource: Sendable {
    /// In the kit's own resources.
    case bundled
    /// In a folder that the app brought: what is in the kit's Resources/model.
    case folder(URL)
}

/// Draws pictures. One after another: a picture that is asked for meanwhile waits.
///
/// The model is opened when the first picture is asked for, or by `prewarm`, and given back when the system runs short
/// of memory; the next picture opens it again. Core ML can't stop within a graph: a cancelled task ends with
/// `KitError.cancelled` after the run that is going on.
public actor Generator {
    /// What a picture shows, in the model's own terms.
    struct Wish: Sendable {
        var label: Int?
        var prompt: Int?
        var text: String?
        var guidance: Float?
        var image: Picture?
        var mask: Picture?
    }

    nonisolated let golden: URL
    nonisolated let model: URL
    private let engine: any Engine
    private let told = States()
    private var open: [String: Task<any OpenGraph, any Error>] = [:]
    private var latest: Task<Void, Never>?
    private var pressure: MemoryPressure?
    private var encoder: (@Sendable (String) -> [Int32])?

    /// Read nothing yet; say where the model is and what may compute it.
    ///
    /// - Throws: `KitError.modelMissing` if the packages aren't there.
    public init(model: ModelSource = .bundled, units: MLComputeUnits = .all) throws(KitError) {
        try self.init(model: model, units: units, store: .standard(Model.kit))
    }

    /// Keep compiled models elsewhere.
    init(model: ModelSource, units: MLComputeUnits = .all, store: ModelStore) throws(KitError) {
        guard let resources = Bundle.module.resourceURL else { throw .modelMissing(path: Bundle.module.bundlePath) }
        let folder =
            switch model {
            case .bundled: resources.appending(path: "model", directoryHint: .isDirectory)
            case .folder(let folder): folder
            }
        for package in Model.packages {
            let path = folder.appending(path: package.path).path
            guard FileManager.default.fileExists(atPath: path) else { throw .modelMissing(path: path) }
        }
        let engine = CoreMLEngine(model: folder, packages: Model.packages, units: units, store: store)
        self.init(engine: engine, model: folder, golden: resources.appending(path: "golden", directoryHint: .isDirectory))
    }

    /// Draw with another engine; `model` and `golden` are the kit's folders of these names.
    init(engine: any Engine, model: URL, golden: URL) {
        (self.engine, self.model, self.golden) = (engine, model, golden)
    }

    /// What happens to the model, beginning with what is so now. Any number of readers.
    public nonisolated var states: AsyncStream<LoadState> { told.stream() }

    /// Whether graphs are in memory, or on their way.
    var isOpen: Bool { !open.isEmpty }

    /// Open the model now, so that the first picture doesn't have to wait for it.
    public func prewarm() async throws(KitError) {
        try await opened(Model.runs[0])
    }

    /// Give the model's memory back. A picture that is being drawn is finished first.
    public func unload() {
        open = [:]
        told.send(.unloaded)
    }

    /// Draw one picture of a run, as bytes.
    func draw(_ run: Run, _ wish: Wish, noise: @escaping @Sendable (Int, UInt32) -> [Float]) async throws(KitError)
        -> Picture
    {
        let inputs = try inputs(of: run, wish, noise)
        if Task.isCancelled { throw .cancelled }
        let result = await alone { () async -> Result<Picture, KitError> in
            do throws(KitError) {
                if Task.isCancelled { throw .cancelled }
                let graphs = try await self.opened(run)
                var tensors = inputs
                for (graph, facts) in zip(graphs, run.graphs) {
                    if Task.isCancelled { throw .cancelled }
                    let names = Set(facts.inputs.map(\.name))
                    tensors[facts.output.name] = try await graph.run(tensors.filter { names.contains($0.key) })
                }
                if Task.isCancelled { throw .cancelled }
                guard let last = run.graphs.last, let picture = tensors[last.output.name] else {
                    throw .runtime(message: "\(run.name) has no graph")
                }
                let drawn = try Picture(picture, of: run)
                guard run.input("mask") != nil, let image = wish.image, let mask = wish.mask else {
                    return .success(drawn)
                }
                // The graph keeps what is white as well, but in few bits only nearly.
                return .success(try drawn.keeping(image, where: mask))
            } catch { return .failure(error) }
        }
        return try result.get()
    }

    func draw(_ run: Run, _ wish: Wish, seed: UInt64) async throws(KitError) -> Picture {
        try await draw(run, wish) { Noise.draw($0, seed: seed, stream: $1) }
    }

    /// Pictures on the way from one seed to another, both included; `count` is at least 2.
    func walk(_ run: Run, _ wish: Wish, from first: UInt64, to second: UInt64, count: Int) async throws(KitError)
        -> [Picture]
    {
        guard count >= 2 else { throw .badInput(what: "a way has at least 2 pictures, not \(count)") }
        var pictures: [Picture] = []
        for step in 0..<count {
            let weight = Double(step) / Double(count - 1)
            let picture = try await draw(run, wish) { numbers, stream in
                Noise.between(
                    Noise.draw(numbers, seed: first, stream: stream), Noise.draw(numbers, seed: second, stream: stream),
                    weight: weight)
            }
            pictures.append(picture)
        }
        return pictures
    }

    /// The graphs of a run, opened if they aren't.
    @discardableResult
    func opened(_ run: Run) async throws(KitError) -> [any OpenGraph] {
        if run.graphs.contains(where: { open[$0.name] == nil }) {
            told.send(.preparing(firstTime: !run.graphs.allSatisfy(engine.isPrepared)))
        }
        if pressure == nil {
            pressure = MemoryPressure { [weak self] in Task { await self?.unload() } }
        }
        var graphs: [any OpenGraph] = []
        for graph in run.graphs {
            let task = open[graph.name] ?? Task { [engine] in try await engine.open(graph) }
            open[graph.name] = task
            do { graphs.append(try await task.value) } catch {
                // The next picture tries again.
                unload()
                throw KitError(error)
            }
        }
        told.send(.ready)
        return graphs
    }

    /// Run `body` when all that was asked before is done; to cancel the caller's task cancels it.
    private func alone<T: Sendable>(_ body: @escaping @Sendable () async -> T) async -> T {
        let before = latest
        let task = Task {
            await before?.value
            return await body()
        }
        latest = Task { _ = await task.value }
        return await withTaskCancellationHandler { await task.value } onCancel: { task.cancel() }
    }

    private func inputs(
        of run: Run, _ wish: Wish, _ noise: (Int, UInt32) -> [Float]
    ) throws(KitError) -> [String: Tensor] {
        var inputs: [String: Tensor] = [:]
        for port in run.inputs {
            let numbers: Tensor.Numbers? =
                switch port.name {
                case "noise": .floats(noise(port.count, 0))
                case "renoise": .floats(Self.later(port, noise))
                case "label": wish.label.map { .integers([Int32($0)]) }
                case "prompt": wish.prompt.map { .integers([Int32($0)]) }
                case "tokens": try tokens(wish.text)
                case "guidance": try Self.scale(wish.guidance, port)
                case "image": try Self.checked(wish.image, run, channels: run.channels).map { .floats($0.planes()) }
                case "mask": try Self.checked(wish.mask, run, channels: 1).map { .floats($0.kept()) }
                default: nil
                }
            guard let numbers else { throw .badInput(what: "\(run.name) needs '\(port.name)'") }
            inputs[port.name] = Tensor(numbers, shape: port.shape)
        }
        return inputs
    }

    /// The noise of each later step is a stream of its own.
    private static func later(_ port: Port, _ noise: (Int, UInt32) -> [Float]) -> [Float] {
        (0..<port.shape[0]).flatMap { noise(port.count / port.shape[0], UInt32($0 + 1)) }
    }

    private func tokens(_ text: String?) throws(KitError) -> Tensor.Numbers? {
        guard let text else { return nil }
        let encode = if let encoder { encoder } else { try Model.encoder(model) }
        encoder = encode
        return .integers(encode(text))
    }

    private static func scale(_ scale: Float?, _ port: Port) throws(KitError) -> Tensor.Numbers? {
        if let scale, let limits = port.limits, !limits.contains(scale) {
            throw .badInput(what: "\(port.name) \(scale) is not from \(limits.lowerBound) to \(limits.upperBound)")
        }
        return scale.map { .floats([$0]) }
    }

    private static func checked(_ picture: Picture?, _ run: Run, channels: Int) throws(KitError) -> Picture? {
        guard let picture else { return nil }
        guard picture.width == run.width, picture.height == run.height, picture.channels == channels else {
            let (size, wanted) = ("\(picture.width) x \(picture.height)", "\(run.width) x \(run.height)")
            throw .badInput(what: "a picture of \(size) with \(picture.channels) channels isn't \(wanted) with \(channels)")
        }
        return picture
    }
}

/// Tells every reader of `Generator.states`; `@unchecked`, since the lock guards what changes.
private final class States: @unchecked Sendable {
    private let lock = NSLock()
    private var now = LoadState.unloaded
    private var readers: [UUID: AsyncStream<LoadState>.Continuation] = [:]

    func send(_ state: LoadState) {
        let readers: [AsyncStream<LoadState>.Continuation] = lock.withLock {
            guard state != now else { return [] }
            now = state
            return Array(self.readers.values)
        }
        for reader in readers { reader.yield(state) }
    }

    func stream() -> AsyncStream<LoadState> {
        AsyncStream { reader in
            let id = UUID()
            lock.withLock {
                reader.yield(now)
                readers[id] = reader
            }
            reader.onTermination = { [weak self] _ in self?.forget(id) }
        }
    }

    private func forget(_ id: UUID) {
        lock.withLock { readers[id] = nil }
    }
}
