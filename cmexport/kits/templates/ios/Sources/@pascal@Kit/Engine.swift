/// Numbers that go into a graph or come out of it, in C order.
struct Tensor: Sendable, Equatable {
    enum Numbers: Sendable, Equatable {
        case floats([Float])
        case integers([Int32])
        case bytes([UInt8])
    }

    let shape: [Int]
    let numbers: Numbers

    init(_ numbers: Numbers, shape: [Int]) {
        (self.numbers, self.shape) = (numbers, shape)
    }
}

/// What runs the model's graphs: Core ML in apps, something else in tests.
protocol Engine: Sendable {
    /// Whether opening the graph is quick, since it was compiled before.
    func isPrepared(_ graph: Graph) -> Bool
    func open(_ graph: Graph) async throws(KitError) -> any OpenGraph
}

/// A graph that is in memory as long as this is held.
protocol OpenGraph: Sendable {
    func run(_ inputs: [String: Tensor]) async throws(KitError) -> Tensor
}
