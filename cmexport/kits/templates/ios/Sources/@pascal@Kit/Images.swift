import CoreGraphics

extension Picture {
    /// A photo in the model's size: the middle of the model's shape is cut out and resized, in sRGB.
    ///
    /// A `CGImage` knows of no orientation: turn a `UIImage` upright first.
    ///
    /// - Throws: `KitError.badInput` if Core Graphics can't draw it.
    init(_ image: CGImage, width: Int, height: Int, channels: Int) throws(KitError) {
        guard image.width > 0, image.height > 0 else { throw .badInput(what: "the picture is empty") }
        let scale = max(CGFloat(width) / CGFloat(image.width), CGFloat(height) / CGFloat(image.height))
        let size = CGSize(width: CGFloat(image.width) * scale, height: CGFloat(image.height) * scale)
        let origin = CGPoint(x: (CGFloat(width) - size.width) / 2, y: (CGFloat(height) - size.height) / 2)
        let context = try Self.canvas(width: width, height: height)
        context.interpolationQuality = .high
        context.draw(image, in: CGRect(origin: origin, size: size))
        var bytes = [UInt8](repeating: 0, count: 3 * width * height)
        try Self.pixels(of: context) { pixels in
            for place in bytes.indices { bytes[place] = pixels[4 * (place / 3) + place % 3] }
        }
        let rgb = try Picture(width: width, height: height, channels: 3, bytes: bytes)
        self = channels == 3 ? rgb : try rgb.grey()
    }

    /// The picture for the screen, sRGB.
    public func image() throws(KitError) -> CGImage {
        let context = try Self.canvas(width: width, height: height)
        try Self.pixels(of: context) { pixels in
            for pixel in 0..<width * height {
                for channel in 0..<3 {
                    pixels[4 * pixel + channel] = bytes[pixel * channels + (channels == 3 ? channel : 0)]
                }
                pixels[4 * pixel + 3] = 255
            }
        }
        guard let image = context.makeImage() else { throw .runtime(message: "Core Graphics made no image") }
        return image
    }

    /// Grey values with the weights of ITU-R BT.601, as Pillow's.
    private func grey() throws(KitError) -> Picture {
        var grey = [UInt8](repeating: 0, count: width * height)
        for pixel in grey.indices {
            let red = 19595 * Int(bytes[3 * pixel])
            let green = 38470 * Int(bytes[3 * pixel + 1])
            let blue = 7471 * Int(bytes[3 * pixel + 2])
            grey[pixel] = UInt8((red + green + blue + 0x8000) >> 16)
        }
        return try Picture(width: width, height: height, channels: 1, bytes: grey)
    }

    /// Four bytes a pixel, R G B and one unused, rows without gaps, the first row on top.
    private static func canvas(width: Int, height: Int) throws(KitError) -> CGContext {
        guard let space = CGColorSpace(name: CGColorSpace.sRGB),
            let context = CGContext(
                data: nil, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width, space: space,
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
        else { throw .runtime(message: "Core Graphics made no canvas of \(width) x \(height)") }
        return context
    }

    private static func pixels(
        of context: CGContext, _ body: (UnsafeMutableBufferPointer<UInt8>) -> Void
    ) throws(KitError) {
        guard let data = context.data else { throw .runtime(message: "Core Graphics made a canvas without memory") }
        let count = 4 * context.width * context.height
        body(UnsafeMutableBufferPointer(start: data.bindMemory(to: UInt8.self, capacity: count), count: count))
    }
}
