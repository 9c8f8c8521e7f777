// All 2^32 numbers of cmx1, as one FNV-1a hash over their words: 005e8bd3 in every language. Two minutes; run by hand:
//     build/swift/run "cmexport/kits/templates/ios/Sources/@pascal@Kit=kit" tests/kits/ios=ios -- \
//         sh -c 'swiftc -O -wmo /mnt/kit/Noise.swift /mnt/ios/exhaustive.swift -o /tmp/all && /tmp/all'
@main
struct Exhaustive {
    static func main() {
        var hash: UInt32 = 2_166_136_261
        for word in UInt32.min...UInt32.max { hash = (hash ^ Noise.normal(word).bitPattern) &* 16_777_619 }
        print(String(hash, radix: 16))
    }
}
