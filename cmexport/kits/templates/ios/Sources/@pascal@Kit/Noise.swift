import Foundation

/// `cmx1`: standard normal numbers that are the same to the last bit in every language and on every processor.
///
/// Philox4x32-10 gives four 32-bit words for each block, the inverse of the normal distribution (Wichura's AS 241) one
/// number for each word, in `Double` with + - * / and square roots alone. Swift fuses no product with a sum unless told
/// to, which would change two of the 2^32 numbers.
public enum Noise {
    /// Fill `numbers` with the first numbers of a seed. Stream 0 is a picture's `noise`, stream k its k-th `renoise`.
    public static func fill(_ numbers: inout [Float], seed: UInt64, stream: UInt32 = 0) {
        let key = (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32))
        let count = numbers.count
        numbers.withUnsafeMutableBufferPointer { numbers in
            for block in 0..<(count + 3) / 4 {
                let (low, high) = (UInt32(truncatingIfNeeded: block), UInt32(truncatingIfNeeded: UInt64(block) >> 32))
                let counter = (low, high, stream, UInt32(0))
                let words = philox(counter, key: key)
                let first = 4 * block
                numbers[first] = normal(words.0)
                if first + 1 < count { numbers[first + 1] = normal(words.1) }
                if first + 2 < count { numbers[first + 2] = normal(words.2) }
                if first + 3 < count { numbers[first + 3] = normal(words.3) }
            }
        }
    }

    /// The first `count` numbers of a seed.
    public static func draw(_ count: Int, seed: UInt64, stream: UInt32 = 0) -> [Float] {
        var numbers = [Float](repeating: 0, count: count)
        fill(&numbers, seed: seed, stream: stream)
        return numbers
    }

    /// What lies on the way from one noise (`weight` 0) to another (1), on the sphere: of unit variance as they are.
    public static func between(_ first: [Float], _ second: [Float], weight: Double) -> [Float] {
        var dot = 0.0, one = 0.0, two = 0.0
        for (a, b) in zip(first, second) {
            dot += Double(a) * Double(b)
            one += Double(a) * Double(a)
            two += Double(b) * Double(b)
        }
        let angle = acos(min(max(dot / (one * two).squareRoot(), -1), 1))
        // Next to one another, or opposite: the sphere has no one way.
        if sin(angle) < 1e-6 {
            return zip(first, second).map { Float((1 - weight) * Double($0) + weight * Double($1)) }
        }
        let a = sin((1 - weight) * angle) / sin(angle)
        let b = sin(weight * angle) / sin(angle)
        return zip(first, second).map { Float(a * Double($0) + b * Double($1)) }
    }

    /// Philox4x32 with ten rounds (Salmon et al., SC 2011).
    static func philox(_ counter: (UInt32, UInt32, UInt32, UInt32), key: (UInt32, UInt32)) -> (
        UInt32, UInt32, UInt32, UInt32
    ) {
        var (a, b, c, d) = counter
        var (low, high) = key
        for _ in 0..<10 {
            let first = UInt64(0xD251_1F53) * UInt64(a)
            let second = UInt64(0xCD9E_8D57) * UInt64(c)
            (a, b) = (UInt32(second >> 32) ^ b ^ low, UInt32(truncatingIfNeeded: second))
            (c, d) = (UInt32(first >> 32) ^ d ^ high, UInt32(truncatingIfNeeded: first))
            low &+= 0x9E37_79B9
            high &+= 0xBB67_AE85
        }
        return (a, b, c, d)
    }

    /// The normal number at probability (2 word + 1) / 2^33.
    static func normal(_ word: UInt32) -> Float {
        let odd = Double(word) * 2 + 1
        let q = odd * 0x1p-33 - 0.5
        if abs(q) <= 0.425 {
            let r = 0.180625 - q * q
            return Float(q * polynomial(middle.0, r) / polynomial(middle.1, r))
        }
        let r = minusLog(q < 0 ? odd : 0x1p33 - odd).squareRoot() - 1.6
        let size = polynomial(tail.0, r) / polynomial(tail.1, r)
        return Float(q < 0 ? -size : size)
    }

    /// -ln(odd / 2^33): with m in [0.7071, 1.4142), ln m is 2 artanh((m - 1) / (m + 1)).
    private static func minusLog(_ odd: Double) -> Double {
        var m = odd.significand
        var power = Double(odd.exponent) - 33
        if m >= 1.4142135623730951 {
            m *= 0.5
            power += 1
        }
        let s = (m - 1) / (m + 1)
        let square = s * s
        var series = 2.0 / 23
        for denominator in stride(from: 21.0, to: 0, by: -2) { series = series * square + 2 / denominator }
        return -(power * 0.6931471805599453 + s * series)
    }

    private typealias Coefficients = (Double, Double, Double, Double, Double, Double, Double, Double)

    /// Horner's rule, highest power first, in the written order.
    @inline(__always)
    private static func polynomial(_ c: Coefficients, _ x: Double) -> Double {
        var sum = c.0 * x + c.1
        sum = sum * x + c.2
        sum = sum * x + c.3
        sum = sum * x + c.4
        sum = sum * x + c.5
        sum = sum * x + c.6
        return sum * x + c.7
    }

    private static let middle: (Coefficients, Coefficients) = (
        (
            2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
            13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608
        ),
        (
            5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
            5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0
        )
    )
    private static let tail: (Coefficients, Coefficients) = (
        (
            7.7454501427834140764e-4, 0.0227238449892691845833, 0.241780725177450611770, 1.27045825245236838258,
            3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734
        ),
        (
            1.05075007164441684324e-9, 5.47593808499534494600e-4, 0.0151986665636164571966, 0.148103976427480074590,
            0.689767334985100004550, 1.67638483018380384940, 2.05319162663775882187, 1.0
        )
    )
}
