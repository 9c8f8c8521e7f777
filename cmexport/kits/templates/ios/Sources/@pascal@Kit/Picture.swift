import Foundation

/// A picture of 8 bits a channel, row by row from the top left: RGB, or grey with one channel.
public struct Picture: Sendable, Equatable {
    public let width: Int
    public let height: Int
    public let channels: Int
    public let bytes: [UInt8]

    /// - Throws: `KitError.badInput` if there are more or fewer bytes than pixels.
    public init(width: Int, height: Int, channels: Int, bytes: [UInt8]) throws(KitError) {
        guard width > 0, height > 0, channels == 1 || channels == 3, bytes.count == width * height * channels else {
            throw .badInput(what: "\(bytes.count) bytes are no picture of \(width) x \(height) with \(channels) channels")
        }
        (self.width, self.height, self.channels, self.bytes) = (width, height, channels, bytes)
    }

    /// A finished picture: numbers from -1 to 1, channel by channel, or bytes that are right already.
    init(_ tensor: Tensor, of run: Run) throws(KitError) {
        let (width, height, channels) = (run.width, run.height, run.channels)
        switch tensor.numbers {
        case .bytes(let bytes):
            try self.init(width: width, height: height, channels: channels, bytes: bytes)
        case .floats(let planes):
            guard planes.count == width * height * channels else {
                throw .runtime(message: "the model gave \(planes.count) numbers for \(width) x \(height) pixels")
            }
            var bytes = [UInt8](repeating: 0, count: planes.count)
            let area = width * height
            for pixel in 0..<area {
                for channel in 0..<channels {
                    bytes[pixel * channels + channel] = Self.byte(planes[channel * area + pixel])
                }
            }
            try self.init(width: width, height: height, channels: channels, bytes: bytes)
        case .integers:
            throw .runtime(message: "the model gave whole numbers instead of a picture")
        }
    }

    /// A number from -1 to 1 as a byte: the nearest, of two the even one; NaN is 0.
    static func byte(_ number: Float) -> UInt8 {
        let level = ((number + 1) * 127.5).rounded(.toNearestOrEven)
        return level >= 255 ? 255 : level > 0 ? UInt8(level) : 0
    }

    /// The picture as a model takes it: numbers from -1 to 1, channel by channel.
    func planes() -> [Float] {
        let area = width * height
        var planes = [Float](repeating: 0, count: bytes.count)
        for pixel in 0..<area {
            for channel in 0..<channels {
                planes[channel * area + pixel] = Float(bytes[pixel * channels + channel]) / 127.5 - 1
            }
        }
        return planes
    }

    /// A mask as a model takes it, 1 where it is white and the picture is kept.
    func kept() -> [Float] {
        (0..<width * height).map { bytes[$0 * channels] >= 128 ? 1 : 0 }
    }

    /// This picture with the pixels of another where a mask is white.
    func keeping(_ other: Picture, where mask: Picture) throws(KitError) -> Picture {
        var mixed = bytes
        for (pixel, kept) in mask.kept().enumerated() where kept == 1 {
            for place in pixel * channels..<(pixel + 1) * channels { mixed[place] = other.bytes[place] }
        }
        return try Picture(width: width, height: height, channels: channels, bytes: mixed)
    }

    /// Peak signal to noise ratio over bytes with peak 255, in dB; infinite for equal pictures.
    func decibels(to other: Picture) -> Double {
        guard bytes.count == other.bytes.count else { return 0 }
        let squares = zip(bytes, other.bytes).reduce(0) { sum, pair in
            let difference = Int(pair.0) - Int(pair.1)
            return sum + difference * difference
        }
        return 10 * log10(255 * 255 * Double(bytes.count) / Double(squares))
    }
}
