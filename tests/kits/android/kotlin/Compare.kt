package dev.cmexport.kit

import dev.cmexport.kit.cm_cifar10.MODEL
import java.io.File
import kotlinx.coroutines.runBlocking

/** Draws the golden pictures and prints of each: its run, decibels, bytes off by one level, by more, kept ones off. */
fun main(arguments: Array<String>) = runBlocking {
    val (assets, storage) = arguments.map(::File)
    val painter = Painter(MODEL, FolderSource(assets), storage, Options())
    painter.open()
    for (golden in Golden.pictures { File(assets, "${MODEL.name}/golden/$it").readBytes() }) {
        val drawn = painter.paint(golden.run, golden.request)
        val levels = off(drawn.bytes, golden.expected.bytes)
        val keep = golden.request.keep
        val photo = golden.request.image
        val kept = if (keep == null || photo == null) 0 else {
            off(drawn.bytes, photo.bytes).filterIndexed { i, level -> level > 0 && keep.keeps(i / drawn.channels) }.size
        }
        val decibels = Pictures.psnr(drawn, golden.expected)
        println("${golden.run} $decibels ${levels.count { it == 1 }} ${levels.count { it > 1 }} $kept")
    }
    painter.close()
}

/** By how many levels each byte is off. */
private fun off(a: ByteArray, b: ByteArray): List<Int> =
    a.indices.map { Math.abs((a[it].toInt() and 0xFF) - (b[it].toInt() and 0xFF)) }
