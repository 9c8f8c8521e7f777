package dev.cmexport.bench

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import android.util.Base64
import dev.cmexport.ort.Ort
import java.io.File
import java.io.IOException
import java.nio.ByteOrder
import kotlin.math.ceil
import kotlin.math.max
import kotlin.math.min

/** Works through one job in mode "alone" (bench_device/README.md) and tells what it measured. */
class Runner(
    private val folder: File,
    private val lines: Lines,
    private val phone: Phone,
    private val show: (String) -> Unit = {},
) {
    private var peakMb = 0.0

    /** Run the job. False when an `error` line was written. */
    fun run(): Boolean {
        try {
            work()
            return true
        } catch (failure: StageException) {
            lines.tell("error", "stage" to failure.stage, "message" to failure.message)
            show("error: ${failure.message}")
        }
        return false
    }

    private fun work() {
        val job = Job.read(folder)
        show(job.name)
        val before = look()
        val feeds = job.runs.map { feed(it, job) }
        val model = File(folder, job.model).path
        try {
            val (cold, coldMs) = open(model, job)
            meta(job)
            lines.tell("load", "ms" to coldMs, "cold" to true)
            cold.close()
            val (session, warmMs) = open(model, job)
            lines.tell("load", "ms" to warmMs, "cold" to false)
            session.use { measure(job, it, feeds) }
        } finally {
            feeds.forEach { feed -> feed.values.forEach(OnnxTensor::close) }
        }
        lines.tell(
            "memory",
            "before_mb" to before, "peak_mb" to peakMb, "after_mb" to look(),
            "method" to "proportional set size, looked at between rounds",
        )
        heat()
        lines.tell("done")
        show("done")
    }

    private fun measure(job: Job, session: OrtSession, feeds: List<Map<String, OnnxTensor>>) {
        val start = System.nanoTime()
        staged("first") { session.run(feeds[0]).close() }
        lines.tell("first", "ms" to milliseconds(start))
        for ((index, feed) in feeds.withIndex()) pictures(index, session, feed)
        look()
        heat()
        val canary = Canary()
        repeat(job.warmup) { staged("run") { session.run(feeds[0]).close() } }
        for (number in 0 until job.repeats) samples(number, job, session, feeds[0], canary)
        for (minute in 0 until ceil(job.sustainedMinutes).toInt()) {
            val sung = canary.sing()
            val times = timed(session, feeds[0], min(60.0, 60.0 * (job.sustainedMinutes - minute)))
            lines.tell(
                "minute",
                "minute" to minute, "ms" to times, "canary_ms" to sung + canary.sing(), "celsius" to null,
                why = mapOf("celsius" to NO_CELSIUS),
            )
            heat()
            show("minute ${minute + 1}")
        }
    }

    private fun samples(
        number: Int, job: Job, session: OrtSession, feed: Map<String, OnnxTensor>, canary: Canary,
    ) {
        // In rounds of some seconds: a run that is cut short has told what it had.
        val begin = System.nanoTime()
        var count = 0
        var round = 0
        while (count < job.minRuns || seconds(begin) < job.minSeconds) {
            val sung = canary.sing()
            val start = System.nanoTime()
            val times = timed(session, feed, min(2.0, max(job.minSeconds, 0.001)))
            val end = System.nanoTime()
            count += times.size
            lines.tell(
                "samples",
                "repeat" to number, "round" to round, "ms" to times, "canary_ms" to sung + canary.sing(),
                "start_s" to start / 1e9, "end_s" to end / 1e9,
            )
            look()
            show("$count runs")
            round++
        }
    }

    private fun timed(session: OrtSession, feed: Map<String, OnnxTensor>, lasting: Double): List<Double> {
        val times = ArrayList<Double>()
        val begin = System.nanoTime()
        do {
            val start = System.nanoTime()
            staged("run") { session.run(feed).close() }
            times.add(milliseconds(start))
        } while (seconds(begin) < lasting)
        return times
    }

    private fun pictures(index: Int, session: OrtSession, feed: Map<String, OnnxTensor>) {
        staged("run") { session.run(feed) }.use { outputs ->
            for ((name, value) in outputs) {
                val tensor = value as? OnnxTensor ?: throw StageException("run", "output $name is no tensor")
                val info = tensor.info as TensorInfo
                val buffer = tensor.byteBuffer.order(ByteOrder.LITTLE_ENDIAN)
                val bytes = ByteArray(buffer.remaining()).also(buffer::get)
                lines.tell(
                    "output",
                    "run" to index, "name" to name, "dtype" to numpyName(info.type), "shape" to info.shape,
                    "data" to Base64.encodeToString(bytes, Base64.NO_WRAP),
                )
            }
        }
    }

    private fun feed(run: Map<String, String>, job: Job): Map<String, OnnxTensor> = job.inputs.associate { spec ->
        val file = run[spec.name] ?: throw StageException("start", "a run has no input ${spec.name}")
        val bytes = try {
            File(folder, file).readBytes()
        } catch (error: IOException) {
            throw StageException("start", "$file can't be read: ${error.message}")
        }
        val (_, size) = Ort.TYPES[spec.dtype] ?: throw StageException("start", "no inputs of ${spec.dtype} here")
        if (bytes.size.toLong() != spec.count * size) {
            throw StageException("start", "$file holds ${bytes.size} bytes, not ${spec.count * size}")
        }
        val buffer = Ort.buffer(bytes.size).apply { put(bytes).rewind() }
        spec.name to staged("start") { Ort.tensor(buffer, spec.shape, spec.dtype) }
    }

    private fun open(model: String, job: Job): Pair<OrtSession, Double> {
        val provider = if (job.provider == "auto") "cpu" else job.provider
        val start = System.nanoTime()
        val session = try {
            staged("load") { Ort.open(model, provider, job.threads) }
        } catch (unknown: IllegalArgumentException) {
            throw StageException("load", unknown.message.orEmpty())
        }
        return session to milliseconds(start)
    }

    private fun meta(job: Job) {
        val why = phone.why() + mapOf(
            "placement" to "ONNX Runtime does not tell without a profile",
            "realized" to "ONNX Runtime's Java interface does not tell",
            "threads" to "ONNX Runtime's own choice",
        )
        lines.tell(
            "meta",
            "contract" to 1, "runner" to "android", "runner_version" to BuildConfig.VERSION_NAME,
            "runtime" to "onnxruntime", "runtime_version" to BuildConfig.ONNXRUNTIME,
            // Without another provider there is nothing but the CPU.
            "realized" to if (job.provider == "cpu" || job.provider == "auto") "CPUExecutionProvider" else null,
            "threads" to job.threads.takeIf { it > 0 }, "placement" to null, "fallback_ops" to emptyList<String>(),
            "tools" to mapOf("onnxruntime-android" to BuildConfig.ONNXRUNTIME), "device" to phone.describe(),
            why = why,
        )
    }

    private fun heat() {
        val status = phone.thermalStatus()
        lines.tell(
            "thermal",
            "t_s" to System.nanoTime() / 1e9, "celsius" to null, "status" to status,
            "throttled" to status?.let { it != "none" },
            why = mapOf("celsius" to NO_CELSIUS, "status" to "told from Android 10 on", "throttled" to "told from Android 10 on"),
        )
    }

    private fun look(): Double = phone.pssMb().also { peakMb = max(peakMb, it) }

    private fun <T> staged(stage: String, work: () -> T): T = try {
        work()
    } catch (error: OrtException) {
        throw StageException(stage, error.message ?: error.code.toString())
    }

    private fun numpyName(type: OnnxJavaType): String =
        Ort.TYPES.entries.firstOrNull { it.value.first == type }?.key ?: throw StageException("run", "an output of $type")

    private fun milliseconds(start: Long): Double = (System.nanoTime() - start) / 1e6

    private fun seconds(start: Long): Double = (System.nanoTime() - start) / 1e9

    private companion object {
        const val NO_CELSIUS = "Android tells apps a status, no temperature"
    }
}
