package dev.cmexport.kit

/** Makes pixels of any size the model's: the largest middle part of its shape, each the mean of what it covers. */
internal class Fitting(width: Int, height: Int, private val toWidth: Int, private val toHeight: Int) {
    private val wide = width.toLong() * toHeight > height.toLong() * toWidth
    private val cropWidth = if (wide) height.toDouble() * toWidth / toHeight else width.toDouble()
    private val cropHeight = if (wide) height.toDouble() else width.toDouble() * toHeight / toWidth
    private val left = (width - cropWidth) / 2
    private val top = (height - cropHeight) / 2
    private val columns = spans(left, cropWidth / toWidth, toWidth, width)
    private val rows = spans(top, cropHeight / toHeight, toHeight, height)

    /**
     * Bytes of red, green and blue, from the top left.
     *
     * @param row fills an array with a row's pixels as 0xAARRGGBB; asked row by row, since a photograph as a whole
     *     would be another 50 MB.
     */
    fun rgb(row: (Int, IntArray) -> Unit, buffer: IntArray): ByteArray {
        val bytes = ByteArray(toWidth * toHeight * 3)
        val sums = DoubleArray(toWidth * 3)
        for (y in 0 until toHeight) {
            sums.fill(0.0)
            rows[y].each { source, share ->
                row(source, buffer)
                add(buffer, share, sums)
            }
            val area = rows[y].length
            for (i in sums.indices) {
                bytes[y * sums.size + i] = Math.rint(sums[i] / (area * columns[i / 3].length)).toInt().toByte()
            }
        }
        return bytes
    }

    private fun add(row: IntArray, share: Double, sums: DoubleArray) {
        for (x in 0 until toWidth) {
            columns[x].each { source, width ->
                val pixel = row[source]
                sums[x * 3] += share * width * (pixel shr 16 and 0xFF)
                sums[x * 3 + 1] += share * width * (pixel shr 8 and 0xFF)
                sums[x * 3 + 2] += share * width * (pixel and 0xFF)
            }
        }
    }

    /** What one pixel covers along one side: from [from] to [to], in pixels of the source. */
    private class Span(val from: Double, val to: Double) {
        val length: Double = to - from

        inline fun each(take: (Int, Double) -> Unit) {
            var source = from.toInt()
            while (source < to) {
                take(source, minOf(to, source + 1.0) - maxOf(from, source.toDouble()))
                source++
            }
        }
    }

    private fun spans(start: Double, step: Double, count: Int, size: Int): List<Span> =
        List(count) { Span(start + it * step, minOf(start + (it + 1) * step, size.toDouble())) }
}
