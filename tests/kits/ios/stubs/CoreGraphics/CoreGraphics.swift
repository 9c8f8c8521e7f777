@_exported import struct Foundation.CGFloat
@_exported import struct Foundation.CGPoint
@_exported import struct Foundation.CGRect
@_exported import struct Foundation.CGSize

// What the kit uses of Core Graphics, drawn without smoothing: enough to see that pictures are upright, in the right
// colours and cut in the middle.

public final class CGColorSpace {
    public static let sRGB = "kCGColorSpaceSRGB"
    public init?(name: String) {
        guard name == Self.sRGB else { return nil }
    }
}

public enum CGImageAlphaInfo: UInt32 {
    case none, premultipliedLast, premultipliedFirst, last, first, noneSkipLast, noneSkipFirst
}
public enum CGInterpolationQuality: Int32 { case `default`, none, low, high, medium }

/// Immutable, so tasks may share it, as Apple's.
public final class CGImage: Sendable {
    public let width: Int
    public let height: Int
    /// R G B and one unused, the first row on top.
    public let pixels: [UInt8]

    public init(width: Int, height: Int, pixels: [UInt8]) {
        precondition(pixels.count == 4 * width * height)
        (self.width, self.height, self.pixels) = (width, height, pixels)
    }
}

public final class CGContext {
    public let width: Int
    public let height: Int
    public let data: UnsafeMutableRawPointer?
    public var interpolationQuality = CGInterpolationQuality.default

    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int,
        space: CGColorSpace, bitmapInfo: UInt32
    ) {
        guard data == nil, bitsPerComponent == 8, bytesPerRow == 4 * width,
            bitmapInfo == CGImageAlphaInfo.noneSkipLast.rawValue
        else { return nil }
        (self.width, self.height) = (width, height)
        self.data = .allocate(byteCount: bytesPerRow * height, alignment: 64)
        self.data!.initializeMemory(as: UInt8.self, repeating: 0, count: bytesPerRow * height)
    }

    deinit { data?.deallocate() }

    /// The nearest pixel; the origin is at the bottom left, memory begins at the top.
    public func draw(_ image: CGImage, in rect: CGRect) {
        let bytes = data!.assumingMemoryBound(to: UInt8.self)
        for y in 0..<height {
            for x in 0..<width {
                let across = (CGFloat(x) + 0.5 - rect.origin.x) / rect.size.width
                let down = 1 - (CGFloat(height - y) - 0.5 - rect.origin.y) / rect.size.height
                let (column, row) = (Int(across * CGFloat(image.width)), Int(down * CGFloat(image.height)))
                guard (0..<1).contains(across), (0..<1).contains(down) else { continue }
                for channel in 0..<4 {
                    bytes[4 * (y * width + x) + channel] = image.pixels[4 * (row * image.width + column) + channel]
                }
            }
        }
    }

    public func makeImage() -> CGImage? {
        let bytes = data!.assumingMemoryBound(to: UInt8.self)
        return CGImage(width: width, height: height, pixels: (0..<4 * width * height).map { bytes[$0] })
    }
}
