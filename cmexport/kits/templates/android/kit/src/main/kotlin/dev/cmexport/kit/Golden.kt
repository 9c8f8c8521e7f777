package dev.cmexport.kit

import org.json.JSONObject

/** A picture that the exported file drew when the kit was written. */
internal class GoldenPicture(val run: String, val request: Request, val expected: Picture)

/** Reads `golden/`. */
internal object Golden {
    const val FOLDER = "golden"

    /** All pictures, `read` giving a file's bytes by its name. */
    fun pictures(read: (String) -> ByteArray): List<GoldenPicture> {
        val listed = JSONObject(String(read("golden.json"), Charsets.UTF_8)).getJSONArray("pictures")
        return List(listed.length()) { picture(listed.getJSONObject(it), read) }
    }

    private fun picture(json: JSONObject, read: (String) -> ByteArray): GoldenPicture {
        val width = json.getInt("width")
        val height = json.getInt("height")
        val channels = json.getInt("channels")
        fun <T> given(name: String, get: (String) -> T): T? = if (json.isNull(name)) null else get(name)
        val request = Request(
            seed = json.getString("seed").toULong().toLong(),
            label = given("label", json::getInt),
            prompt = given("prompt", json::getInt),
            text = given("text", json::getString),
            guidance = given("guidance", json::getDouble)?.toFloat(),
            image = given("image") { Picture(width, height, channels, read(json.getString(it))) },
            keep = given("mask") { Mask(width, height, read(json.getString(it))) },
        )
        val expected = Picture(width, height, channels, read(json.getString("expected")))
        return GoldenPicture(json.getString("run"), request, expected)
    }
}
