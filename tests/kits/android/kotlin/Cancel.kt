package dev.cmexport.kit

import dev.cmexport.kit.emoji.MODEL
import java.io.File
import kotlin.concurrent.thread

/** Runs the second model five times, asks to stop in the middle, and prints what came of it, and after how many ms. */
fun main(arguments: Array<String>) {
    val (assets, storage) = arguments.map(::File)
    val folder = ModelStore(FolderSource(assets), MODEL, storage).prepare(verify = false)
    val graph = MODEL.runs.first().graphs.first()
    val inputs = graph.inputs.associate { border ->
        val whole = border.name == "tokens"
        border.name to if (whole) Tensor.Longs(LongArray(border.count)) else Tensor.Floats(FloatArray(border.count))
    }
    OrtEngine(File(folder, graph.file), graph, Options()).use { engine ->
        engine.run(inputs, Stop())
        for (wait in listOf(20L, 60L, 100L, 140L, 180L)) {
            val stop = Stop()
            var result = ""
            val running = thread { result = runCatching { engine.run(inputs, stop) }.fold({ "picture" }, { "$it" }) }
            Thread.sleep(wait)
            val start = System.nanoTime()
            stop.request()
            running.join()
            println("$result ${(System.nanoTime() - start) / 1_000_000}")
        }
    }
}
