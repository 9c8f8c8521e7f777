// What the bench runner asks Apple's kernel, with an answer for each.
import Foundation

public typealias kern_return_t = Int32
public typealias natural_t = UInt32
public typealias integer_t = Int32
public typealias mach_msg_type_number_t = UInt32
public typealias task_flavor_t = UInt32
public typealias task_info_t = UnsafeMutablePointer<integer_t>
public typealias mach_port_t = UInt32

public let KERN_SUCCESS: kern_return_t = 0
public let TASK_VM_INFO: Int32 = 22
public let mach_task_self_: mach_port_t = 1

public struct task_vm_info_data_t {
    public var phys_footprint: UInt64 = 0
    public var ledger_phys_footprint_peak: Int64 = 0
    public init() {}
}

public func task_info(
    _ task: mach_port_t, _ flavor: task_flavor_t, _ info: task_info_t!, _ count: UnsafeMutablePointer<mach_msg_type_number_t>!
) -> kern_return_t {
    info.withMemoryRebound(to: task_vm_info_data_t.self, capacity: 1) {
        $0.pointee.phys_footprint = 100_000_000
        $0.pointee.ledger_phys_footprint_peak = 120_000_000
    }
    return KERN_SUCCESS
}

@discardableResult
public func sysctlbyname(
    _ name: UnsafePointer<CChar>!, _ old: UnsafeMutableRawPointer!, _ size: UnsafeMutablePointer<Int>!,
    _ new: UnsafeMutableRawPointer!, _ newSize: Int
) -> Int32 {
    let answer = Array("iPhone16,1".utf8) + [0]
    size.pointee = answer.count
    if let old { answer.withUnsafeBytes { old.copyMemory(from: $0.baseAddress!, byteCount: answer.count) } }
    return 0
}

extension ProcessInfo {
    public enum ThermalState: Int, Sendable { case nominal, fair, serious, critical }
    public var thermalState: ThermalState { .nominal }
    public var isLowPowerModeEnabled: Bool { false }
}
