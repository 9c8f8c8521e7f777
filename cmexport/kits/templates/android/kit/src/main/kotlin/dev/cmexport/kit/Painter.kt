package dev.cmexport.kit

import java.io.Closeable
import java.io.File

/** Draws a model's pictures: what a generator of any model does once its arguments are a [Request]. */
internal class Painter(
    private val facts: Facts,
    source: Source,
    storage: File,
    private val options: Options,
) : Closeable {
    private val worker = Worker(facts.name)
    private val store = ModelStore(source, facts, storage)
    private val engines = HashMap<Graph, Engine>()
    private lateinit var folder: File
    private var tokenizer: Tokenizer? = null

    /** Copy the model if need be and open the first run's graphs; others are opened when they are first drawn with. */
    suspend fun open() = worker.run { stop ->
        folder = store.prepare(options.verify)
        tokenizer = facts.words?.let { words -> Tokenizer.open(words, store::read) }
        facts.runs.first().graphs.forEach(::engine)
        if (stop.requested) throw KitException.Cancelled()
    }

    /** Draw one picture with the run of this name. */
    suspend fun paint(run: String, request: Request): Picture =
        worker.run { stop -> paint(facts.runs.first { it.name == run }, request, stop) }

    /** Draw the golden pictures and compare. */
    suspend fun selfTest(): SelfTest = worker.run { stop ->
        val pictures = Golden.pictures { store.read("${Golden.FOLDER}/$it") }
        var worst = Double.POSITIVE_INFINITY
        val start = System.nanoTime()
        for (picture in pictures) {
            val run = facts.runs.first { it.name == picture.run }
            val decibels = Pictures.psnr(paint(run, picture.request, stop), picture.expected)
            // Also when it is no number.
            if (!(decibels >= run.leastDb)) throw KitException.SelfTestFailed(decibels, run.leastDb)
            worst = minOf(worst, decibels)
        }
        SelfTest(worst, pictures.size, (System.nanoTime() - start) / 1e6)
    }

    /** Stop all pictures that are being drawn or wait. */
    fun cancel() = worker.stop()

    override fun close() = worker.close {
        engines.values.forEach(Engine::close)
        engines.clear()
    }

    private fun paint(run: Run, request: Request, stop: Stop): Picture {
        val tensors = HashMap<String, Tensor>()
        for (graph in run.graphs) {
            for (border in graph.inputs) tensors.getOrPut(border.name) { given(border, run, request) }
            tensors[graph.output.name] = engine(graph).run(tensors, stop)
        }
        val drawn = when (val output = tensors.getValue(run.graphs.last().output.name)) {
            is Tensor.Floats -> Pictures.fromPlanes(output.values, run.width, run.height, run.channels)
            is Tensor.Bytes -> Picture(run.width, run.height, run.channels, output.values)
            is Tensor.Longs -> error("Engine gives no whole numbers")
        }
        val (image, keep) = request.image to request.keep
        return if (image != null && keep != null) Pictures.keeping(image, keep, drawn) else drawn
    }

    private fun given(border: Border, run: Run, request: Request): Tensor = when (border.name) {
        "noise" -> Tensor.Floats(Noise.draw(request.seed, 0, border.count))
        "renoise" -> Tensor.Floats(renoise(border, request.seed))
        "label" -> Tensor.Longs(longArrayOf(needed(request.label, border).toLong()))
        "prompt" -> Tensor.Longs(longArrayOf(needed(request.prompt, border).toLong()))
        "tokens" -> Tensor.Longs(needed(tokenizer, border).encode(needed(request.text, border)))
        "guidance" -> Tensor.Floats(floatArrayOf(within(border, needed(request.guidance, border))))
        "image" -> Tensor.Floats(Pictures.toPlanes(fitting(needed(request.image, border), run)))
        "mask" -> Tensor.Floats(Pictures.toPlane(needed(request.keep, border)))
        else -> throw KitException.BadInput("this kit can't make the input ${border.name}")
    }

    /** (K − 1, 1, C, H, W): stream k for the k-th step after the first. */
    private fun renoise(border: Border, seed: Long): FloatArray {
        val steps = border.shape[0].toInt()
        val each = border.count / steps
        val values = FloatArray(border.count)
        for (step in 0 until steps) Noise.draw(seed, step + 1, each).copyInto(values, step * each)
        return values
    }

    private fun fitting(image: Picture, run: Run): Picture {
        val given = listOf(image.width, image.height, image.channels)
        val taken = listOf(run.width, run.height, run.channels)
        if (given != taken) {
            throw KitException.BadInput("the picture is ${given.joinToString(" x ")}, not ${taken.joinToString(" x ")}")
        }
        return image
    }

    private fun within(border: Border, value: Float): Float {
        val limits = border.limits ?: return value
        if (value in limits) return value
        throw KitException.BadInput("${border.name} is $value, not ${limits.start} to ${limits.endInclusive}")
    }

    private fun <T : Any> needed(value: T?, border: Border): T =
        value ?: throw KitException.BadInput("${border.name} is missing")

    private fun engine(graph: Graph): Engine =
        engines.getOrPut(graph) { OrtEngine(File(folder, graph.file), graph, options) }
}
