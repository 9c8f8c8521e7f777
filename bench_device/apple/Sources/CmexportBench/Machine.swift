import CoreML
import Darwin
import Foundation

#if canImport(UIKit)
import UIKit
#endif

/// What an Apple device says about itself to a process without rights.
enum Machine {
    static func sysctl(_ name: String) -> String? {
        var size = 0
        guard sysctlbyname(name, nil, &size, nil, 0) == 0, size > 0 else { return nil }
        var bytes = [CChar](repeating: 0, count: size)
        guard sysctlbyname(name, &bytes, &size, nil, 0) == 0 else { return nil }
        return String(cString: bytes)
    }

    /// "Mac15,3", "iPhone16,1".
    static var model: String? {
        #if os(macOS)
        return sysctl("hw.model")
        #else
        return sysctl("hw.machine")
        #endif
    }

    static var thermalStatus: String {
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: return "nominal"
        case .fair: return "fair"
        case .serious: return "serious"
        case .critical: return "critical"
        @unknown default: return "unknown"
        }
    }

    /// Bytes that count against this process, now and at most; nil where the kernel does not tell.
    static func footprint() -> (now: Double, peak: Double)? {
        var info = task_vm_info_data_t()
        var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
        let code = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
            }
        }
        guard code == KERN_SUCCESS else { return nil }
        return (Double(info.phys_footprint) / 1e6, Double(info.ledger_phys_footprint_peak) / 1e6)
    }

    /// The `device` field of a `meta` line, and reasons for its null fields.
    @MainActor
    static func describe() -> (device: [String: Any], why: [String: String]) {
        let process = ProcessInfo.processInfo
        var why = ["accelerator": "which units took part is in placement", "airplane_mode": "not told to apps"]
        why["power_mode"] = "there is none but low power mode"
        var power: [String: Any] = [
            "charger": NSNull(), "battery_percent": NSNull(), "power_mode": NSNull(), "airplane_mode": NSNull(),
            "screen_on": NSNull(), "low_power_mode": process.isLowPowerModeEnabled,
        ]
        #if os(iOS)
        let device = UIDevice.current
        device.isBatteryMonitoringEnabled = true
        switch device.batteryState {
        case .charging, .full: power["charger"] = "usb or wireless"
        case .unplugged: power["charger"] = "none"
        default: why["charger"] = "not told"
        }
        if device.batteryLevel >= 0 {
            power["battery_percent"] = Double(device.batteryLevel * 100)
        } else {
            why["battery_percent"] = "not told"
        }
        power["screen_on"] = true
        #else
        why["charger"] = "not read on a Mac: see pmset -g batt"
        why["battery_percent"] = why["charger"]
        why["screen_on"] = "not read on a Mac"
        #endif
        let version = process.operatingSystemVersionString
        #if os(macOS)
        let system = "macOS \(version)"
        #else
        let system = "iOS \(version)"
        #endif
        let chip = sysctl("machdep.cpu.brand_string")
        if chip == nil { why["processor"] = "the system names the device only" }
        return (
            [
                "model": model ?? NSNull(), "processor": chip ?? NSNull(), "cores": process.processorCount,
                "memory_bytes": Int(process.physicalMemory), "os": system, "accelerator": NSNull(),
                "features": [String](), "power": power, "facts": [String: Any](),
            ], why
        )
    }
}
