package dev.cmexport.bench

import java.io.File
import java.io.IOException
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** Something expected went wrong; [stage] is one of "start", "load", "first", "run". */
class StageException(val stage: String, message: String) : Exception(message.lineSequence().first().take(500))

/** A tensor at the border of the graph; [dtype] is numpy's name. */
data class Tensor(val name: String, val dtype: String, val shape: LongArray) {
    /** How many numbers it holds. */
    val count: Long get() = shape.fold(1L) { product, side -> product * side }
}

/** `job.json` of bench_device/README.md, as far as this runner needs it. */
data class Job(
    val name: String,
    val model: String,
    val provider: String,
    val threads: Int,
    val inputs: List<Tensor>,
    val runs: List<Map<String, String>>,
    val warmup: Int,
    val minRuns: Int,
    val minSeconds: Double,
    val repeats: Int,
    val sustainedMinutes: Double,
) {
    companion object {
        /** Read the job that lies in [folder]; throws [StageException] when it is missing, damaged or of another kind. */
        fun read(folder: File): Job {
            try {
                val json = JSONObject(File(folder, "job.json").readText())
                if (json.getInt("contract") != 1) {
                    throw StageException("start", "job.json has contract ${json.getInt("contract")}, this runner 1")
                }
                if (json.getString("target") != "onnx") {
                    throw StageException("start", "this runner runs onnx artefacts, not ${json.getString("target")}")
                }
                return Job(
                    name = json.getString("name"),
                    model = json.getString("model"),
                    provider = json.getString("provider"),
                    threads = json.getInt("threads"),
                    inputs = json.getJSONArray("inputs").objects().map(::tensor),
                    runs = json.getJSONArray("runs").objects().map { run ->
                        run.keys().asSequence().associateWith { run.getString(it) }
                    },
                    warmup = json.getInt("warmup"),
                    minRuns = json.getInt("min_runs"),
                    minSeconds = json.getDouble("min_seconds"),
                    repeats = json.getInt("repeats"),
                    sustainedMinutes = json.getDouble("sustained_minutes"),
                )
            } catch (error: JSONException) {
                throw StageException("start", "job.json: ${error.message}")
            } catch (error: IOException) {
                throw StageException("start", "job.json can't be read: ${error.message}")
            }
        }

        private fun tensor(json: JSONObject): Tensor {
            val shape = json.getJSONArray("shape")
            return Tensor(
                json.getString("name"),
                json.getString("dtype"),
                LongArray(shape.length()) { shape.getLong(it) },
            )
        }

        private fun JSONArray.objects(): List<JSONObject> = List(length()) { getJSONObject(it) }
    }
}
