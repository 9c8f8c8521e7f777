package dev.cmexport.ort

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** What every program of ours does with ONNX Runtime's Java interface; kits and the bench app share this file. */
object Ort {
    /** ONNX Runtime's type and the size in bytes, by numpy's name. */
    val TYPES: Map<String, Pair<OnnxJavaType, Int>> = mapOf(
        "float32" to (OnnxJavaType.FLOAT to 4),
        "float16" to (OnnxJavaType.FLOAT16 to 2),
        "uint8" to (OnnxJavaType.UINT8 to 1),
        "int32" to (OnnxJavaType.INT32 to 4),
        "int64" to (OnnxJavaType.INT64 to 8),
    )

    /**
     * Open a model by its path: read into an array it would lie on Android's small heap first.
     *
     * @param provider cpu, xnnpack or nnapi.
     * @param threads for one run; 0 leaves it to ONNX Runtime.
     * @throws IllegalArgumentException there is no such provider.
     * @throws ai.onnxruntime.OrtException the file is no model of this ONNX Runtime, or it lacks the provider.
     */
    fun open(path: String, provider: String, threads: Int): OrtSession =
        OrtSession.SessionOptions().use { options ->
            options.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.ALL_OPT)
            if (threads > 0) options.setIntraOpNumThreads(threads)
            val ownThreads = if (threads > 0) mapOf("intra_op_num_threads" to "$threads") else emptyMap()
            when (provider) {
                "cpu" -> Unit
                "xnnpack" -> options.addXnnpack(ownThreads)
                "nnapi" -> options.addNnapi()
                else -> throw IllegalArgumentException("unknown provider $provider; known: cpu, xnnpack, nnapi")
            }
            OrtEnvironment.getEnvironment().createSession(path, options)
        }

    /** A buffer that ONNX Runtime reads in place: direct, in the machine's order (Android's is little-endian). */
    fun buffer(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

    /** A tensor over all of a [buffer]; [dtype] is a key of [TYPES]. */
    fun tensor(buffer: ByteBuffer, shape: LongArray, dtype: String): OnnxTensor =
        OnnxTensor.createTensor(OrtEnvironment.getEnvironment(), buffer, shape, TYPES.getValue(dtype).first)
}
