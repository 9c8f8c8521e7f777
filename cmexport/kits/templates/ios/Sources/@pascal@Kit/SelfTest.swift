import Foundation

/// What a self-test found: the kit's own pictures, drawn on this device.
public struct SelfTest: Sendable {
    /// PSNR of the worst picture, in dB; infinite where all are equal to the last byte.
    public let worstDecibels: Double
    /// Time of one picture, the median, without opening the model.
    public let milliseconds: Double
}

extension Generator {
    /// Draw the kit's golden pictures and compare them with the ones it brought.
    ///
    /// - Throws: `KitError.selfTestFailed` if this device draws others, besides what drawing throws.
    public func selfTest() async throws(KitError) -> SelfTest {
        let golden = try Golden(folder: golden)
        var worst = Double.infinity
        var margin = Double.infinity
        var times: [Double] = []
        for picture in golden.pictures {
            guard let run = Model.runs.first(where: { $0.name == picture.run }) else { throw golden.damaged }
            let wish = try Self.wish(for: picture, in: golden)
            guard let seed = UInt64(picture.seed) else { throw golden.damaged }
            try await opened(run)
            let start = ContinuousClock.now
            let drawn = try await draw(run, wish, seed: seed)
            times.append((ContinuousClock.now - start) / .milliseconds(1))
            let decibels = drawn.decibels(to: try golden.picture(picture.expected, like: picture))
            worst = min(worst, decibels)
            margin = min(margin, decibels - run.leastDecibels)
        }
        if times.isEmpty { throw golden.damaged }
        if margin < 0 { throw .selfTestFailed(decibels: worst) }
        return SelfTest(worstDecibels: worst, milliseconds: times.sorted()[times.count / 2])
    }

    private static func wish(for picture: Golden.Entry, in golden: Golden) throws(KitError) -> Wish {
        var wish = Wish(
            label: picture.label, prompt: picture.prompt, text: picture.text, guidance: picture.guidance)
        if let image = picture.image { wish.image = try golden.picture(image, like: picture) }
        if let mask = picture.mask { wish.mask = try golden.picture(mask, like: picture, channels: 1) }
        return wish
    }
}

/// The folder `golden/` of the kit.
struct Golden {
    struct Entry: Decodable {
        let run: String
        let seed: String
        let label: Int?
        let prompt: Int?
        let text: String?
        let guidance: Float?
        let image: String?
        let mask: String?
        let expected: String
        let width: Int
        let height: Int
        let channels: Int
    }

    private struct Listed: Decodable {
        let pictures: [Entry]
    }

    let folder: URL
    let pictures: [Entry]

    init(folder: URL) throws(KitError) {
        let file = folder.appending(path: "golden.json")
        guard let data = try? Data(contentsOf: file) else { throw .modelMissing(path: file.path) }
        do { pictures = try JSONDecoder().decode(Listed.self, from: data).pictures } catch {
            throw .modelDamaged(path: file.path)
        }
        self.folder = folder
    }

    var damaged: KitError { .modelDamaged(path: folder.path) }

    func picture(_ name: String, like entry: Entry, channels: Int? = nil) throws(KitError) -> Picture {
        let file = folder.appending(path: name)
        guard let data = try? Data(contentsOf: file) else { throw .modelMissing(path: file.path) }
        do {
            return try Picture(
                width: entry.width, height: entry.height, channels: channels ?? entry.channels, bytes: [UInt8](data))
        } catch { throw .modelDamaged(path: file.path) }
    }
}
