package dev.cmexport.kit

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import dev.cmexport.ort.Ort
import java.io.File
import java.nio.ByteBuffer

/** A graph in ONNX Runtime, opened by path. */
internal class OrtEngine(file: File, private val graph: Graph, options: Options) : Engine {
    private val session: OrtSession =
        told { Ort.open(file.path, options.provider.title, options.threads) }

    // Kept from run to run: direct memory is given back only when the garbage collector comes by.
    private val buffers = HashMap<String, ByteBuffer>()

    override fun run(inputs: Map<String, Tensor>, stop: Stop): Tensor {
        val feeds = HashMap<String, OnnxTensor>()
        try {
            return told {
                for (border in graph.inputs) feeds[border.name] = feed(border, inputs.getValue(border.name))
                OrtSession.RunOptions().use { run ->
                    stop.during({ run.setTerminate(true) }) { session.run(feeds, setOf(graph.output.name), run) }
                }.use { results -> read(results[0] as OnnxTensor) }
            }
        } catch (error: KitException.Runtime) {
            throw if (stop.requested) KitException.Cancelled() else error
        } finally {
            feeds.values.forEach(OnnxTensor::close)
        }
    }

    override fun close() = session.close()

    private fun feed(border: Border, tensor: Tensor): OnnxTensor {
        val (dtype, size) = when (tensor) {
            is Tensor.Floats -> "float32" to tensor.values.size
            is Tensor.Longs -> "int64" to tensor.values.size
            is Tensor.Bytes -> "uint8" to tensor.values.size
        }
        if (size != border.count) throw KitException.BadInput("${border.name} has $size numbers, not ${border.count}")
        val buffer = buffers.getOrPut(border.name) { Ort.buffer(size * Ort.TYPES.getValue(dtype).second) }
        buffer.clear()
        when (tensor) {
            is Tensor.Floats -> buffer.asFloatBuffer().put(tensor.values)
            is Tensor.Longs -> buffer.asLongBuffer().put(tensor.values)
            is Tensor.Bytes -> buffer.duplicate().put(tensor.values)
        }
        return Ort.tensor(buffer, border.shape, dtype)
    }

    private fun read(tensor: OnnxTensor): Tensor = when (val type = tensor.info.type) {
        Ort.TYPES.getValue("float32").first ->
            Tensor.Floats(tensor.floatBuffer.let { values -> FloatArray(values.remaining()).also(values::get) })
        Ort.TYPES.getValue("uint8").first ->
            Tensor.Bytes(tensor.byteBuffer.let { values -> ByteArray(values.remaining()).also(values::get) })
        else -> throw KitException.Runtime("${graph.file} gives $type, not float32 or uint8: it is not this kit's file")
    }

    private fun <T> told(work: () -> T): T = try {
        work()
    } catch (error: OrtException) {
        throw KitException.Runtime("ONNX Runtime, ${graph.file}: ${error.message}", error)
    }
}
