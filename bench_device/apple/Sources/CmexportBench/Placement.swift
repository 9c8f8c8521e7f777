import CoreML
import Foundation

/// Where Core ML plans to run each operation, from `MLComputePlan`: a plan, made from the same decisions as the run.
enum Placement {
    struct Plan {
        var operations: [String: Int] = [:]
        /// Operators that are left to the CPU although another unit was allowed.
        var onCPU: Set<String> = []
    }

    static func plan(of compiled: URL, function: String?, configuration: MLModelConfiguration) async throws -> Plan {
        let plan = try await MLComputePlan.load(contentsOf: compiled, configuration: configuration)
        guard case let .program(program) = plan.modelStructure else { return Plan() }
        var found = Plan()
        if let main = program.functions[function ?? "main"] {
            walk(main.block, plan, configuration.computeUnits, &found)
        }
        return found
    }

    private static func walk(
        _ block: MLModelStructure.Program.Block, _ plan: MLComputePlan, _ units: MLComputeUnits, _ found: inout Plan
    ) {
        for operation in block.operations {
            for inner in operation.blocks { walk(inner, plan, units, &found) }
            // Constants and casts that are folded have no device.
            guard let usage = plan.deviceUsage(for: operation) else { continue }
            let unit: String
            switch usage.preferred {
            case .cpu: unit = "cpu"
            case .gpu: unit = "gpu"
            case .neuralEngine: unit = "neuralEngine"
            @unknown default: unit = "unknown"
            }
            found.operations[unit, default: 0] += 1
            if unit == "cpu" && units != .cpuOnly { found.onCPU.insert(operation.operatorName) }
        }
    }
}
