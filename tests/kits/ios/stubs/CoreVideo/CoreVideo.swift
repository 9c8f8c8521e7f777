/// Pixels as Core ML gives them: rows with a gap behind each.
public final class CVPixelBuffer {
    let width: Int
    let height: Int
    let format: OSType
    let bytesPerRow: Int
    let memory: UnsafeMutableRawPointer

    /// For tests: a buffer with these bytes, row by row.
    public init(width: Int, height: Int, format: OSType, bytes: [UInt8]) {
        let pixel = format == kCVPixelFormatType_OneComponent8 ? 1 : 4
        (self.width, self.height, self.format) = (width, height, format)
        bytesPerRow = width * pixel + 64
        memory = .allocate(byteCount: bytesPerRow * height, alignment: 64)
        for y in 0..<height {
            for x in 0..<width * pixel {
                memory.storeBytes(of: bytes[y * width * pixel + x], toByteOffset: y * bytesPerRow + x, as: UInt8.self)
            }
        }
    }

    deinit { memory.deallocate() }
}

public typealias OSType = UInt32
public let kCVPixelFormatType_OneComponent8: OSType = 0x4C30_3038
public let kCVPixelFormatType_32BGRA: OSType = 0x4247_5241

public struct CVPixelBufferLockFlags: OptionSet, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public static let readOnly = CVPixelBufferLockFlags(rawValue: 1)
}

@discardableResult
public func CVPixelBufferLockBaseAddress(_: CVPixelBuffer, _: CVPixelBufferLockFlags) -> Int32 { 0 }
@discardableResult
public func CVPixelBufferUnlockBaseAddress(_: CVPixelBuffer, _: CVPixelBufferLockFlags) -> Int32 { 0 }
public func CVPixelBufferGetBaseAddress(_ buffer: CVPixelBuffer) -> UnsafeMutableRawPointer? { buffer.memory }
public func CVPixelBufferGetPixelFormatType(_ buffer: CVPixelBuffer) -> OSType { buffer.format }
public func CVPixelBufferGetWidth(_ buffer: CVPixelBuffer) -> Int { buffer.width }
public func CVPixelBufferGetHeight(_ buffer: CVPixelBuffer) -> Int { buffer.height }
public func CVPixelBufferGetBytesPerRow(_ buffer: CVPixelBuffer) -> Int { buffer.bytesPerRow }
