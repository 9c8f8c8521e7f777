import Foundation

public enum MLComputeDevice: Sendable {
    public struct Device: Sendable {}
    case cpu(Device)
    case gpu(Device)
    case neuralEngine(Device)
}

/// A plan with one operation, on the CPU.
public final class MLComputePlan {
    public let modelStructure = MLModelStructure.program(
        .init(functions: ["main": .init(block: .init(operations: [.init(operatorName: "conv", blocks: [])]))]))

    public struct DeviceUsage {
        public let preferred: MLComputeDevice
    }

    public static func load(contentsOf url: URL, configuration: MLModelConfiguration) async throws -> MLComputePlan {
        MLComputePlan()
    }

    public func deviceUsage(for operation: MLModelStructure.Program.Operation) -> DeviceUsage? {
        DeviceUsage(preferred: .cpu(.init()))
    }
}

public enum MLModelStructure {
    public struct Program {
        public struct Operation {
            public let operatorName: String
            public let blocks: [Block]
        }
        public struct Block { public let operations: [Operation] }
        public struct Function { public let block: Block }
        public let functions: [String: Function]
    }
    case program(Program)
    case unsupported
}
