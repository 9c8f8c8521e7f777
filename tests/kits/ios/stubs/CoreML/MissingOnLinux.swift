import Dispatch
import Foundation

// What Dispatch and Foundation have on Apple's systems alone.

public protocol DispatchSourceMemoryPressure: AnyObject, Sendable {
    func setEventHandler(handler: (@Sendable () -> Void)?)
    func activate()
    func cancel()
}

extension DispatchSource {
    public struct MemoryPressureEvent: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let normal = MemoryPressureEvent(rawValue: 1)
        public static let warning = MemoryPressureEvent(rawValue: 2)
        public static let critical = MemoryPressureEvent(rawValue: 4)
    }

    public static func makeMemoryPressureSource(
        eventMask: MemoryPressureEvent, queue: DispatchQueue? = nil
    ) -> any DispatchSourceMemoryPressure {
        Pressure()
    }
}

/// `Pressure.raise()` is the system running short of memory.
public final class Pressure: DispatchSourceMemoryPressure, @unchecked Sendable {
    private static let lock = NSLock()
    private nonisolated(unsafe) static var active: [ObjectIdentifier: Pressure] = [:]
    private var handler: (@Sendable () -> Void)?

    public static func raise() { lock.withLock { Array(active.values) }.forEach { $0.handler?() } }
    public func setEventHandler(handler: (@Sendable () -> Void)?) { self.handler = handler }
    public func activate() { Self.lock.withLock { Self.active[ObjectIdentifier(self)] = self } }
    public func cancel() { Self.lock.withLock { Self.active[ObjectIdentifier(self)] = nil } }
}
