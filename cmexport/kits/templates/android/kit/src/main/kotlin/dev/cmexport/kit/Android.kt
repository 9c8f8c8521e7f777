package dev.cmexport.kit

import android.content.Context
import android.graphics.Bitmap

/** Between Android's classes and those that also run on a computer. */

/** Files among the app's assets. */
internal class AssetSource(context: Context) : Source {
    private val assets = context.applicationContext.assets

    override fun open(path: String) = assets.open(path)
}

/** A bitmap of the picture's size, opaque. */
fun Picture.toBitmap(): Bitmap {
    val pixels = IntArray(width * height) { pixel ->
        fun byte(channel: Int) = bytes[pixel * channels + minOf(channel, channels - 1)].toInt() and 0xFF
        (0xFF shl 24) or (byte(0) shl 16) or (byte(1) shl 8) or byte(2)
    }
    return Bitmap.createBitmap(pixels, width, height, Bitmap.Config.ARGB_8888)
}

/**
 * The middle of a bitmap in the model's shape and size; what is transparent counts as its colour.
 *
 * It has to be upright: apply the EXIF orientation of a photograph before.
 */
internal fun Bitmap.toPicture(width: Int, height: Int, channels: Int): Picture {
    // Other kinds, those in graphics memory too, hand out pixels only after a copy.
    val readable = if (config == Bitmap.Config.ARGB_8888) this else copy(Bitmap.Config.ARGB_8888, false)
    val rgb = Fitting(this.width, this.height, width, height).rgb(
        { y, row -> readable.getPixels(row, 0, this.width, 0, y, this.width, 1) },
        IntArray(this.width),
    )
    return Picture(width, height, channels, if (channels == 3) rgb else Pictures.grey(rgb))
}

/** A mask of the model's size from a black and white bitmap: white is kept. */
internal fun Bitmap.toMask(width: Int, height: Int): Mask = Mask(width, height, toPicture(width, height, 1).bytes)
