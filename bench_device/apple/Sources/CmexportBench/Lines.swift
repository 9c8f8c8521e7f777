import Foundation

/// Where result lines go: one JSON object a line, written at once, so that a run cut short is still worth something.
public final class Lines {
    private let handle: FileHandle

    /// Appends to `file`, which is made; nil writes to standard output.
    public init(file: URL?) throws {
        guard let file else {
            handle = .standardOutput
            return
        }
        FileManager.default.createFile(atPath: file.path, contents: nil)
        handle = try FileHandle(forWritingTo: file)
    }

    /// Write a line. A nil field becomes null; its reason belongs into `why`.
    public func tell(_ kind: String, _ fields: [String: Any?] = [:], why: [String: String] = [:]) throws {
        var object: [String: Any] = ["kind": kind]
        for (name, value) in fields { object[name] = value ?? NSNull() }
        if !why.isEmpty { object["why"] = why }
        var data = try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
        data.append(0x0A)
        try handle.write(contentsOf: data)
    }
}
