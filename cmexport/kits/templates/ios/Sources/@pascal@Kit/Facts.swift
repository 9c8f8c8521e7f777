/// What a number of a model's input or output is stored as.
enum Element: String, Sendable {
    case float32, int32, uint8
}

/// An input or output by name. `limits` are the least and the largest number that it takes, where there are some.
struct Port: Sendable {
    let name: String
    let element: Element
    let shape: [Int]
    let limits: ClosedRange<Float>?

    init(_ name: String, _ element: Element, _ shape: [Int], limits: ClosedRange<Float>? = nil) {
        (self.name, self.element, self.shape, self.limits) = (name, element, shape, limits)
    }

    var count: Int { shape.reduce(1, *) }
}

/// A graph of the model: the package it lies in, its function there (nil: the package's only one), its border.
struct Graph: Sendable {
    let name: String
    let file: String
    let function: String?
    let inputs: [Port]
    let output: Port
}

/// Graphs that make one picture in turn; each takes by name what the app or an earlier one gave.
struct Run: Sendable {
    let name: String
    let graphs: [Graph]
    let inputs: [Port]
    let width: Int
    let height: Int
    let channels: Int
    /// PSNR against the kit's own pictures below which a device draws wrong ones, in dB.
    let leastDecibels: Double

    func input(_ name: String) -> Port? { inputs.first { $0.name == name } }
}

/// A package of the kit: the files in it, and a name that no other content has.
struct Package: Sendable {
    let path: String
    let key: String
    let files: [File]

    struct File: Sendable {
        let path: String
        let bytes: Int
        let sha256: String
    }
}
