package dev.cmexport.kit

import kotlin.math.log10

/** Bytes of a picture, row by row from the top left; [channels] is 3 (red, green, blue) or 1 (grey). */
class Picture(val width: Int, val height: Int, val channels: Int, val bytes: ByteArray) {
    init {
        val count = width * height * channels
        if (bytes.size != count) {
            throw KitException.BadInput("a picture of $width x $height x $channels has $count bytes, not ${bytes.size}")
        }
    }
}

/** One byte a pixel, row by row from the top left; 128 and more: keep this pixel. */
class Mask(val width: Int, val height: Int, val bytes: ByteArray) {
    init {
        if (bytes.size != width * height) {
            throw KitException.BadInput("a mask of $width x $height has ${width * height} bytes, not ${bytes.size}")
        }
    }

    internal fun keeps(pixel: Int): Boolean = bytes[pixel].toInt() and 0xFF >= 128
}

/** Between bytes and what graphs take and give. */
internal object Pictures {
    /** From (C, H, W) in [−1, 1]: rint((x + 1) · 127.5) in float32, half to even, NaN as 0. */
    fun fromPlanes(planes: FloatArray, width: Int, height: Int, channels: Int): Picture {
        val area = width * height
        val bytes = ByteArray(area * channels)
        for (pixel in 0 until area) {
            for (channel in 0 until channels) {
                val level = (planes[channel * area + pixel] + 1f) * 127.5f
                bytes[pixel * channels + channel] = Math.rint(level.toDouble()).toInt().coerceIn(0, 255).toByte()
            }
        }
        return Picture(width, height, channels, bytes)
    }

    /** To (C, H, W) in [−1, 1]: byte / 127.5 − 1 in float32. */
    fun toPlanes(picture: Picture): FloatArray {
        val area = picture.width * picture.height
        val planes = FloatArray(area * picture.channels)
        for (pixel in 0 until area) {
            for (channel in 0 until picture.channels) {
                val byte = picture.bytes[pixel * picture.channels + channel].toInt() and 0xFF
                planes[channel * area + pixel] = byte / 127.5f - 1f
            }
        }
        return planes
    }

    /** To (H, W): 1 = keep. */
    fun toPlane(mask: Mask): FloatArray = FloatArray(mask.bytes.size) { if (mask.keeps(it)) 1f else 0f }

    /** [drawn] with the kept pixels of [image] to the last byte: arithmetic in 16 bits rounds them otherwise. */
    fun keeping(image: Picture, mask: Mask, drawn: Picture): Picture {
        val bytes = drawn.bytes.copyOf()
        val channels = drawn.channels
        for (pixel in mask.bytes.indices) {
            if (!mask.keeps(pixel)) continue
            image.bytes.copyInto(bytes, pixel * channels, pixel * channels, (pixel + 1) * channels)
        }
        return Picture(drawn.width, drawn.height, channels, bytes)
    }

    /** One grey byte of each three: Rec. 601 luma, as Pillow rounds it. */
    fun grey(rgb: ByteArray): ByteArray = ByteArray(rgb.size / 3) {
        fun byte(channel: Int) = rgb[it * 3 + channel].toInt() and 0xFF
        ((byte(0) * 19595 + byte(1) * 38470 + byte(2) * 7471 + 0x8000) shr 16).toByte()
    }

    /** PSNR over bytes with peak 255, in dB; infinity where there is no difference. */
    fun psnr(picture: Picture, expected: Picture): Double {
        var squares = 0.0
        for (i in expected.bytes.indices) {
            val difference = (picture.bytes[i].toInt() and 0xFF) - (expected.bytes[i].toInt() and 0xFF)
            squares += (difference * difference).toDouble()
        }
        return 10 * log10(255.0 * 255.0 * expected.bytes.size / squares)
    }
}
