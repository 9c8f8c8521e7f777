package dev.cmexport.kit

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

class PicturesTest {
    /** Half to even in float32, no number, and what lies outside. */
    @Test
    fun levels() {
        val planes = floatArrayOf(-1f, 1f, 0f, 1f / 127.5f * 0.5f, Float.NaN, -7f, 7f, Float.POSITIVE_INFINITY)
        val bytes = Pictures.fromPlanes(planes, 8, 1, 1).bytes.map { it.toInt() and 0xFF }
        assertEquals(listOf(0, 255, 128, 128, 0, 0, 255, 255), bytes)
    }

    @Test
    fun bytesSurviveTheWayThere() {
        val all = Picture(16, 8, 2, ByteArray(256) { it.toByte() })
        assertArrayEquals(all.bytes, Pictures.fromPlanes(Pictures.toPlanes(all), 16, 8, 2).bytes)
    }

    /** Colours of a pixel lie together in bytes and apart in planes; rows are as long as the picture is wide. */
    @Test
    fun order() {
        val planes = FloatArray(3 * 2 * 4) { it / 127.5f - 1f }
        val bytes = Pictures.fromPlanes(planes, 4, 2, 3).bytes
        assertEquals(listOf<Byte>(0, 8, 16, 1, 9, 17), bytes.take(6))
        assertEquals(listOf<Byte>(4, 12, 20), bytes.drop(12).take(3))
        assertArrayEquals(planes, Pictures.toPlanes(Picture(4, 2, 3, bytes)), 0f)
    }

    @Test
    fun keptPixelsAreThoseOfThePhoto() {
        val photo = Picture(2, 1, 3, byteArrayOf(1, 2, 3, 4, 5, 6))
        val drawn = Picture(2, 1, 3, byteArrayOf(7, 7, 7, 8, 8, 8))
        val mask = Mask(2, 1, byteArrayOf(-1, 127))
        assertArrayEquals(byteArrayOf(1, 2, 3, 8, 8, 8), Pictures.keeping(photo, mask, drawn).bytes)
        assertArrayEquals(floatArrayOf(1f, 0f), Pictures.toPlane(mask), 0f)
    }

    @Test
    fun decibels() {
        val black = Picture(1, 2, 1, byteArrayOf(0, 0))
        assertEquals(Double.POSITIVE_INFINITY, Pictures.psnr(black, black), 0.0)
        assertEquals(0.0, Pictures.psnr(Picture(1, 2, 1, byteArrayOf(-1, -1)), black), 1e-9)
        assertEquals(51.1411, Pictures.psnr(Picture(1, 2, 1, byteArrayOf(1, 0)), black), 1e-4)
    }

    @Test
    fun sizesAreChecked() {
        assertThrows(KitException.BadInput::class.java) { Picture(2, 2, 3, ByteArray(11)) }
        assertThrows(KitException.BadInput::class.java) { Mask(2, 2, ByteArray(5)) }
    }

    /** 6 x 2 to 1 x 1: the middle 2 x 2, each pixel a quarter. */
    @Test
    fun theMiddleIsFitted() {
        val rows = listOf(intArrayOf(9, 9, 0, 4, 9, 9), intArrayOf(9, 9, 8, 12, 9, 9))
        assertArrayEquals(byteArrayOf(0, 0, 6), fitted(rows, 1, 1))
        assertArrayEquals(byteArrayOf(0, 0, 9, 0, 0, 0, 0, 0, 4, 0, 0, 9), fitted(rows.take(1), 4, 1))
    }

    /** A side that does not divide: 3 pixels to 2 are thirds and sixths of them. */
    @Test
    fun shares() {
        val row = listOf(intArrayOf(0x300000, 0x600000, 0x900000))
        val three = List(3) { row[0] }
        val red = fitted(three, 2, 2).filterIndexed { i, _ -> i % 3 == 0 }.map { it.toInt() and 0xFF }
        assertEquals(listOf(0x40, 0x80, 0x40, 0x80), red)
    }

    private fun fitted(rows: List<IntArray>, width: Int, height: Int): ByteArray =
        Fitting(rows[0].size, rows.size, width, height)
            .rgb({ y, buffer -> rows[y].copyInto(buffer) }, IntArray(rows[0].size))
}
