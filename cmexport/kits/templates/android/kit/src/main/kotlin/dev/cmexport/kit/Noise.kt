package dev.cmexport.kit

/**
 * Noise `cmx1`: the same bits for the same seed on every machine and in every language.
 *
 * Philox4x32-10 (Salmon et al. 2011) gives 32-bit words, and the inverse of the normal distribution (Wichura, AS 241,
 * 1988) makes one float of each, in float64 with nothing but + − × ÷ √. No value depends on those before it.
 */
object Noise {
    /** The first [count] values of stream [stream] of [seed], a picture's (C, H, W) in C order; stream 0 is `noise`. */
    fun draw(seed: Long, stream: Int, count: Int): FloatArray {
        val values = FloatArray(count)
        val key = intArrayOf(seed.toInt(), (seed ushr 32).toInt())
        for (start in 0 until count step WORDS) {
            val words = philox(intArrayOf(start / WORDS, 0, stream, 0), key)
            for (i in 0 until minOf(WORDS, count - start)) values[start + i] = normal(words[i])
        }
        return values
    }

    /** The standard normal value that belongs to a word: its middle's quantile, (2·word + 1) / 2^33. */
    fun normal(word: Int): Float {
        val n = (word.toLong() and LOW) * 2.0 + 1.0
        val q = n * TO_UNIT - 0.5
        if (Math.abs(q) <= 0.425) {
            val r = 0.180625 - q * q
            return (q * polynomial(MIDDLE_ABOVE, r) / polynomial(MIDDLE_BELOW, r)).toFloat()
        }
        val r = Math.sqrt(minusLog(if (q < 0) n else TWO_33 - n)) - 1.6
        val tail = polynomial(TAIL_ABOVE, r) / polynomial(TAIL_BELOW, r)
        return (if (q < 0) -tail else tail).toFloat()
    }

    /** Ten rounds of Philox4x32 over a counter of four words and a key of two. */
    internal fun philox(counter: IntArray, key: IntArray): IntArray {
        var (c0, c1, c2, c3) = LongArray(WORDS) { counter[it].toLong() and LOW }
        var k0 = key[0].toLong() and LOW
        var k1 = key[1].toLong() and LOW
        repeat(10) {
            // Unsigned products: `ushr` and the mask read both halves right although Long has a sign.
            val product0 = 0xD2511F53L * c0
            val product1 = 0xCD9E8D57L * c2
            c0 = (product1 ushr 32) xor c1 xor k0
            c1 = product1 and LOW
            c2 = (product0 ushr 32) xor c3 xor k1
            c3 = product0 and LOW
            k0 = (k0 + 0x9E3779B9L) and LOW
            k1 = (k1 + 0xBB67AE85L) and LOW
        }
        return intArrayOf(c0.toInt(), c1.toInt(), c2.toInt(), c3.toInt())
    }

    /** −ln(n / 2^33) of an odd whole number below 2^33: n = m·2^e with m near 1, then the series of artanh. */
    private fun minusLog(n: Double): Double {
        var mantissa = n
        var exponent = -33
        while (mantissa >= 1.0) {
            mantissa *= 0.5
            exponent++
        }
        if (mantissa < 0.70710678118654752) {
            mantissa *= 2.0
            exponent--
        }
        val s = (mantissa - 1.0) / (mantissa + 1.0)
        return -(exponent * 0.69314718055994530942 + s * polynomial(LOG_SERIES, s * s))
    }

    /** Horner's rule, the highest power's coefficient first. Never fused: two of all 2^32 words would change. */
    private fun polynomial(coefficients: DoubleArray, x: Double): Double {
        var sum = coefficients[0]
        for (i in 1 until coefficients.size) sum = sum * x + coefficients[i]
        return sum
    }

    private const val WORDS = 4
    private const val LOW = 0xFFFFFFFFL
    private const val TWO_33 = 8589934592.0
    private const val TO_UNIT = 1.0 / TWO_33

    private val MIDDLE_ABOVE = doubleArrayOf(
        2.5090809287301226727e+3, 3.3430575583588128105e+4, 6.7265770927008700853e+4, 4.5921953931549871457e+4,
        1.3731693765509461125e+4, 1.9715909503065514427e+3, 1.3314166789178437745e+2, 3.3871328727963666080e+0,
    )
    private val MIDDLE_BELOW = doubleArrayOf(
        5.2264952788528545610e+3, 2.8729085735721942674e+4, 3.9307895800092710610e+4, 2.1213794301586595867e+4,
        5.3941960214247511077e+3, 6.8718700749205790830e+2, 4.2313330701600911252e+1, 1.0,
    )
    private val TAIL_ABOVE = doubleArrayOf(
        7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e+0,
        3.64784832476320460504e+0, 5.76949722146069140550e+0, 4.63033784615654529590e+0, 1.42343711074968357734e+0,
    )
    private val TAIL_BELOW = doubleArrayOf(
        1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
        6.89767334985100004550e-1, 1.67638483018380384940e+0, 2.05319162663775882187e+0, 1.0,
    )
    private val LOG_SERIES = DoubleArray(12) { 2.0 / (23 - 2 * it) }
}
