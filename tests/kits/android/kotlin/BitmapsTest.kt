package dev.cmexport.kit

import android.graphics.Bitmap
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Test

/** Android's pictures, on a stand-in of its class. */
class BitmapsTest {
    private val picture = Picture(3, 2, 3, ByteArray(18) { (it * 14).toByte() })

    @Test
    fun pixelsAreOpaqueRedGreenBlue() {
        val bitmap = picture.toBitmap()
        assertEquals(listOf(3, 2), listOf(bitmap.width, bitmap.height))
        val pixels = IntArray(6).also { bitmap.getPixels(it, 0, 3, 0, 0, 3, 2) }
        assertEquals(0xFF000E1C.toInt(), pixels[0])
        assertEquals(0xFFD2E0EE.toInt(), pixels[5])
    }

    @Test
    fun thereAndBack() = assertArrayEquals(picture.bytes, picture.toBitmap().toPicture(3, 2, 3).bytes)

    @Test
    fun greyIsShownInThreeColours() {
        val grey = Picture(2, 1, 1, byteArrayOf(7, -1))
        assertArrayEquals(grey.bytes, grey.toBitmap().toPicture(2, 1, 1).bytes)
    }

    @Test
    fun bitmapsThatHideTheirPixelsAreCopied() {
        val hidden = picture.toBitmap().copy(Bitmap.Config.RGB_565, false)
        assertArrayEquals(picture.bytes, hidden.toPicture(3, 2, 3).bytes)
    }

    @Test
    fun whiteIsKept() {
        val mask = Bitmap.createBitmap(intArrayOf(-1, 0xFF000000.toInt()), 2, 1, Bitmap.Config.ARGB_8888).toMask(4, 4)
        assertEquals(List(16) { it % 4 < 2 }, List(16, mask::keeps))
    }
}
