package dev.cmexport.bench

import java.io.Closeable
import java.io.File
import java.io.FileOutputStream
import org.json.JSONArray
import org.json.JSONObject

/** Where result lines go: one JSON object a line, flushed at once, so that a run cut short is still worth something. */
class Lines(file: File) : Closeable {
    private val stream = FileOutputStream(file)

    /** Write a line. A null field becomes JSON's null; its reason belongs into [why]. */
    fun tell(kind: String, vararg fields: Pair<String, Any?>, why: Map<String, String> = emptyMap()) {
        val line = JSONObject().put("kind", kind)
        for ((name, value) in fields) line.put(name, json(value))
        if (why.isNotEmpty()) line.put("why", JSONObject(why))
        stream.write((line.toString() + "\n").toByteArray())
        stream.flush()
    }

    override fun close() = stream.close()

    private fun json(value: Any?): Any = when (value) {
        null -> JSONObject.NULL
        is Map<*, *> -> JSONObject().also { for ((name, item) in value) it.put(name.toString(), json(item)) }
        is Iterable<*> -> JSONArray().also { for (item in value) it.put(json(item)) }
        is LongArray -> JSONArray().also { for (item in value) it.put(item) }
        else -> value
    }
}
