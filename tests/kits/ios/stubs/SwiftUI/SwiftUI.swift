@_exported import CoreGraphics
import Foundation

// What a sample or a README uses of SwiftUI, with the signatures of Apple's documentation. Nothing is drawn.

@MainActor @preconcurrency
public protocol View {
    associatedtype Body: View
    @ViewBuilder var body: Body { get }
}

extension Never: View {
    public var body: Never { return fatalError() }
}

public protocol Leaf: View where Body == Never {}
extension Leaf { public var body: Never { return fatalError() } }

@resultBuilder
public enum ViewBuilder {
    public static func buildBlock<each Content: View>(_ content: repeat each Content) -> Anything { Anything() }
    public static func buildEither<First: View>(first: First) -> Anything { Anything() }
    public static func buildEither<Second: View>(second: Second) -> Anything { Anything() }
    public static func buildOptional<Content: View>(_ content: Content?) -> Anything { Anything() }
}

public struct Anything: Leaf {}

extension View {
    public func padding() -> some View { Anything() }
    public func font(_ font: Font?) -> some View { Anything() }
    public func disabled(_ disabled: Bool) -> some View { Anything() }
    public func aspectRatio(_ ratio: CGFloat?, contentMode: ContentMode) -> some View { Anything() }
    public func scaledToFit() -> some View { Anything() }
    public func task(priority: TaskPriority = .userInitiated, _ action: sending @escaping @isolated(any) () async -> Void)
        -> some View
    { Anything() }
}

public enum ContentMode: Sendable { case fit, fill }

public struct Font: Sendable {
    public static let footnote = Font()
}

public struct VStack: Leaf {
    public init<Content: View>(spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) {}
}

public struct HStack: Leaf {
    public init<Content: View>(spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) {}
}

public struct Text: Leaf {
    public init<S: StringProtocol>(_ content: S) {}
}

public struct TextField: Leaf {
    public init<S: StringProtocol>(_ title: S, text: Binding<String>) {}
}

public struct Button: Leaf {
    public init<S: StringProtocol>(_ title: S, action: @escaping @MainActor () -> Void) {}
}

public struct Image: Leaf {
    public enum Interpolation: Sendable { case none, low, medium, high }
    public init(decorative image: CGImage, scale: CGFloat) {}
    public func resizable() -> Image { self }
    public func interpolation(_ interpolation: Interpolation) -> Image { self }
}

public struct Rectangle: Leaf {
    public init() {}
    public func fill(_ style: HierarchicalShapeStyle) -> some View { self }
}

public struct HierarchicalShapeStyle: Sendable {
    public static let quaternary = HierarchicalShapeStyle()
}

@propertyWrapper
public struct State<Value> {
    private final class Box { var value: Value; init(_ value: Value) { self.value = value } }
    private let box: Box
    public init(wrappedValue: Value) { box = Box(wrappedValue) }
    public var wrappedValue: Value {
        get { box.value }
        nonmutating set { box.value = newValue }
    }
    public var projectedValue: Binding<Value> { Binding(get: { box.value }, set: { box.value = $0 }) }
}

extension State where Value: ExpressibleByNilLiteral {
    public init() { self.init(wrappedValue: nil) }
}

public struct Binding<Value> {
    let get: () -> Value
    let set: (Value) -> Void
}

@MainActor @preconcurrency
public protocol App {
    associatedtype Body: Scene
    var body: Body { get }
    init()
}

extension App { public static func main() {} }

@MainActor @preconcurrency
public protocol Scene {}

public struct WindowGroup: Scene {
    public init<Content: View>(@ViewBuilder content: () -> Content) {}
}
