package dev.cmexport.kit

/** A file of the model, below its folder in the assets; [path] has slashes. */
internal class ModelFile(val path: String, val sha256: String, val bytes: Long, val role: String)

/** An input or output of a graph; [limits] are the least and the largest number that it takes. */
internal class Border(
    val name: String,
    private vararg val sides: Long,
    val limits: ClosedFloatingPointRange<Float>? = null,
) {
    /** A fresh copy, since ONNX Runtime takes arrays. */
    val shape: LongArray get() = sides.copyOf()

    /** How many numbers it holds. */
    val count: Int get() = sides.fold(1L) { product, side -> product * side }.toInt()
}

/** One ONNX file; inputs that earlier graphs of its run give come from there. */
internal class Graph(val file: String, val inputs: List<Border>, val output: Border)

/** One way to draw: its graphs in order. */
internal class Run(
    val name: String,
    val graphs: List<Graph>,
    val width: Int,
    val height: Int,
    val channels: Int,
    val leastDb: Double,
)

/** Ids of a tokenizer, whose files lie in [folder]. */
internal class Words(
    val folder: String,
    val begin: Int,
    val end: Int,
    val pad: Int,
    val unknown: Int,
    val length: Int,
)

/** What is known of a model: written by `cmexport kit`, the same as in kit.json. */
internal class Facts(val name: String, val files: List<ModelFile>, val runs: List<Run>, val words: Words?)

/** What a picture is asked for with; null where the run has no such input. */
internal class Request(
    val seed: Long,
    val label: Int? = null,
    val prompt: Int? = null,
    val text: String? = null,
    val guidance: Float? = null,
    val image: Picture? = null,
    val keep: Mask? = null,
)
