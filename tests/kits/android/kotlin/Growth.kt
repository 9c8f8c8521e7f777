package dev.cmexport.kit

import java.io.File

/** Runs a graph from x to y, both (1, 3, 256, 256), 300 times; prints how many MB the process grew in the last 200. */
fun main(arguments: Array<String>) {
    val shape = longArrayOf(1, 3, 256, 256)
    val graph = Graph(arguments[0], listOf(Border("x", *shape)), Border("y", *shape))
    val x = mapOf("x" to Tensor.Floats(FloatArray(3 * 256 * 256)))
    OrtEngine(File(arguments[0]), graph, Options()).use { engine ->
        repeat(100) { engine.run(x, Stop()) }
        val before = megabytes()
        repeat(200) { engine.run(x, Stop()) }
        println(megabytes() - before)
    }
}

private fun megabytes(): Double =
    File("/proc/self/status").readLines().first { it.startsWith("VmRSS") }.filter(Char::isDigit).toInt() / 1024.0
