// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "CmexportBench",
    // MLComputePlan needs macOS 14.4 and iOS 17.4.
    platforms: [.macOS("14.4"), .iOS("17.4")],
    products: [
        // For an app on a phone or in a test bundle: the library alone.
        .library(name: "CmexportBench", targets: ["CmexportBench"]),
        .executable(name: "cmexport-bench", targets: ["cmexport-bench"]),
    ],
    targets: [
        .target(name: "CmexportBench"),
        .executableTarget(name: "cmexport-bench", dependencies: ["CmexportBench"]),
        .testTarget(name: "CmexportBenchTests", dependencies: ["CmexportBench"]),
    ]
)
