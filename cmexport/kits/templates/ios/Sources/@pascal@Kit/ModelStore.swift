import CryptoKit
import Foundation

/// Where compiled models are kept, so that a package is compiled once and not at every start of the app.
///
/// They lie in Application Support, named by the package's content and the system's build: an update of either compiles
/// anew. They can be made again, so they are left out of backups.
struct ModelStore: Sendable {
    let folder: URL
    let system: String

    /// - Parameters:
    ///   - folder: where compiled models go; made when the first one comes.
    ///   - system: name of the system's build.
    init(folder: URL, system: String = ProcessInfo.processInfo.operatingSystemVersionString) {
        self.folder = folder
        self.system = String(system.map { $0.isASCII && ($0.isLetter || $0.isNumber) ? $0 : "-" })
    }

    /// The app's own store: Application Support/`kit`.
    ///
    /// - Throws: `KitError.runtime` if the system has no such folder.
    static func standard(_ kit: String) throws(KitError) -> ModelStore {
        do {
            let support = try FileManager.default.url(
                for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            return ModelStore(folder: support.appending(path: kit, directoryHint: .isDirectory))
        } catch { throw KitError(error) }
    }

    func place(of package: Package) -> URL {
        folder.appending(path: "\(package.key)-\(system).mlmodelc", directoryHint: .isDirectory)
    }

    func holds(_ package: Package) -> Bool {
        FileManager.default.fileExists(atPath: place(of: package).path)
    }

    /// Return the compiled model; if it isn't there, check the package and compile it.
    ///
    /// - Parameter compile: writes a compiled model to some temporary place and tells which.
    /// - Throws: `KitError.modelMissing`, `.modelDamaged`, or `.runtime` with the words of the compiler or the disk.
    func compiled(
        _ package: Package, in model: URL, compile: @Sendable (URL) async throws -> URL
    ) async throws(KitError) -> URL {
        let place = place(of: package)
        if holds(package) { return place }
        try Self.check(package, in: model)
        do {
            let fresh = try await compile(model.appending(path: package.path))
            // Beside its place first: what was moved only half is never found under its name.
            var beside = folder.appending(path: "\(UUID().uuidString).tmp", directoryHint: .isDirectory)
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            try FileManager.default.moveItem(at: fresh, to: beside)
            var values = URLResourceValues()
            values.isExcludedFromBackup = true
            try beside.setResourceValues(values)
            do { try FileManager.default.moveItem(at: beside, to: place) } catch {
                try? FileManager.default.removeItem(at: beside)
                // Another one was quicker, an app's extension perhaps: theirs is as good.
                if !holds(package) { throw error }
            }
            removeOthers(of: package)
            return place
        } catch { throw KitError(error) }
    }

    /// Forget a compiled model that can't be opened.
    func remove(_ package: Package) {
        try? FileManager.default.removeItem(at: place(of: package))
    }

    /// Compare size and SHA-256 of every file of a package with what the kit was made with.
    ///
    /// - Throws: `KitError.modelMissing` or `.modelDamaged`.
    static func check(_ package: Package, in model: URL) throws(KitError) {
        for file in package.files {
            let url = model.appending(path: file.path)
            guard let data = try? Data(contentsOf: url, options: .alwaysMapped) else {
                throw .modelMissing(path: url.path)
            }
            let digest = SHA256.hash(data: data).map { String(format: "%02x", $0) }.joined()
            guard data.count == file.bytes, digest == file.sha256 else { throw .modelDamaged(path: url.path) }
        }
    }

    /// Remove what was compiled of the same package on earlier systems.
    private func removeOthers(of package: Package) {
        let place = place(of: package)
        let found = try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        for other in found ?? [] where other.lastPathComponent != place.lastPathComponent {
            guard other.lastPathComponent.hasPrefix("\(package.key)-") else { continue }
            try? FileManager.default.removeItem(at: other)
        }
    }
}
