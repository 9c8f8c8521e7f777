package dev.cmexport.kit

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Test

/** The vectors that every implementation of `cmx1` must give; Gradle runs tests in the module's folder. */
class NoiseTest {
    private val vectors = JSONObject(
        File("src/main/assets").walk().first { it.name == "golden.json" }.readText(),
    ).getJSONObject("noise")

    @Test
    fun rounds() = each("philox") { vector ->
        assertArrayEquals(words(vector, "result"), Noise.philox(words(vector, "counter"), words(vector, "key")))
    }

    /** Also the only two words of all 2^32 that a fused multiplication and addition changes. */
    @Test
    fun singleWords() = each("words") { vector ->
        assertEquals(vector.getString("bits"), hex(Noise.normal(word(vector.getString("word")))))
    }

    @Test
    fun streams() = each("streams") { vector ->
        val seed = vector.getString("seed").toULong().toLong()
        val drawn = Noise.draw(seed, vector.getInt("stream"), vector.getInt("count"))
        val first = vector.getJSONArray("first").strings()
        assertEquals(first, drawn.take(first.size).map(::hex))
        assertEquals(vector.getString("sha256"), sha256(drawn))
    }

    @Test
    fun oneNumberDoesNotDependOnHowManyAreDrawn() {
        val many = Noise.draw(5, 1, 1001)
        assertArrayEquals(many.copyOf(997), Noise.draw(5, 1, 997), 0f)
    }

    private fun each(name: String, check: (JSONObject) -> Unit) {
        val listed = vectors.getJSONArray(name)
        check(listed.length() > 0)
        for (i in 0 until listed.length()) check(listed.getJSONObject(i))
    }

    private fun word(hex: String): Int = hex.toLong(16).toInt()

    private fun words(vector: JSONObject, name: String): IntArray =
        vector.getJSONArray(name).strings().map(::word).toIntArray()

    private fun JSONArray.strings(): List<String> = List(length()) { getString(it) }

    private fun hex(value: Float): String = "%08x".format(value.toRawBits())

    private fun sha256(values: FloatArray): String {
        val bytes = ByteBuffer.allocate(values.size * 4).order(ByteOrder.LITTLE_ENDIAN)
        values.forEach(bytes::putFloat)
        return MessageDigest.getInstance("SHA-256").digest(bytes.array()).joinToString("") { "%02x".format(it) }
    }
}
