import Foundation

/// SHA-256 (FIPS 180-4) as Apple's CryptoKit spells it.
public enum SHA256 {
    public typealias Digest = [UInt8]

    public static func hash(data: Data) -> Digest {
        var state: [UInt32] = [
            0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
        ]
        var tail = [UInt8](data.suffix(data.count % 64)) + [0x80]
        while tail.count % 64 != 56 { tail.append(0) }
        tail += withUnsafeBytes(of: UInt64(data.count * 8).bigEndian) { Array($0) }
        data.withUnsafeBytes { add($0, &state) }
        tail.withUnsafeBytes { add($0, &state) }
        return state.flatMap { word in withUnsafeBytes(of: word.bigEndian) { Array($0) } }
    }

    /// All whole blocks.
    private static func add(_ bytes: UnsafeRawBufferPointer, _ state: inout [UInt32]) {
        for start in stride(from: 0, to: bytes.count - 63, by: 64) {
            add(block: UnsafeRawBufferPointer(rebasing: bytes[start..<start + 64]), &state)
        }
    }

    private static func add(block: UnsafeRawBufferPointer, _ state: inout [UInt32]) {
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { w in
            for i in 0..<16 { w[i] = UInt32(bigEndian: block.loadUnaligned(fromByteOffset: 4 * i, as: UInt32.self)) }
            for i in 16..<64 {
                let s0 = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ (w[i - 15] >> 3)
                let s1 = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ (w[i - 2] >> 10)
                w[i] = w[i - 16] &+ s0 &+ w[i - 7] &+ s1
            }
            var (a, b, c, d) = (state[0], state[1], state[2], state[3])
            var (e, f, g, h) = (state[4], state[5], state[6], state[7])
            for i in 0..<64 {
                let s1 = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)
                let one = h &+ s1 &+ ((e & f) ^ (~e & g)) &+ constants[i] &+ w[i]
                let s0 = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)
                let two = s0 &+ ((a & b) ^ (a & c) ^ (b & c))
                (h, g, f, e, d, c, b, a) = (g, f, e, d &+ one, c, b, a, one &+ two)
            }
            for (place, word) in [a, b, c, d, e, f, g, h].enumerated() { state[place] &+= word }
        }
    }

    private static func turned(_ word: UInt32, _ by: UInt32) -> UInt32 { word >> by | word << (32 - by) }

    /// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
    private static let constants: [UInt32] = {
        var primes: [UInt64] = []
        var next: UInt64 = 2
        while primes.count < 64 {
            if primes.allSatisfy({ next % $0 != 0 }) { primes.append(next) }
            next += 1
        }
        return primes.map { prime in
            // The cube root in 2^-32ths, by halving: its cube fits in 128 bits.
            var (low, high) = (UInt64(0), UInt64(8) << 32)
            while high - low > 1 {
                let middle = (low + high) / 2
                let square = middle.multipliedFullWidth(by: middle)
                let cubeHigh = square.high * middle + square.low.multipliedFullWidth(by: middle).high
                if cubeHigh >= prime << 32 { high = middle } else { low = middle }
            }
            return UInt32(truncatingIfNeeded: low)
        }
    }()
}
