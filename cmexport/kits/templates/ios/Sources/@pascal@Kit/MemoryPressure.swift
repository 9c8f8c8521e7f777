import CoreML
import Foundation

/// Calls back when the system runs short of memory, for as long as it is held.
final class MemoryPressure: Sendable {
    private let source: any DispatchSourceMemoryPressure

    init(_ handler: @escaping @Sendable () -> Void) {
        source = DispatchSource.makeMemoryPressureSource(eventMask: [.warning, .critical], queue: .global())
        source.setEventHandler(handler: handler)
        source.activate()
    }

    deinit { source.cancel() }
}
