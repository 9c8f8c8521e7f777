import CmexportBench
import Foundation

// cmexport-bench FOLDER [--result FILE]: works through FOLDER/job.json; lines go to standard output or FILE.
let arguments = Array(CommandLine.arguments.dropFirst())
guard let folder = arguments.first, arguments.count == 1 || (arguments.count == 3 && arguments[1] == "--result") else {
    FileHandle.standardError.write(Data("usage: cmexport-bench FOLDER [--result FILE]\n".utf8))
    exit(2)
}
do {
    let lines = try Lines(file: arguments.count == 3 ? URL(fileURLWithPath: arguments[2]) : nil)
    let fine = await Bench(folder: URL(fileURLWithPath: folder, isDirectory: true), lines: lines).run()
    exit(fine ? 0 : 1)
} catch {
    FileHandle.standardError.write(Data("error: \(error.localizedDescription)\n".utf8))
    exit(1)
}
