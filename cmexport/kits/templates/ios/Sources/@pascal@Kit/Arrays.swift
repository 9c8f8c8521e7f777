import CoreML
import Foundation

/// Numbers in C order to and from Core ML's arrays. The kit and the bench runner share this file.
enum Arrays {
    /// Core ML's name for a dtype; nil where it has no arrays of it.
    static func type(_ dtype: String) -> MLMultiArrayDataType? {
        switch dtype {
        case "float32": return .float32
        case "float16": return .float16
        case "int32": return .int32
        default: return nil
        }
    }

    /// Bytes of one number.
    static func bytes(_ type: MLMultiArrayDataType) -> Int {
        switch type {
        case .float16: return 2
        case .float64: return 8
        default: return 4
        }
    }

    /// An array with these little-endian bytes, of which there must be as many as it holds.
    static func filled(_ type: MLMultiArrayDataType, shape: [Int], with source: UnsafeRawBufferPointer) throws
        -> MLMultiArray
    {
        let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: type)
        precondition(source.count == shape.reduce(1, *) * bytes(type), "\(shape) isn't \(source.count) bytes")
        // A fresh array is contiguous; only those that Core ML gives back may have gaps.
        array.withUnsafeMutableBytes { buffer, _ in buffer.copyMemory(from: source) }
        return array
    }

    /// The numbers in C order, whatever the strides: outputs on the Neural Engine have gaps.
    static func floats(_ array: MLMultiArray) -> [Float] {
        let shape = array.shape.map(\.intValue)
        let strides = array.strides.map(\.intValue)
        let count = shape.reduce(1, *)
        var values = [Float](repeating: 0, count: count)
        array.withUnsafeBytes { raw in
            var index = [Int](repeating: 0, count: shape.count)
            for position in 0..<count {
                var offset = 0
                for axis in shape.indices { offset += index[axis] * strides[axis] }
                switch array.dataType {
                case .float16:
                    values[position] = half(raw.load(fromByteOffset: offset * 2, as: UInt16.self))
                case .float64:
                    values[position] = Float(raw.load(fromByteOffset: offset * 8, as: Float64.self))
                case .int32:
                    values[position] = Float(raw.load(fromByteOffset: offset * 4, as: Int32.self))
                default:
                    values[position] = raw.load(fromByteOffset: offset * 4, as: Float32.self)
                }
                var axis = shape.count - 1
                while axis >= 0 {
                    index[axis] += 1
                    if index[axis] < shape[axis] { break }
                    index[axis] = 0
                    axis -= 1
                }
            }
        }
        return values
    }

    /// IEEE 754 binary16 to binary32. Float16 itself is missing on Intel Macs.
    static func half(_ bits: UInt16) -> Float32 {
        let sign = UInt32(bits & 0x8000) << 16
        let exponent = UInt32(bits >> 10) & 0x1F
        let fraction = UInt32(bits & 0x3FF)
        switch exponent {
        case 0:
            let magnitude = Float32(fraction) * Float32(sign: .plus, exponent: -24, significand: 1)
            return sign == 0 ? magnitude : -magnitude
        case 31:
            return Float32(bitPattern: sign | 0x7F80_0000 | fraction << 13)
        default:
            return Float32(bitPattern: sign | (exponent + 112) << 23 | fraction << 13)
        }
    }
}
